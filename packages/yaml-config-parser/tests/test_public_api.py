"""What the package promises at its top, and what importing it costs."""

import subprocess
import sys

import maestro_yaml_config_parser as package


def test_every_public_name_exists():
    """Lazy ones too."""
    for name in package.__all__:
        assert getattr(package, name).__module__.startswith(
            "maestro_yaml_config_parser"
        )
    assert dir(package) == sorted(package.__all__)


def test_an_unknown_name_is_an_attribute_error():
    """As in any module."""
    assert not hasattr(package, "Loader")


def test_importing_loads_no_extra_and_no_schema():
    """No asyncio, no jsonschema, no plan modules."""
    code = (
        "import sys, maestro_yaml_config_parser\n"
        "print([m for m in ('asyncio', 'jsonschema', 'sqlite3', 'argparse',"
        " 'maestro_yaml_config_parser._plan') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True, text=True, encoding="utf-8", check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_the_missing_extra_names_its_install_line():
    """ImportError with the line to type."""
    code = (
        "import sys; sys.modules['jsonschema'] = None\n"
        "from maestro_yaml_config_parser import loads\n"
        "try:\n    loads('a: 1').validate({})\n"
        "except ImportError as e:\n    print(e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True, text=True, encoding="utf-8", check=True,
    )  # fmt: skip
    assert 'pip install "maestro-yaml-config-parser[schema]"' in done.stdout
