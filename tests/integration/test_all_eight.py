"""All eight packages in one process: they leave each other and the host alone."""

import importlib.metadata
import importlib.util
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
MODULES = sorted(folder.name for folder in ROOT.glob("packages/*/maestro_*"))
PRESENT = [name for name in MODULES if importlib.util.find_spec(name)]
PAIRS = 7


def in_process(code: str) -> dict[str, object]:
    """Run code in a process of its own and return the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        capture_output=True, encoding="utf-8", check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


LOOK = """
import json, logging, os, signal, sys, threading, warnings

def look():
    return {
        "signals": {s.name: str(signal.getsignal(s)) for s in signal.Signals},
        "threads": sorted(t.name for t in threading.enumerate()),
        "handlers": {n: len(logging.getLogger(n).handlers) for n in
                     ["", *logging.root.manager.loggerDict]},
        "levels": {n: logging.getLogger(n).level for n in
                   ["", *logging.root.manager.loggerDict]},
        "filters": len(warnings.filters),
        "environment": dict(os.environ),
        "hooks": [str(sys.excepthook), str(threading.excepthook), str(sys.displayhook)],
        "files": sorted(os.listdir("/proc/self/fd")) if os.path.exists("/proc") else [],
        "recursion": sys.getrecursionlimit(),
        "path": list(sys.path),
    }
"""


def test_there_are_eight():
    assert len(MODULES) == 8
    missing = sorted(set(MODULES) - set(PRESENT))
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)}")


def test_importing_all_of_them_changes_nothing_in_the_process():
    code = f"""{LOOK}
before = look()
import importlib
for name in {PRESENT!r}:
    importlib.import_module(name)
after = look()
mine = [n for n in logging.root.manager.loggerDict if n.startswith("maestro")]
print(json.dumps({{"before": before, "after": after, "mine": mine,
                   "loaded": sorted(sys.modules)}}))
"""
    found = in_process(code)
    before, after = found["before"], found["after"]
    for what in ("handlers", "levels"):
        assert after[what].items() >= before[what].items()
    # Loggers of ours stand under their package's name, without handlers of their own.
    assert all(after["handlers"][name] == 0 for name in found["mine"])
    assert {name.partition(".")[0] for name in found["mine"]} <= set(MODULES)
    for what in before.keys() - {"handlers", "levels"}:
        assert after[what] == before[what], what
    heavy = {"asyncio", "sqlite3", "yaml", "tenacity", "redis", "selenium", "playwright",
             "pandas", "numpy", "pytest", "dask", "opentelemetry", "rich"}  # fmt: skip
    needed = {"yaml"}  # the core dependency of the parser
    assert not (heavy - needed) & set(found["loaded"])


def test_every_public_name_of_all_loads_in_one_process():
    """Names that need an extra say which; everything else is there."""
    code = f"""
import importlib, json
missing, count = {{}}, 0
for name in {PRESENT!r}:
    module = importlib.import_module(name)
    for public in getattr(module, "__all__", ()):
        count += 1
        try:
            getattr(module, public)
        except ImportError as error:
            missing[f"{{name}}.{{public}}"] = str(error)
print(json.dumps({{"missing": missing, "count": count}}))
"""
    found = in_process(code)
    assert found["count"] > 30 * len(PRESENT[:4])
    assert all('pip install "maestro-' in text for text in found["missing"].values())


WORK = """
import asyncio, json, logging, os, signal, sys, tempfile, threading
os.chdir(tempfile.mkdtemp())
told = []
def mine(number, frame):
    told.append(number)
signal.signal(signal.SIGTERM, mine)
signal.signal(signal.SIGINT, mine)

from maestro_audit_logger import Actor, AuditLogger
from maestro_orchestration_core import Agent, Orchestrator, Persona, Plan, Task
from maestro_resilience import CircuitBreaker, Retry, Timeout, Pipeline
from maestro_service_registry import ServiceRegistry
from maestro_workflow_engine import WorkflowEngine, step, workflow
from maestro_yaml_config_parser import loads

settings = loads("name: Ada\\n")
audit = AuditLogger("audit", origin="x.example/audit", actor=Actor.system("test"))
guarded = Pipeline(Retry(attempts=2, wait=0.01), CircuitBreaker("b"), Timeout(5))

@guarded
def greet(name):
    audit.record("greet", data={"name": name})
    return f"Dear {name}"

@step
def one(name):
    return greet(name)

@step
async def two(text):
    await asyncio.sleep(0)
    return text + "!"

@workflow
def hello(name: str = ""):
    two(one(name))

def persona(turn):
    with WorkflowEngine("threads:2", journal="runs.db") as engine:
        return engine.run(hello, name=str(settings["name"])).check()["two"]

async def main():
    loop = asyncio.get_running_loop()
    with ServiceRegistry.open("sqlite:///registry.db") as registry:
        with registry.register("x", port=1):
            assert registry.service("x").pick().port == 1
            maestro = Orchestrator([Agent(Persona(name="p"), persona)], journal="o.db")
            report = await maestro.run(Plan([Task("t", "hello", agent="p")]))
    assert asyncio.get_running_loop() is loop
    return report

report = asyncio.run(main())
assert report.ok, report.why()
text = report.tasks["t"].reply.text
os.kill(os.getpid(), signal.SIGTERM)
handlers = [signal.getsignal(s) is mine for s in (signal.SIGTERM, signal.SIGINT)]
ok = audit.verify().ok
audit.close()
left = [t.name for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]
print(json.dumps({"text": text, "told": told, "handlers": handlers, "audit": ok,
                  "left": left, "root": len(logging.getLogger().handlers)}))
"""


def test_they_work_together_in_one_process():
    """An orchestrated workflow with retries and audit, inside one event loop.

    The host's signal handlers stay, its loop stays, no thread is left that would
    keep the process alive, and nobody configures logging.
    """
    needed = {"maestro_orchestration_core", "maestro_workflow_engine"}
    if not needed <= set(PRESENT):
        pytest.skip(f"needs {', '.join(sorted(needed))}")
    found = in_process(WORK)
    assert found["text"] == "Dear Ada!"
    assert found["told"] == [15]
    assert found["handlers"] == [True, True]
    assert found["audit"] is True
    assert found["left"] == []
    assert found["root"] == 0


def test_importing_all_costs_no_more_than_a_few_asyncios():
    """Ratio of medians over interleaved runs; the bound is loose on purpose.

    The parser brings PyYAML along, which is most of it.
    """

    def cost(code: str) -> float:
        timed = f"import time; b = time.perf_counter()\n{code}\nprint(time.perf_counter() - b)"
        return float(str(in_process(timed)))

    ours, asyncio = [], []
    everything = "; ".join(f"import {name}" for name in PRESENT)
    for _ in range(PAIRS):
        asyncio.append(cost("import asyncio"))
        ours.append(cost(everything))
    ratio = statistics.median(ours) / statistics.median(asyncio)
    print(f"import of {len(PRESENT)}: {ratio:.2f} x asyncio")
    assert ratio < 2


def test_their_versions_and_dependencies_do_not_clash():
    """Each package's core requirements are met by what is installed for the others."""
    from packaging.requirements import Requirement

    for module in PRESENT:
        name = module.replace("_", "-")
        for text in importlib.metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
                continue
            installed = importlib.metadata.version(requirement.name)
            assert requirement.specifier.contains(installed), (name, text, installed)


def test_their_commands_have_names_of_their_own():
    owners: dict[str, str] = {}
    for point in importlib.metadata.entry_points(group="console_scripts"):
        if point.value.startswith(tuple(MODULES)):
            owner = point.value.partition(".")[0]
            assert owners.setdefault(point.name, owner) == owner
            assert point.name.startswith("maestro-")
    assert len(owners) >= 7
