"""Configuration from YAML."""

import yaml


class ConfigError(ValueError):
    pass


def load(path):
    try:
        with open(path, encoding="utf-8") as file:
            document = yaml.safe_load(file)
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a mapping is expected")
    return document
