"""What the integration guide says beside its Python blocks, which run by themselves."""

import asyncio
import logging
import re
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
import yaml
from maestro_migrate.apply import edited
from maestro_migrate.find import find
from maestro_migrate.mapping import load_mapping

ROOT = Path(__file__).resolve().parent.parent.parent
GUIDE = (ROOT / "INTEGRATION_GUIDE.md").read_text("utf-8")


def table(heading: str) -> list[list[str]]:
    """Return the rows of the first table below a heading, without its two heads."""
    part = GUIDE.split(f"\n{heading}\n", 1)[1]
    lines = part[part.index("\n|") :].lstrip().split("\n\n", 1)[0].splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]
    ]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_install_matrix_is_what_the_packages_say():
    rows = {code(row[0])[0]: row[1:] for row in table("## What to install")}
    found = {}
    for path in ROOT.glob("packages/*/pyproject.toml"):
        project = tomllib.loads(path.read_text("utf-8"))["project"]
        extras = project.get("optional-dependencies", {})
        found[project["name"]] = (sorted(extras), project["dependencies"])
    assert sorted(rows) == sorted(found)
    for name, (extras, needs) in found.items():
        assert sorted(code(rows[name][0])) == extras, name
        words = [re.split(r"[><=]", need)[0] for need in needs]
        assert rows[name][1].lower() == (", ".join(words) or "nothing"), name


def test_every_package_has_a_section_and_a_link_to_its_readme():
    for path in ROOT.glob("packages/*/pyproject.toml"):
        name = path.parent.name
        assert f"### maestro-{name}\n" in GUIDE
        assert f"(packages/{name}/README.md)" in GUIDE


def test_the_moves_of_the_guide_are_what_the_tool_does():
    mapping = load_mapping()
    rows = table("## Move over from copies in your repository")
    assert len(rows) >= 8
    for before, after in rows:
        text, wanted = code(before)[0], code(after)[0]
        if text.startswith("@"):
            text, wanted = (f"{line}\ndef test(mocked): ..." for line in (text, wanted))
        findings = find(f"{text}\n", "services.quality.app", mapping)
        assert edited(f"{text}\n", findings.edits, findings.tree) == f"{wanted}\n"


def test_the_commands_of_the_guide_exist():
    named = set(re.findall(r"`(maestro-[a-z]+) ([a-z]+)", GUIDE))
    assert len(named) >= 6
    for program, command in sorted(named):
        path = Path(sys.executable).parent / program
        done = subprocess.run(
            [path, command, "--help"],
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == 0, (program, command, done.stderr)


def test_the_configuration_files_of_the_guide_can_be_read():
    found = re.findall(r"```(toml|yaml)\n(.*?)```", GUIDE, re.DOTALL)
    assert {kind for kind, _ in found} == {"toml", "yaml"}
    for kind, text in found:
        data = tomllib.loads(text) if kind == "toml" else yaml.safe_load(text)
        assert isinstance(data, dict)


def needs_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "maestro_resilience.redis", raising=False)
    import maestro_resilience.redis  # noqa: F401


def open_circuit(tmp_path, monkeypatch):
    from maestro_resilience import CircuitBreaker

    billing = CircuitBreaker("billing", minimum_calls=1)
    with pytest.raises(ZeroDivisionError):
        billing.call(lambda: 1 / 0)
    billing.call(print)


def isolated_circuit(tmp_path, monkeypatch):
    from maestro_resilience import CircuitBreaker

    billing = CircuitBreaker("billing")
    billing.isolate("maintenance")
    billing.call(print)


def timeout_block(tmp_path, monkeypatch):
    from maestro_resilience import Timeout

    with Timeout(1).guard():
        pass


def no_actor(tmp_path, monkeypatch):
    from maestro_audit_logger import AuditLogger

    audit = AuditLogger(tmp_path / "audit", origin="x.example/audit")
    try:
        audit.record("invoice.approve")
    finally:
        audit.close()


def no_log(tmp_path, monkeypatch):
    from maestro_audit_logger import AuditLogger

    AuditLogger(tmp_path / "audit")


def wrong_origin(tmp_path, monkeypatch):
    from maestro_audit_logger import AuditLogger

    AuditLogger(tmp_path / "audit", origin="x.example/audit").close()
    AuditLogger(tmp_path / "audit", origin="y.example/audit")


def no_checkpoint(tmp_path, monkeypatch):
    path = Path(sys.executable).with_name("maestro-audit")
    from maestro_audit_logger import Actor, AuditLogger

    audit = AuditLogger(
        tmp_path / "audit", origin="x.example/audit", actor=Actor.service("x")
    )
    try:
        audit.record("invoice.approve")
        done = subprocess.run(
            [path, "prove", tmp_path / "audit", "1"],
            capture_output=True, encoding="utf-8", check=False,
        )  # fmt: skip
    finally:
        audit.close()
    raise RuntimeError(done.stderr)


def no_baseline(tmp_path, monkeypatch):
    from maestro_test_result_aggregator import TestResultAggregator

    (tmp_path / "r.tap").write_text("1..1\nnot ok 1 - pay\n", encoding="utf-8")
    with TestResultAggregator() as results:
        run = results.ingest(tmp_path / "r.tap", branch="pr-1")
        verdict = results.gate({"max_new_failures": 0}).check(run)
    raise RuntimeError(" ".join(verdict.notes))


def store_away(tmp_path, monkeypatch):
    from maestro_resilience import CircuitBreaker
    from maestro_resilience.redis import RedisBreakerStore

    said, heard = [], threading.Event()

    class Hear(logging.Handler):
        def emit(self, record):
            said.append(record.getMessage())
            heard.set()

    handler = Hear()
    logger = logging.getLogger("maestro_resilience")
    logger.addHandler(handler)
    try:
        store = RedisBreakerStore("redis://127.0.0.1:1")
        CircuitBreaker("away", store=store).call(print)
        assert heard.wait(20)
    finally:
        logger.removeHandler(handler)
    raise RuntimeError(said[0])


def misspelt_option(tmp_path, monkeypatch):
    from maestro_workflow_engine import step

    step(retires=3)(print)


def nobody_registered(tmp_path, monkeypatch):
    from maestro_service_registry import ServiceRegistry

    with ServiceRegistry.open() as registry:
        registry.service("billing").pick()


def unhealthy(tmp_path, monkeypatch):
    from maestro_service_registry import Call, ServiceRegistry

    with ServiceRegistry.open() as registry:
        check = Call(function=lambda: False, fails=1, initial="critical")
        registry.register("shop", port=1, checks=[check])
        registry.service("shop").pick()


def bad_url(tmp_path, monkeypatch):
    from maestro_service_registry import ServiceRegistry

    ServiceRegistry.open("sqlite//registry.db")


def run_again(tmp_path, monkeypatch):
    from maestro_workflow_engine import Workflow, WorkflowEngine

    flow = Workflow("flow")
    flow.add(len, [])
    with WorkflowEngine("inline", journal=tmp_path / "runs.db") as engine:
        engine.run(flow, run_id="r-1").check()
        engine.resume("r-1", flow)


def no_json(tmp_path, monkeypatch):
    from maestro_workflow_engine import Workflow, WorkflowEngine

    flow = Workflow("flow")
    flow.add(object)
    with WorkflowEngine("inline", journal=tmp_path / "runs.db") as engine:
        engine.run(flow).check()


def no_journal(tmp_path, monkeypatch):
    from maestro_workflow_engine import WorkflowEngine

    with WorkflowEngine("inline") as engine:
        engine.resume("r-1")


def twice(tmp_path, monkeypatch):
    from maestro_yaml_config_parser import loads

    loads("a: 1\na: 2\n")


def misspelt(tmp_path, monkeypatch):
    from maestro_yaml_config_parser import TestPlan, loads

    loads("name: x\nsuits: []\n").into(TestPlan)


def nobody_can(tmp_path, monkeypatch):
    from maestro_orchestration_core import Agent, Orchestrator, Persona, Plan, Task

    agent = Agent(Persona(name="writer"), lambda turn: "")
    asyncio.run(Orchestrator([agent]).run(Plan([Task("t", needs={"python"})])))


def no_path(tmp_path, monkeypatch):
    from maestro_test_adapters import PytestAdapter

    PytestAdapter(["none"], cwd=tmp_path).run()


def no_rule(tmp_path, monkeypatch):
    from maestro_test_result_aggregator import TestResultAggregator

    with TestResultAggregator() as results:
        results.gate({"max_failure": 0})


CASES = {
    'needs ...: pip install "maestro-...[...]"': needs_an_extra,
    "circuit 'billing' is open": open_circuit,
    "circuit 'billing' is isolated": isolated_circuit,
    "a block cannot move to a thread": timeout_block,
    "expected an actor, got none": no_actor,
    "no audit log in ...: log.json is missing": no_log,
    "origin: expected ...": wrong_origin,
    "there is no checkpoint yet": no_checkpoint,
    "no earlier run of branch ...": no_baseline,
    "counts alone: its store does not answer": store_away,
    "has no option": misspelt_option,
    "no instance of 'billing': none is registered": nobody_registered,
    "no instance of 'shop': 1 not healthy": unhealthy,
    "expected memory://, sqlite:///file.db": bad_url,
    "has succeeded; nothing is left to do": run_again,
    "that the journal cannot keep": no_json,
    "this engine has no journal": no_journal,
    "duplicate key": twice,
    "did you mean": misspelt,
    "no agent can take task": nobody_can,
    "pytest could not start, exit code 4": no_path,
    "no such rule": no_rule,
}


def test_every_message_of_the_guide_has_a_case():
    assert {code(row[0])[0] for row in table("### Running")} == set(CASES)


@pytest.mark.parametrize("message", CASES)
def test_a_message_of_the_guide_is_what_the_package_says(
    message, tmp_path, monkeypatch
):
    with pytest.raises(Exception) as caught:
        CASES[message](tmp_path, monkeypatch)
    parts = map(re.escape, message.split("..."))
    assert re.search(".*?".join(parts), str(caught.value)), str(caught.value)
