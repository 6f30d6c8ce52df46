"""What is promised at the top, and what it costs to import."""

import subprocess
import sys

import maestro_service_registry as package
from maestro_service_registry import errors


def test_every_promised_name_is_there():
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(package.__all__) <= set(dir(package))


def test_every_error_is_exported_and_rooted():
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), package.RegistryError)
        assert name in package.__all__


def test_importing_loads_nothing():
    code = (
        "import sys, maestro_service_registry\n"
        "heavy = {'asyncio', 'sqlite3', 'redis', 'starlette', 'ssl', 'http.client', 'subprocess'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stdout == "[]\n"


def test_a_missing_extra_names_the_install_line():
    code = (
        "import sys\n"
        "sys.modules['redis'] = sys.modules['starlette'] = None\n"
        "from maestro_service_registry import open_store\n"
        "for load in (lambda: open_store('redis://x'),\n"
        "             lambda: __import__('maestro_service_registry._server')):\n"
        "    try: load()\n"
        "    except ImportError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    assert '"maestro-service-registry[redis]"' in done.stdout
    assert '"maestro-service-registry[server]"' in done.stdout
