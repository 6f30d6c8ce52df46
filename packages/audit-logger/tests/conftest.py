"""Fixtures of the audit logger's tests."""

import os
import shutil
import tempfile
import traceback
from pathlib import Path

import pytest
from maestro_audit_logger import Actor, AuditLogger

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path):
    """The path of a log that does not exist yet."""
    return tmp_path / "audit"


@pytest.fixture
def public_folder():
    """A folder that every user may enter, which those of pytest are not."""
    path = Path(tempfile.mkdtemp(prefix="maestro-audit-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def as_nobody():
    """Return a function that runs another in a child without root's rights.

    Its result is the child's exit code: 0, or 1 with a trace on stderr.
    """

    def run(work):
        pid = os.fork()
        if pid == 0:
            try:
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setresgid(65534, 65534, 65534)
                    os.setresuid(65534, 65534, 65534)
                work()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    return run


@pytest.fixture
def make_log(folder):
    """Return a function that opens a log and closes it after the test."""
    opened = []

    def make(path=None, **settings):
        settings.setdefault("origin", "app.example/audit")
        settings.setdefault("actor", Actor.user("u-1"))
        settings.setdefault("durability", "os")
        audit = AuditLogger(path or folder, **settings)
        opened.append(audit)
        return audit

    yield make
    for audit in opened:
        audit.close()


@pytest.fixture
def ten(make_log, folder):
    """A closed log of ten events (eleven lines), with a checkpoint over all."""
    with make_log() as audit:
        for number in range(10):
            audit.record("invoice.approve", data={"number": number})
        note = audit.checkpoint()
    (folder.parent / "anchor").write_text(note, "utf-8")
    return folder


@pytest.fixture
def vectors():
    """The RFC 6962 vectors of transparency-dev/merkle, beside the repository."""
    path = ROOT.parent / "shared" / "data" / "merkle" / "testdata"
    if not path.is_dir():
        pytest.skip("the RFC 6962 vectors are not beside the repository")
    return path


@pytest.fixture
def ed25519():
    """The class `Ed25519Signer`, where its extra is installed."""
    pytest.importorskip("cryptography", reason="needs [crypto]")
    from maestro_audit_logger import Ed25519Signer

    return Ed25519Signer
