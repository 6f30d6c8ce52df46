"""What the package promises at its top."""

import subprocess
import sys

import maestro_test_adapters
import pytest
from maestro_test_adapters import errors


def test_every_promised_name_is_there():
    for name in maestro_test_adapters.__all__:
        assert getattr(maestro_test_adapters, name) is not None
    assert sorted(maestro_test_adapters.__all__) == dir(maestro_test_adapters)
    with pytest.raises(AttributeError, match="nothing"):
        maestro_test_adapters.nothing


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False
    )


def test_import_loads_no_extra():
    code = (
        "import maestro_test_adapters, sys\n"
        "bad = {'selenium', 'playwright', 'pytest', 'asyncio', 'subprocess', 'json'} & set(sys.modules)\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("module", "name", "extra"),
    [
        ("selenium", "SeleniumAdapter", "selenium"),
        ("playwright", "PlaywrightAdapter", "playwright"),
        ("playwright", "AsyncPlaywrightAdapter", "playwright"),
    ],
)
def test_a_missing_extra_gives_the_install_line(module, name, extra):
    done = python(
        f"import sys; sys.modules[{module!r}] = None\n"
        f"from maestro_test_adapters import *\nprint('imported')\n"
        + (f"{name}()" if not name.startswith("Async") else f"{name}.start()")
    )
    assert done.stdout == "imported\n"
    assert done.returncode == 1
    assert "ImportError" in done.stderr
    assert f'pip install "maestro-test-adapters[{extra}]"' in done.stderr


def test_all_errors_have_one_root():
    kinds = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and value.__module__ == errors.__name__
    ]
    assert all(issubclass(kind, errors.TestAdaptersError) for kind in kinds)
    for kind in kinds:
        assert kind.__name__ in errors.__doc__
