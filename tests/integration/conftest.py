"""The three example services: copied, moved to the packages, run as processes."""

import importlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

SERVICES = Path(__file__).parent / "services"
MODULES = {
    "template": "services.template.app",
    "quality": "services.quality.app",
    "engine": "src.app.main",
}
START_S = 60.0
# Services end with the process that started them, however that one ends.
_SETPRIV = shutil.which("setpriv")
LEASH = [_SETPRIV, "--pdeathsig", "KILL"] if _SETPRIV else []


def clean_environment() -> dict[str, str]:
    """Return what a service's process needs, without this run's own settings."""
    environment = {
        k: os.environ[k] for k in ("PATH", "LANG", "HOME") if k in os.environ
    }
    return environment | {
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONUTF8": "1",
    }


def copy_services(folder: Path) -> dict[str, Path]:
    """Return copies of the three services as they were before the move."""
    ignored = shutil.ignore_patterns("__pycache__", ".pytest_cache")
    for name in MODULES:
        shutil.copytree(SERVICES / name, folder / name, ignore=ignored)
    return {name: folder / name for name in MODULES}


def migrate(service: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `maestro-migrate run` on a service."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "maestro_migrate", "run", str(service), *options],
        capture_output=True, encoding="utf-8", check=False, timeout=110,
    )  # fmt: skip


def run_tests(service: Path) -> subprocess.CompletedProcess[str]:
    """Run a service's own tests."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=service, env=clean_environment(), capture_output=True, encoding="utf-8",
        check=False, timeout=110,
    )  # fmt: skip


class Platform:
    """The three services as processes that share a registry file and an audit log."""

    def __init__(self, services: dict[str, Path], data: Path) -> None:
        self.services, self.data = services, data
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports: dict[str, int] = {}
        data.mkdir(parents=True)

    @property
    def audit(self) -> Path:
        return self.data / "audit"

    @property
    def outbox(self) -> Path:
        return self.data / "engine" / "outbox"

    @property
    def journal(self) -> Path:
        return self.data / "engine" / "runs.db"

    def start(self, name: str) -> None:
        """Start a service and wait until it serves."""
        environment = clean_environment() | {
            "AUDIT_DIR": str(self.audit),
            "REGISTRY_URL": f"sqlite:///{self.data}/registry.db",
            "DATA_DIR": str(self.data / name),
            "SETTINGS": "templates.yaml",
        }
        with (self.data / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*LEASH, sys.executable, "-m", MODULES[name]],
                cwd=self.services[name], env=environment,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        self.processes[name] = process
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            line = process.stdout.readline() if selector.select(START_S) else b""
        assert line.startswith(b"ready "), f"{name} did not start: {self.log(name)}"
        self.ports[name] = int(line.split()[1])

    def kill(self, name: str) -> None:
        """End a service as a crash does."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
        assert process.stdout is not None
        process.stdout.close()

    def stop(self) -> None:
        """End all services; those that do not listen are killed."""
        for process in self.processes.values():
            process.terminate()
        for name in list(self.processes):
            process = self.processes[name]
            try:
                process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                self.kill(name)
                continue
            assert process.stdout is not None
            process.stdout.close()
            del self.processes[name]

    def log(self, name: str) -> str:
        """Return what a service said on standard error."""
        return (self.data / f"{name}.log").read_text("utf-8")

    def ask(
        self, name: str, path: str, body: object = None, *, timeout: float = 30
    ) -> tuple[int, dict[str, object]]:
        """Send a request; return status and answer, or raise OSError."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"http://127.0.0.1:{self.ports[name]}{path}", data)
        try:
            with urlopen(request, timeout=timeout) as answer:
                return answer.status, json.load(answer)
        except HTTPError as error:
            with error:
                return error.code, json.load(error)

    def submit(self, job: str, name: str = "Ada", template: str = "greeting") -> None:
        """Hand a job to the engine."""
        body = {"job": job, "template": template, "name": name}
        assert self.ask("engine", "/jobs", body) == (202, {"job": job})

    def wait_for(self, job: str, state: str = "succeeded", timeout: float = 60) -> None:
        """Wait until a job is in a state."""
        end = time.monotonic() + timeout
        found: object = None
        while time.monotonic() < end:
            found = self.ask("engine", f"/jobs/{job}")[1].get("state")
            if found == state:
                return
            time.sleep(0.05)
        pytest.fail(f"job {job} is {found}, not {state}: {self.log('engine')}")


def need_packages() -> None:
    """Skip where a package that the services move to is not there yet."""
    for module, name in {
        "maestro_audit_logger": "AuditLogger",
        "maestro_resilience": "Retry",
        "maestro_service_registry": "ServiceRegistry",
        "maestro_test_adapters": "PytestAdapter",
        "maestro_test_result_aggregator": "TestResultAggregator",
        "maestro_workflow_engine": "WorkflowEngine",
        "maestro_yaml_config_parser": "load",
    }.items():
        if not hasattr(importlib.import_module(module), name):
            pytest.skip(f"{module} has no {name}")


@pytest.fixture(scope="session")
def moved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return copies of the services after the move."""
    need_packages()
    services = copy_services(tmp_path_factory.mktemp("moved"))
    for folder in services.values():
        done = migrate(folder, "--write", "--remove-copies")
        assert done.returncode == 0, done.stdout + done.stderr
    return services


@pytest.fixture
def platform(moved: dict[str, Path], tmp_path: Path) -> Iterator[Platform]:
    """Return the moved services, started."""
    found = Platform(moved, tmp_path / "data")
    try:
        for name in MODULES:
            found.start(name)
        yield found
    finally:
        found.stop()
