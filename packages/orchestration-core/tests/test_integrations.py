"""Adapters to other packages, each against the real package."""

import asyncio
import importlib
import io
import sys

import pytest
from maestro_orchestration_core import (
    Agent,
    Gate,
    Journal,
    JournalLeases,
    Orchestrator,
    Persona,
    PersonaRegistry,
    Plan,
    Retry,
    Task,
    errors,
)
from maestro_orchestration_core.testing import CallPolicyChecks, LeaseStoreChecks

from .conftest import agent

EXTRAS = {
    "audit": "maestro_audit_logger",
    "resilience": "maestro_resilience",
    "registry": "maestro_service_registry",
    "workflow": "maestro_workflow_engine",
    "results": "maestro_test_result_aggregator",
    "mcp": "mcp",
    "otel": "opentelemetry",
    "progress": "rich.console",
}


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_missing_extra_says_how_to_install_it(extra, monkeypatch):
    """The install line is in the ImportError."""
    name = f"maestro_orchestration_core.integrations.{extra}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, EXTRAS[extra], None)
    with pytest.raises(ImportError) as caught:
        importlib.import_module(name)
    line = f'pip install "maestro-orchestration-core[{extra}]"'
    assert line in str(caught.value)


def test_a_missing_yaml_reader_says_how_to_install_it(tmp_path, monkeypatch):
    """Also from the loader of personas."""
    (tmp_path / "p.yaml").write_text("name: a\n", encoding="utf-8")
    monkeypatch.setitem(sys.modules, "maestro_yaml_config_parser", None)
    with pytest.raises(ImportError, match=r"maestro-orchestration-core\[yaml\]"):
        PersonaRegistry.load(tmp_path)


def test_personas_in_yaml(tmp_path):
    """Inheritance works across formats; an error names file and line."""
    pytest.importorskip("maestro_yaml_config_parser")
    (tmp_path / "base.toml").write_text(
        "name = 'base'\ntools = ['read']\n", encoding="utf-8"
    )
    (tmp_path / "coder.yaml").write_text(
        "name: coder\nextends: [base]\ncapabilities: {python: 3}\ntools: [edit]\n",
        encoding="utf-8",
    )
    personas = PersonaRegistry.load(tmp_path)
    assert personas["coder"].tools == ("read", "edit")
    assert personas["coder"].capabilities == {"python": 3}
    (tmp_path / "bad.yaml").write_text("name: bad\nname: twice\n", encoding="utf-8")
    with pytest.raises(errors.SettingsError, match=r"bad\.yaml"):
        PersonaRegistry.load(tmp_path)
    (tmp_path / "bad.yaml").write_text("- a list\n", encoding="utf-8")
    with pytest.raises(errors.SettingsError, match="table"):
        PersonaRegistry.load(tmp_path)


# Leases: one contract, two stores.


class TestJournalLeases(LeaseStoreChecks):
    """The store in the journal's file."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        with Journal(tmp_path / "j.db") as self.journal:
            yield

    def make(self):
        """Return a store in an empty journal."""
        return JournalLeases(self.journal)


class TestRegistryLeases(LeaseStoreChecks):
    """The store in a service registry."""

    @pytest.fixture(autouse=True)
    def _registry(self, tmp_path):
        registry = pytest.importorskip("maestro_service_registry")
        url = f"sqlite:///{tmp_path}/registry.db"
        with registry.ServiceRegistry.open(url) as self.registry:
            yield

    def make(self):
        """Return a store in an empty registry."""
        from maestro_orchestration_core.integrations.registry import RegistryLeases

        return RegistryLeases(self.registry)

    def test_a_freeze_refuses(self):
        """A freeze window of the registry holds for leases, with its reason."""
        now = self.registry.store.now()
        self.registry.freeze("lease-*", now - 5, now + 60, reason="release week")
        with pytest.raises(errors.LeaseError, match="release week"):
            self.make().take("src/**", "a", ttl=60)

    def test_a_run_waits_for_the_lease_of_another(self):
        """`touches` are leased in the registry and let go at the end."""
        store = self.make()
        store.take("src/api/**", "somebody", ttl=60)

        async def main():
            maestro = Orchestrator([agent()], leases=store)
            async with maestro.start(Plan([Task("a", touches=["src/**"])])) as run:
                async for event in run.events({"lease.denied"}):
                    assert "somebody" in event.data["holder"]
                    break
                store.release("src/api/**", "somebody")
                return await run.result()

        assert asyncio.run(main()).ok
        assert not self.registry.claims.active()


# What surrounds a model call: one contract, two policies.


class TestRetry(CallPolicyChecks):
    """The package's own retry, on a clock that its sleeps move."""

    def make(self):
        """Return a retry bounded by time that passes in its sleeps only."""
        now = [0.0]

        async def sleep(seconds):
            now[0] += seconds

        return Retry(clock=lambda: now[0], sleep=sleep, rng=lambda: 0.5)


class TestPolicies(CallPolicyChecks):
    """A pipeline of maestro-resilience."""

    @pytest.fixture(autouse=True)
    def _installed(self):
        # Not in `make`: what a check catches there may be the skip itself.
        pytest.importorskip("maestro_resilience")

    def make(self):
        """Return a retry around a generous breaker."""
        import maestro_resilience as resilience
        from maestro_orchestration_core.integrations.resilience import (
            Policies,
            worth_a_retry,
        )

        return Policies(
            resilience.Retry(4, on=worth_a_retry, wait=0.0),
            resilience.CircuitBreaker("model", failure_rate=1.0, minimum_calls=50),
        )

    def test_an_open_circuit_is_a_model_error(self):
        """A refused call fails with the cause, and is worth a later retry."""
        from maestro_orchestration_core.integrations.resilience import Policies
        from maestro_resilience import CircuitBreaker

        calls = []

        async def broken():
            calls.append(1)
            raise errors.ModelError("down", retry=True)

        policies = Policies(CircuitBreaker("model", failure_rate=0.5, minimum_calls=2))
        for _ in range(4):
            with pytest.raises(errors.ModelError) as caught:
                asyncio.run(policies.call(broken))
        assert len(calls) == 2
        assert caught.value.retry
        assert "CircuitOpen" in str(caught.value)

    def test_it_guards_an_agent(self):
        """An agent takes it as `retry`; a model that fails once is asked again."""
        from maestro_orchestration_core.testing import ScriptedModel

        model = ScriptedModel(errors.ModelError("busy", retry=True), "fine")
        maestro = Orchestrator([agent(body=model, retry=self.make())])
        report = asyncio.run(maestro.run(Plan([Task("a")])))
        assert report.tasks["a"].reply.text == "fine"


def test_what_is_no_policy_is_refused():
    """A number of tries is not a policy."""
    with pytest.raises(errors.SettingsError, match="call"):
        agent(retry=3)


# The audit log.


def test_the_audit_log_gets_each_fact_once_and_no_prompts(tmp_path):
    """Forwarding again adds nothing; a position that was lost repeats with its seq."""
    audit_logger = pytest.importorskip("maestro_audit_logger")
    from maestro_orchestration_core.integrations.audit import forward

    maestro = Orchestrator([agent(body=lambda t: "SECRET answer")],
                           journal=tmp_path / "r.db")  # fmt: skip
    plan = Plan([Task("a", "SECRET prompt", approval="before")])
    asyncio.run(maestro.run(plan, run_id="r"))
    with (
        Journal(tmp_path / "r.db") as journal,
        audit_logger.AuditLogger(tmp_path / "audit", origin="test/audit") as audit,
    ):
        first = forward(journal, audit)
        assert first > 0
        assert forward(journal, audit) == 0
        journal.post("r", "approve", {"approval": "a:before", "by": "ada"})
        asyncio.run(maestro.run(plan, run_id="r"))
        second = forward(journal, audit, run="r")
        journal.connection.execute("DELETE FROM cursor")
        assert forward(journal, audit) == first + second
    query = audit_logger.Query(action="orchestration.*")
    found = list(audit_logger.run_query(tmp_path / "audit", query))
    granted = [e for e in found if e.action == "orchestration.approval.granted"]
    assert [(e.actor.type, e.actor.id) for e in granted] == [("user", "ada")] * 2
    seqs = [e.ctx["seq"] for e in found]
    assert seqs[: first + second] == sorted(set(seqs))
    everything = b"".join(
        p.read_bytes() for p in (tmp_path / "audit").rglob("*") if p.is_file()
    )
    assert b"SECRET" not in everything
    assert audit_logger.verify_log(tmp_path / "audit").ok


# A step of a workflow.


def test_a_run_is_one_step_of_a_workflow(tmp_path):
    """A step that failed is tried again as the same run: no call is repeated."""
    engine = pytest.importorskip("maestro_workflow_engine")
    from maestro_orchestration_core.integrations.workflow import as_step

    calls = []

    def body(turn):
        calls.append(turn.task)
        if turn.task == "b" and calls.count("b") == 1:
            raise ValueError("not yet")
        return turn.task

    plan = Plan([Task("a"), Task("b", after=["a"], tries=2)])
    maestro = Orchestrator([agent(body=body)], journal=tmp_path / "r.db",
                           backoff=lambda n: 0)  # fmt: skip
    agents = as_step(maestro, plan)

    @engine.step
    def count(report):
        return len(report["tasks"])

    @engine.workflow
    def flow():
        return count(agents())

    with engine.WorkflowEngine("inline", journal=tmp_path / "w.db") as runner:
        done = runner.run(flow)
    assert done["count"] == 2
    assert calls == ["a", "b", "b"]
    with Journal(tmp_path / "r.db") as journal:
        assert [s.status for s in journal.runs()] == ["completed"]


def test_a_run_that_fails_fails_its_step(tmp_path):
    """The reasons are in the step's error."""
    engine = pytest.importorskip("maestro_workflow_engine")
    from maestro_orchestration_core.integrations.workflow import as_step

    def body(turn):
        raise ValueError("no luck")

    agents = as_step(Orchestrator([agent(body=body)]), Plan([Task("a")]))

    @engine.workflow
    def flow():
        return agents()

    with engine.WorkflowEngine("inline") as runner:
        run = runner.run(flow)
    assert "no luck" in str(run.step("agents").error)


# Test results.


def test_gate_reports_reach_the_aggregator_once(tmp_path, repository, git, monkeypatch):
    """Each pytest gate is a run with its counts; sent again, nothing changes."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    results = pytest.importorskip("maestro_test_result_aggregator")
    from maestro_orchestration_core import Worktrees, subprocess_agent
    from maestro_orchestration_core.integrations.results import send_results

    (repository / "test_it.py").write_text(
        "import pathlib\ndef test_it():\n    assert not pathlib.Path('bad').exists()\n",
        encoding="utf-8",
    )
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "test")
    maestro = Orchestrator(
        [Agent(Persona(name="w"), subprocess_agent(["sh", "-c", "{prompt}"]))],
        journal=tmp_path / "r.db", workspace=Worktrees(repository, into="next"),
        gates=[Gate.pytest()],
    )  # fmt: skip
    plan = Plan([Task("good", "touch good"), Task("bad", "touch bad")])
    asyncio.run(maestro.run(plan, run_id="r"))
    with (
        Journal(tmp_path / "r.db") as journal,
        results.TestResultAggregator(tmp_path / "history.db") as aggregator,
    ):
        sent = send_results(journal, "r", aggregator, branch="next")
        assert sorted((run.counts.passed, run.counts.failed) for run in sent) == [
            (0, 1), (1, 0),
        ]  # fmt: skip
        again = send_results(journal, "r", aggregator)
        assert [run.run_id for run in again] == [run.run_id for run in sent]
        assert not any(run.added for run in again)


# Spans, live view, tools of a server.


def test_spans_have_parents_times_and_outcomes(tmp_path):
    """Run, attempts and calls become a tree with the run's own times."""
    pytest.importorskip("opentelemetry.sdk")
    from maestro_orchestration_core.integrations.otel import export_spans
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
        InMemorySpanExporter,
    )

    def body(turn):
        if turn.task == "b":
            raise ValueError("no")
        return "x"

    maestro = Orchestrator([agent(body=body)], journal=tmp_path / "r.db")
    asyncio.run(maestro.run(Plan([Task("a"), Task("b")]), run_id="r"))
    with Journal(tmp_path / "r.db") as journal:
        events = list(journal.events("r"))
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    count = export_spans(events, provider.get_tracer("test"))
    spans = exporter.get_finished_spans()
    assert len(spans) == count == 5
    by_id = {s.context.span_id: s for s in spans}
    root = next(s for s in spans if s.parent is None)
    assert root.name == "invoke_workflow r"
    assert root.start_time == events[0].at_ns
    attempts = [s for s in spans if s.parent and by_id[s.parent.span_id] is root]
    assert {s.attributes["maestro.task"] for s in attempts} == {"a", "b"}
    calls = [s for s in spans if s not in attempts and s is not root]
    for call in calls:
        assert by_id[call.parent.span_id] in attempts
    assert sum(s.status.status_code.name == "ERROR" for s in spans) == 2


def test_the_live_view_ends_with_the_run(tmp_path):
    """Colour on a terminal, plain text elsewhere."""
    pytest.importorskip("rich")
    from maestro_orchestration_core.integrations.progress import watch
    from rich.console import Console

    maestro = Orchestrator([agent()], journal=tmp_path / "r.db")
    asyncio.run(maestro.run(Plan([Task("first", "x")]), run_id="r"))
    for terminal in (False, True):
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=90, height=30)
        assert watch(tmp_path / "r.db", "r", console=console).status == "completed"
        assert "first" in out.getvalue()
        assert ("\x1b[32m" in out.getvalue()) == terminal


SERVER = """
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
server = MCPServer("numbers")

@server.tool()
def add(a: int, b: int) -> int:
    "Add two numbers."
    return a + b

@server.tool()
def fail() -> str:
    "Fail."
    raise ToolError("broken on purpose")

server.run("stdio")
"""


def test_tools_of_a_server_are_used_by_a_model(tmp_path):
    """A real server process: listed, called, its failure told to the model."""
    pytest.importorskip("mcp")
    from maestro_orchestration_core import Reply, ToolCall
    from maestro_orchestration_core.integrations.mcp import mcp_tools
    from maestro_orchestration_core.testing import ScriptedModel

    (tmp_path / "server.py").write_text(SERVER, encoding="utf-8")
    calls = (
        ToolCall(id="1", name="add", arguments={"a": 2, "b": 3}),
        ToolCall(id="2", name="fail", arguments={}),
    )
    model = ScriptedModel(Reply("", tool_calls=calls), "done")

    async def main():
        command = [sys.executable, str(tmp_path / "server.py")]
        async with mcp_tools(command) as tools:
            assert {t.name: t.effect for t in tools} == {
                "add": "unsafe", "fail": "unsafe",
            }  # fmt: skip
            persona = Persona(name="m", tools=("add", "fail"))
            maestro = Orchestrator([Agent(persona, model)], tools=tools)
            return await maestro.run(Plan([Task("t", "2+3?")]))

    assert asyncio.run(main()).ok
    results = [m["content"] for m in model.requests[1].messages if m["role"] == "tool"]
    assert "5" in results[0]
    assert "broken on purpose" in results[1]
