"""Read personas and run files in YAML, with the extra `yaml`."""

from pathlib import Path
from typing import Any

from maestro_orchestration_core.errors import SettingsError


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the table in a YAML file; errors carry line and column."""
    try:
        from maestro_yaml_config_parser import load
        from maestro_yaml_config_parser.errors import ConfigError
    except ImportError as error:
        raise ImportError(
            'YAML files need pip install "maestro-orchestration-core[yaml]"'
        ) from error
    try:
        found = load(path, references="keep").to_dict()
    except ConfigError as error:
        raise SettingsError(str(error), source=str(path)) from error
    if not isinstance(found, dict):
        raise SettingsError("must hold one table", source=str(path))
    return found
