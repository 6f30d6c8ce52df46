"""The command maestro-streams against a real server."""

import json

import pytest
import redis
from maestro_workflow_engine.streams import AUTOMATION, Queue, Reject, Worker
from maestro_workflow_engine.streams._cli import main


def call(capsys, *arguments):
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_init_twice_changes_nothing_and_check_names_drift(url, capsys):
    assert call(capsys, "init", "--check", "--url", url)[0] == 1
    code, out, _ = call(capsys, "init", "--url", url)
    assert code == 0
    assert "group 'automation-workers' created" in out
    assert call(capsys, "init", "--url", url)[1] == "nothing to do\n"
    assert call(capsys, "init", "--check", "--url", url)[:2] == (0, "no drift\n")
    with redis.Redis.from_url(url) as raw:
        raw.xgroup_destroy("maestro:streams:automation:healing", "automation-fixers")
    code, out, _ = call(capsys, "init", "--check", "--url", url, "--json")
    assert code == 1
    assert json.loads(out)["drift"] == [
        "maestro:streams:automation:healing: group 'automation-fixers' is missing"
    ]


def test_a_dry_run_prints_commands_that_do_the_same(url, capsys):
    code, out, _ = call(capsys, "init", "--dry-run", "--url", url)
    assert code == 0
    with redis.Redis.from_url(url) as raw:
        assert raw.keys("*") == []  # nothing was done
        for line in out.splitlines():
            program, *command = line.split()
            assert program == "redis-cli"
            raw.execute_command(*command)
        assert AUTOMATION.check(raw) == []


def test_status_peek_dlq_and_requeue(url, capsys):
    stream = AUTOMATION["jobs"]
    with Queue(url, stream) as queue:
        job = queue.put("t", {"n": 1})
    code, out, _ = call(capsys, "peek", "jobs", "--url", url, "--json")
    assert (code, json.loads(out)[0]["id"]) == (0, job)
    worker = Worker(url, stream)

    @worker.handler("t")
    def refuse(job, payload):
        raise Reject("no")

    worker.run(until_empty=True)
    code, out, _ = call(capsys, "dlq", "jobs", "--url", url)
    assert code == 0
    entry = out.split()[0]
    assert out.startswith(f"{entry}  t  no\n")
    rows = json.loads(call(capsys, "status", "--url", url, "--json")[1])
    assert {row["name"].rpartition(":")[2]: row["dead"] for row in rows}["jobs"] == 1
    assert "automation-workers" in call(capsys, "status", "--url", url)[1]
    code, out, err = call(capsys, "requeue", "jobs", entry, "1-1", "--url", url)
    assert (code, out) == (1, "1 put back\n")
    assert "no dead letter 1-1" in err
    assert call(capsys, "dlq", "jobs", "--url", url)[0] == 1
    assert call(capsys, "trim", "--url", url)[0] == 0


def test_bench_cleans_up_after_itself(url, capsys):
    code, out, _ = call(capsys, "bench", "--jobs", "200", "--url", url, "--json")
    assert code == 0
    assert json.loads(out)["drain_per_second"] > 0
    with redis.Redis.from_url(url) as raw:
        assert raw.keys("*") == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("peek", "nothing"), 2, "no stream 'nothing'"),
        (("requeue", "jobs"), 2, "name the entries"),
        (("init", "--topology", "missing.toml"), 2, "missing.toml"),
        (("status", "--url", "redis://127.0.0.1:1/0"), 3, "no answer from Redis"),
    ],
)
def test_mistakes_are_one_line_and_an_exit_code(url, capsys, arguments, code, message):
    if "--url" not in arguments:
        arguments += ("--url", url)
    found, _, err = call(capsys, *arguments)
    assert found == code
    assert message in err
    assert err.count("\n") == 1
