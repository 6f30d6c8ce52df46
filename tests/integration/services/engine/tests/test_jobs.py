"""Jobs run to their end, and go on where they were."""

from unittest import mock

import pytest

from src.app.jobs import Jobs
from src.libraries.audit_logger.core import Actor, AuditLogger


class Fake:
    def __init__(self):
        self.calls, self.away, self.verdict = [], False, {"ok": True, "failed": []}

    def render(self, template, name):
        self.calls.append("render")
        return f"Dear {name}"

    def check(self, text):
        self.calls.append("check")
        if self.away:
            raise ConnectionError("away")
        return self.verdict


@pytest.fixture
def audit(tmp_path):
    audit = Jobs.open_audit(tmp_path / "audit", "engine")
    yield audit
    audit.close()


@pytest.fixture
def fake():
    return Fake()


@pytest.fixture
def jobs(tmp_path, audit, fake):
    return Jobs(tmp_path, {"template": fake, "quality": fake}, audit)


JOB = {"job": "j-1", "template": "greeting", "name": "Ada"}


def test_a_letter_is_delivered_and_recorded(jobs, audit, tmp_path):
    assert jobs.run(JOB) == "succeeded"
    assert (tmp_path / "outbox/j-1.txt").read_text(encoding="utf-8") == "Dear Ada"
    assert [event.action for event in audit.query(action="letter.deliver")]
    assert audit.verify().ok


def test_a_failed_job_goes_on_and_repeats_nothing(jobs, fake):
    fake.away = True
    assert jobs.run(JOB) == "failed"
    fake.away = False
    assert jobs.run(JOB) == "succeeded"
    assert jobs.run(JOB) == "succeeded"
    assert fake.calls.count("render") == 1


def test_a_bad_letter_is_rejected(jobs, fake, audit):
    fake.verdict = {"ok": False, "failed": ["test_length"]}
    assert jobs.run(JOB) == "rejected"
    assert len(list(audit.query(action="letter.reject"))) == 1


def test_accepted_jobs_survive_a_restart(jobs, audit, fake, tmp_path):
    jobs.accept(JOB)
    other = Jobs(tmp_path, {"template": fake, "quality": fake}, audit)
    other.start()
    other.stopping.wait(0.01)
    other.stop()
    assert other.states["j-1"] in {"accepted", "succeeded"}


def test_a_job_that_cannot_be_recorded_is_not_accepted(jobs):
    with mock.patch(
        "src.libraries.audit_logger.core.AuditLogger.record", side_effect=OSError("full")
    ):
        with pytest.raises(OSError):
            jobs.accept(JOB)
    assert jobs.queue.empty()


def test_the_actor_is_in_the_log(tmp_path):
    log = AuditLogger(tmp_path / "other", origin="x.example/audit")
    log.record("user.delete", actor=Actor.user("u-1"), resource=("user", "u-2"))
    assert len(list(log.query(action="user.delete"))) == 1
    log.close()
