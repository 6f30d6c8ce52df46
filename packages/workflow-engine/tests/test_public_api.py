"""What is promised: names, errors, a cheap import."""

import subprocess
import sys

import maestro_workflow_engine
import pytest
from maestro_workflow_engine import errors


def test_every_promised_name_is_there():
    for name in maestro_workflow_engine.__all__:
        assert getattr(maestro_workflow_engine, name) is not None
    assert set(maestro_workflow_engine.__all__) <= set(dir(maestro_workflow_engine))
    with pytest.raises(AttributeError, match="nothing"):
        _ = maestro_workflow_engine.nothing


def test_the_import_loads_nothing_heavy():
    code = (
        "import sys, maestro_workflow_engine as m\n"
        "heavy = {'asyncio', 'sqlite3', 'subprocess', 'multiprocessing', 'redis', 'rich',"
        " 'distributed', 'opentelemetry'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8",
        check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_all_errors_have_one_root_and_stand_in_the_tree():
    tree = errors.__doc__
    found = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    assert len(found) > 20
    for kind in found:
        assert issubclass(kind, errors.WorkflowError)
        assert kind.__name__ in tree


URL = "('redis://127.0.0.1:1/0', slots=1)"


@pytest.mark.parametrize("module", ["dask", "redis", "otel", "_yaml", "_progress"])
def test_a_missing_extra_names_its_install_line(module):
    needed = {
        "dask": "distributed", "redis": "redis", "otel": "opentelemetry",
        "_yaml": "maestro_yaml_config_parser", "_progress": "rich",
    }[module]  # fmt: skip
    code = (
        f"import sys; sys.modules[{needed!r}] = None\n"
        "try:\n"
        f"    import maestro_workflow_engine.{module} as m\n"
        f"    {'m.RedisExecutor' if module == 'redis' else 'm'}"
        f"{URL if module == 'redis' else ''}\n"
        "except ImportError as error:\n"
        "    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8",
        check=True,
    )  # fmt: skip
    assert 'pip install "maestro-workflow-engine[' in done.stdout
