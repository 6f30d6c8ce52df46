"""Three services move to the packages by the tool alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import (
    MODULES,
    Platform,
    copy_services,
    migrate,
    need_packages,
    run_tests,
)

pytestmark = pytest.mark.timeout(300)
PACKAGES = {
    "engine": {
        "maestro-audit-logger",
        "maestro-resilience",
        "maestro-service-registry",
        "maestro-workflow-engine",
    },
    "quality": {
        "maestro-audit-logger",
        "maestro-resilience",
        "maestro-service-registry",
        "maestro-test-adapters",
        "maestro-test-result-aggregator",
    },
    "template": {
        "maestro-audit-logger",
        "maestro-service-registry",
        "maestro-yaml-config-parser",
    },
}


def report(*services: Path) -> list[dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "maestro_migrate", "report", "--json",
         *map(str, services)],
        capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "template" else [pytest.mark.drill])
        for name in sorted(MODULES)
    ],
)
def test_a_service_passes_its_tests_before_and_after_the_move(name, tmp_path):
    need_packages()
    service = copy_services(tmp_path)[name]
    before = run_tests(service)
    assert before.returncode == 0, before.stdout
    (old,) = report(service)
    assert old["share"] == 0
    assert old["old_references"]

    done = migrate(service, "--write", "--remove-copies")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 notes" in done.stdout

    after = run_tests(service)
    assert after.returncode == 0, after.stdout
    assert before.stdout.splitlines()[0] == after.stdout.splitlines()[0]
    (new,) = report(service)
    assert new["share"] == 1
    assert set(new["packages"]) == PACKAGES[name]
    assert set(new["packages"].values()) == {">=1.0,<2"}
    assert (new["copies"], new["old_references"]) == ({}, [])


def test_a_second_run_changes_nothing(moved):
    for service in moved.values():
        before = contents(service)
        done = migrate(service, "--write", "--remove-copies")
        assert done.returncode == 0
        assert ", 0 changed, 0 notes" in done.stdout
        assert contents(service) == before


def test_nothing_but_imports_strings_and_requirements_changed(moved, tmp_path):
    """Every line that differs names an old module or a package."""
    for name, service in copy_services(tmp_path).items():
        done = migrate(service)
        assert done.returncode == 1
        lines = [
            line
            for line in done.stdout.splitlines()
            if line.startswith(("+", "-")) and line[:3] not in ("+++", "---")
        ]
        assert len(lines) >= 8
        for line in lines:
            words = ("maestro", "src.", "services.", "resilience", "..core", "..registry",
                     "..adapters", ".audit_logger", ".service_registry")  # fmt: skip
            assert any(word in line for word in words), (name, line)


@pytest.mark.parametrize("stage", ["before", "after"])
def test_the_services_work_together(stage, tmp_path, request):
    services = (
        copy_services(tmp_path)
        if stage == "before"
        else request.getfixturevalue("moved")
    )
    platform = Platform(services, tmp_path / "data")
    try:
        for name in MODULES:
            platform.start(name)
        platform.submit("j-1")
        platform.submit("j-2", name="urgent Bob")
        platform.wait_for("j-1")
        platform.wait_for("j-2", "rejected")
        assert platform.ask("engine", "/preview?template=none&name=x")[0] == 400
    finally:
        platform.stop()
    assert [path.name for path in platform.outbox.iterdir()] == ["j-1.txt"]
    assert (platform.outbox / "j-1.txt").read_text("utf-8").startswith("Dear Ada, ")
    actions = audited(stage, platform)
    assert {"letter.render", "letter.check", "job.accept"} <= set(actions)
    assert actions.count("letter.deliver") == 1
    assert actions.count("letter.reject") == 1


def audited(stage: str, platform: Platform) -> list[str]:
    """Verify the one audit trail of the three; return what was done."""
    if stage == "before":
        code = (
            "import sys; from src.libraries.audit_logger import AuditLogger as A; "
            "a = A(sys.argv[1]); assert a.verify().ok; "
            "print(*[e.action for e in a.query()], sep='\\n')"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, platform.audit],
            cwd=platform.services["engine"], env={}, capture_output=True, encoding="utf-8",
            check=True,
        )  # fmt: skip
        return done.stdout.split()
    from maestro_audit_logger import Query, run_query, verify_log

    found = verify_log(platform.audit)
    assert found.ok, found.explain()
    events = list(run_query(platform.audit, Query()))
    names = {event.actor.id for event in events if event.actor.type == "service"}
    assert names == set(MODULES)
    return [event.action for event in events]
