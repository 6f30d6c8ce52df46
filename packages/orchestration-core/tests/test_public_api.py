"""What the package promises at its top."""

import subprocess
import sys

import maestro_orchestration_core as package


def test_every_public_name_loads_and_is_documented():
    """Each name of __all__ is there."""
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert {"Orchestrator", "Persona", "PersonaRegistry"} <= set(package.__all__)


def test_importing_costs_nothing():
    """Neither asyncio nor sqlite3 is loaded by the import."""
    code = (
        "import sys, maestro_orchestration_core; "
        "print({'asyncio', 'sqlite3', 'http.client'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout.strip() == "set()"
