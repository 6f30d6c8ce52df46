"""The command line: verbs, exit codes, messages, live control of a run."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from maestro_workflow_engine._cli import main

FLOW = {
    "workflow": "demo",
    "params": {"n": {"type": "integer", "default": 3}},
    "steps": {
        "make": {"call": "wf_steps:numbers", "with": {"n": "${params.n}"}},
        "each": {"call": "wf_steps:double", "map": "${make}"},
        "sum": {"run": ["echo", "${len(each)}"]},
    },
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)
    write(tmp_path / "flow.json", FLOW)
    yield tmp_path
    signal.signal(signal.SIGTERM, handler)


def write(path, document):
    Path(path).write_text(json.dumps(document), encoding="utf-8")


def call(capsys, *argv):
    code = main([str(a) for a in argv])
    return code, capsys.readouterr().out


def test_from_validate_to_compare(folder, capsys):
    assert call(capsys, "validate", "flow.json") == (0, "demo: 3 steps, valid\n")
    code, out = call(capsys, "plan", "flow.json", "--workers", "1,2", "--tiers")
    assert code == 0
    assert "critical path" in out
    assert "it is on the longest chain" in out
    code, out = call(capsys, "run", "flow.json", "-p", "n=5", "--run", "a")
    assert code == 0
    assert "a: succeeded" in out
    assert call(capsys, "run", "flow.json", "--run", "b", "--json")[0] == 0
    code, out = call(capsys, "status", "--json")
    assert {r["run"]: r["state"] for r in json.loads(out)} == dict.fromkeys(
        "ab", "succeeded"
    )
    code, out = call(capsys, "status", "a", "--json")
    assert json.loads(out)["counts"] == {"succeeded": 8}
    assert "each[4] is succeeded" in call(capsys, "status", "a", "--why", "each[4]")[1]
    code, out = call(capsys, "compare", "a", "b", "--json")
    assert {r["step"] for r in json.loads(out)["steps"]} >= {"make", "each[4]"}
    assert "critical_seconds" in call(capsys, "compare", "a", "b")[1]
    assert (
        call(capsys, "plan", "flow.json", "--journal", "maestro-runs.db", "--json")[0]
        == 0
    )


def test_traces_reports_and_graphs(folder, capsys):
    call(capsys, "run", "flow.json", "--run", "a")
    _code, out = call(capsys, "trace", "a")
    events = json.loads(out)["traceEvents"]
    assert {e["name"] for e in events if e["ph"] == "X"} >= {"make", "sum", "each[0]"}
    assert call(capsys, "report", "a", "-o", "a.html")[0] == 0
    assert "<svg" in Path("a.html").read_text(encoding="utf-8")
    assert json.loads(call(capsys, "report", "a", "--json")[1])["steps"] == 6
    assert "s0 --> s1" in call(capsys, "graph", "flow.json")[1]
    assert "s0 -> s1" in call(capsys, "graph", "flow.json", "--format", "dot")[1]
    assert call(capsys, "graph", "flow.json", "--format", "svg")[1].startswith("<svg")


def test_export_and_import_keep_every_event(folder, capsys):
    call(capsys, "run", "flow.json", "--run", "a")
    _code, first = call(capsys, "export", "a")
    call(capsys, "export", "a", "-o", "a.jsonl")
    assert call(capsys, "import", "a.jsonl", "--journal", "other.db")[1] == "added a\n"
    assert (
        call(capsys, "export", "a", "--journal", "other.db")[1].splitlines()[1:]
        == (first.splitlines()[1:])
    )
    Path("bad.jsonl").write_text('{"kind": "event"}\n', encoding="utf-8")
    assert call(capsys, "import", "bad.jsonl")[0] == 4
    assert call(capsys, "import", "none.jsonl")[0] == 4


def test_mistakes_have_codes_and_words(folder, capsys):
    def wrong(*argv):
        code = main([str(a) for a in argv])
        return code, capsys.readouterr().err

    write("bad.json", {"workflow": "w", "steps": {"a": {"rum": ["ls"]}}})
    code, err = wrong("validate", "bad.json")
    assert code == 1
    assert "$.steps.a.rum: there is no key 'rum' here; did you mean 'run'?" in err
    assert wrong("validate", "none.json")[0] == 1
    assert wrong("validate", "wf_steps:nothing")[0] == 1
    assert wrong("run", "flow.json", "-p", "n=x")[0] == 1
    assert wrong("run", "flow.json", "-p", "n")[0] == 1
    assert wrong("plan", "flow.json", "--workers", "0")[0] == 2
    assert wrong("status", "x")[0] == 4
    assert wrong("run", "flow.json", "--executor", "thread")[0] == 2
    call(capsys, "run", "flow.json", "--run", "a")
    assert "did you mean 'make'" in wrong("status", "a", "--why", "maek")[1]
    assert wrong("pause", "a")[0] == 4
    assert wrong("cancel", "a")[0] == 4
    assert wrong("resume", "a")[0] == 4
    code = main(["validate", "bad.json", "--json"])
    assert json.loads(capsys.readouterr().out)["problems"][0]["where"].endswith(
        "$.steps.a.rum"
    )
    with pytest.raises(SystemExit) as caught:
        main(["fly"])
    assert caught.value.code == 2


def test_an_extra_that_is_missing_is_wrong_usage(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "maestro_yaml_config_parser", None)
    monkeypatch.delitem(sys.modules, "maestro_workflow_engine._yaml", raising=False)
    Path("flow.yaml").write_text("workflow: w", encoding="utf-8")
    assert main(["validate", "flow.yaml"]) == 2
    assert 'pip install "maestro-workflow-engine[yaml]"' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "extra is missing" in capsys.readouterr().out


def test_targets_that_are_not_named_right_are_told_the_way(folder, capsys):
    def message(*argv):
        assert main(list(argv)) == 1
        return capsys.readouterr().err

    Path("flow.py").write_text(
        "raise SystemExit('must not be imported')\n"
        "@workflow(\n    name='x',\n)\ndef nightly():\n    pass\n"
        "@step\ndef other():\n    pass\n"
        "built = Workflow('b')\n",
        encoding="utf-8",
    )
    text = message("validate", "flow.py")
    assert (
        "name the workflow in this Python file: flow.py:nightly or flow.py:built"
        in text
    )
    assert "other" not in text
    assert "none.py: cannot be read: No such file" in message("validate", "none.py")
    assert "MODULE:NAME or FILE.py:NAME" in message("run", "flow")
    Path("flow.toml").write_text("x = 1", encoding="utf-8")
    assert "a YAML document ends in .yaml" in message("plan", "flow.toml")


def test_a_document_tells_what_is_wrong_with_it_before_it_has_its_parameters(
    folder, capsys
):
    write(
        "need.json",
        {
            "workflow": "w",
            "params": {"who": {"type": "string"}, "n": {"type": "integer"}},
            "steps": {
                "a": {"run": ["echo", "${params.who.upper}", "${helo}"]},
                "hello": {"run": ["true"]},
            },
        },
    )
    assert main(["validate", "need.json", "-p", "n=3"]) == 1
    err = capsys.readouterr().err
    assert "no step 'helo'; did you mean 'hello'?" in err
    assert "needs parameter 'who' (on the command line: -p who=VALUE)" in err
    assert "'n'" not in err
    assert "upper" not in err
    write("bare.json", {"workflow": "w", "params": {"who": {"type": "string"}},
                        "steps": {"a": {"run": ["echo", "${params.who}"]}}})  # fmt: skip
    assert main(["validate", "bare.json", "--json"]) == 1
    out = capsys.readouterr()
    assert json.loads(out.out)["error"] == "ParameterError"
    assert "-p who=VALUE" in out.err
    assert main(["validate", "wf_steps:layered"]) == 1
    assert "-p folder=VALUE" in capsys.readouterr().err
    assert main(["validate", "bare.json", "-p", "who=you"]) == 0


def test_files_that_cannot_be_written_or_read_are_named(folder, capsys):
    call(capsys, "run", "flow.json", "--run", "a")

    def refused(*argv):
        assert main(list(argv)) == 4
        err = capsys.readouterr().err
        assert "Errno" not in err
        return err

    for verb in ("report", "trace", "export"):
        err = refused(verb, "a", "-o", "no/such/out")
        assert "no/such/out: No such file or directory; check that its folder" in err
    assert ".: Is a directory" in refused("graph", "flow.json", "-o", ".")
    assert "none.jsonl: No such file" in refused("import", "none.jsonl")
    assert "there is no journal 'none.db'" in refused("status", "--journal", "none.db")
    assert "flow.json is not a journal" in refused("status", "--journal", "flow.json")


def test_without_permission_the_file_is_named(folder):
    """A user who may only read: as another user when we are root."""
    code = """
    import os, sys
    from maestro_workflow_engine._cli import main
    main(["status", "a"])  # all that it imports, while we may
    main(["report", "a", "-o", os.devnull])
    if os.getuid() == 0:
        os.setuid(65534)
    codes = [main(["report", "a", "-o", "out.html"]),
             main(["status", "a", "--journal", "locked/runs.db"]),
             main(["status", "a"])]
    sys.exit(0 if codes == [4, 4, 4] else 1)
    """
    main(["run", "flow.json", "--run", "a"])
    (folder / "locked").mkdir(mode=0o700)
    for path in folder.glob("maestro-runs.db*"):
        path.chmod(0o444)
    for parent in folder.parents[:3]:
        if os.getuid() == 0 and parent != Path("/tmp"):
            parent.chmod(0o755)
    folder.chmod(0o555)
    (folder / "locked").chmod(0o000)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", textwrap.dedent(code)], check=False,
            capture_output=True, text=True, encoding="utf-8",
        )  # fmt: skip
    finally:
        (folder / "locked").chmod(0o700)
        folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert "Errno" not in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("check that") == 3, done.stderr


def test_a_failed_step_shows_where_it_raised(folder, capsys):
    code, out = call(capsys, "run", "wf_steps:failing", "--run", "f", "-p", "n=5")
    assert code == 1
    assert "in fails" in out
    assert 'raise ValueError("broken on purpose")' in out
    assert out.count("Traceback") == 3  # of five: the others are of the same kind
    assert "maestro_workflow_engine" not in out  # our own frames say nothing
    code, out = call(capsys, "status", "f", "--why", "fails-4")
    assert "it raised:" in out
    assert 'raise ValueError("broken on purpose")' in out
    shown = json.loads(call(capsys, "status", "f", "--json")[1])["steps"]
    assert all("ValueError" in step["traceback"] for step in shown)
    page = call(capsys, "report", "f")[1]
    assert page.count("<pre>Traceback") == 5
    assert "raise ValueError(&quot;broken on purpose&quot;)" in page
    # It survives a move to another journal.
    call(capsys, "export", "f", "-o", "f.jsonl")
    call(capsys, "import", "f.jsonl", "--journal", "other.db")
    assert call(capsys, "report", "f", "--journal", "other.db")[1].count("<pre>") == 5
    code, out = call(capsys, "run", "wf_steps:failing", "--run", "g", "--json")
    assert "broken on purpose" in json.loads(out)["tracebacks"]["fails"]


def test_a_gate_that_is_not_there_is_refused(folder, capsys):
    call(capsys, "run", "wf_steps:gated", "--run", "g")
    assert main(["continue", "g", "--gate", "aprove"]) == 4
    err = capsys.readouterr().err
    assert "run 'g' has no gate 'aprove'; did you mean 'approve'?" in err


def test_a_gate_is_passed_from_the_command_line(folder, capsys):
    code, out = call(capsys, "run", "wf_steps:gated", "--run", "g")
    assert code == 3
    assert "continue g --gate approve" in out
    assert call(capsys, "continue", "g")[0] == 4
    assert call(capsys, "continue", "g", "--gate", "approve")[0] == 0


def test_a_failed_run_is_explained_and_resumed(folder, capsys):
    write(
        "fix.json",
        {
            "workflow": "fix",
            "steps": {
                "need": {"run": ["test", "-e", f"{folder}/there"]},
                "use": {"run": ["echo", "ok"], "needs": ["need"]},
            },
        },
    )
    assert call(capsys, "run", "fix.json", "--run", "f")[0] == 1
    out = call(capsys, "status", "f", "--why", "use")[1]
    assert "use is skipped" in out
    assert "need failed: step 'need': test ended with 1" in out
    (folder / "there").touch()
    assert call(capsys, "resume", "f")[0] == 0


def test_a_live_run_is_watched_paused_continued_and_cancelled(folder, capsys):
    write(
        "slow.json",
        {
            "workflow": "slow",
            "steps": {f"s{i}": {"run": ["sleep", "0.3"]} for i in range(40)},
        },
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "maestro_workflow_engine._cli", "run", "slow.json",
         "--run", "s", "--workers", "2"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(
            lambda: Path("maestro-runs.db").exists() and state(capsys) == "running"
        )
        assert call(capsys, "pause", "s")[0] == 0
        wait_for(lambda: state(capsys) == "paused")
        assert call(capsys, "resume", "s")[0] == 4
        assert call(capsys, "continue", "s")[0] == 0
        wait_for(lambda: state(capsys) == "running")
        assert call(capsys, "cancel", "s")[0] == 0
        code, out = call(capsys, "watch", "s")
        assert code == 1
        assert "s: cancelled" in out.splitlines()[-1]
        assert process.wait(20) == 1
    finally:
        process.kill()
        process.wait()


def state(capsys):
    code, out = call(capsys, "status", "s", "--json")
    return json.loads(out)["state"] if code == 0 else None


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_interrupt_ends_cleanly_and_can_be_resumed(folder, capsys):
    write("nap.json", {"workflow": "nap", "steps": {"a": {"run": ["sleep", "${params.s}"]}},
                       "params": {"s": {"type": "number", "default": 60}}})  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "maestro_workflow_engine._cli", "run", "nap.json",
         "--run", "s"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, encoding="utf-8",
    )  # fmt: skip
    wait_for(lambda: Path("maestro-runs.db").exists() and counts(capsys).get("running"))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert state(capsys) == "interrupted"


def counts(capsys):
    code, out = call(capsys, "status", "s", "--json")
    return json.loads(out)["counts"] if code == 0 else {}


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["run", "--help"])
    assert caught.value.code == 0
    assert "example:" in capsys.readouterr().out
