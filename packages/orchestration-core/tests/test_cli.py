"""The command line and the monitor, the page in a real browser."""

import json
import subprocess
import tempfile

import pytest
from maestro_orchestration_core import Journal, errors
from maestro_orchestration_core._cli import main
from maestro_orchestration_core._monitor import MonitorServer
from maestro_orchestration_core._settings import RunFile

PLAN = """
journal = "runs.db"
[budget]
calls = 9
[agents.worker]
command = ["echo", "{prompt}"]
[[tasks]]
name = "one"
prompt = "first"
[[tasks]]
name = "two"
after = ["one"]
approval = "before"
"""


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Return a folder with a run file, entered."""
    (tmp_path / "plan.toml").write_text(PLAN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_waits_is_approved_and_finishes(plan, capsys):
    """Exit codes say how it came out."""
    assert main(["run", "plan.toml", "--run-id", "r"]) == 75
    assert main(["approve", "r", "nope"]) == 2
    assert main(["approve", "r", "two:before", "--by", "ada"]) == 0
    assert main(["recover", "resume", "r", "--file", "plan.toml"]) == 0
    capsys.readouterr()
    assert main(["monitor", "r", "--summary", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tasks"]["one"]["reply"]["text"] == "first"
    assert main(["monitor", "r", "--follow"]) == 0
    assert "task.completed two" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        ["plan", "plan.toml"], ["run", "plan.toml", "--dry-run"], ["monitor"],
        ["metrics", "show", "r"], ["metrics", "compare", "r", "r"],
        ["metrics", "export", "r", "--format", "otel"], ["recover", "list"],
        ["recover", "in-doubt", "r"], ["locks"], ["gc"], ["doctor", "plan.toml"],
    ],
)  # fmt: skip
def test_every_command_speaks_json(plan, capsys, command):
    """`--json` prints JSON and nothing else."""
    main(["run", "plan.toml", "--run-id", "r"])
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("journal", "journl", "did you mean 'journal'"),
        ('after = ["one"]', 'after = ["on"]', "did you mean 'one'"),
        ('name = "one"', 'name = "one"\nafter = ["two"]', "wait for each other"),
        ("calls = 9", "calls = -1", "-1 is below zero"),
        ("command", "comand", "did you mean 'command'"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(plan, old, new, said):
    """Each error says file or key, and what was meant."""
    (plan / "plan.toml").write_text(PLAN.replace(old, new), encoding="utf-8")
    with pytest.raises(errors.SettingsError, match=said):
        RunFile.load("plan.toml").build()
    assert main(["run", "plan.toml"]) == 2
    assert not (plan / "runs.db").exists()


def test_the_page_in_a_real_browser(plan, require_program):
    """The page draws timeline, tasks and events from the journal."""
    main(["run", "plan.toml", "--run-id", "r"])
    chromium = require_program("chromium")
    with (
        MonitorServer(plan / "runs.db") as server,
        tempfile.TemporaryDirectory() as home,
    ):
        done = subprocess.run(
            [chromium, "--headless=new", "--no-sandbox", "--disable-gpu",
             "--disable-background-networking", f"--user-data-dir={home}",
             "--virtual-time-budget=4000", "--dump-dom", server.url],
            capture_output=True, encoding="utf-8", check=True, timeout=90,
        )  # fmt: skip
    assert 'data-ready="1"' in done.stdout
    assert '<rect class="completed"' in done.stdout
    assert "approval:two:before" in done.stdout
    assert "run.paused" in done.stdout


def test_doctor_changes_nothing(plan, repository, git, capsys):
    """It looks at journal, repository and plan without making a branch or a file."""
    (plan / "plan.toml").write_text(
        PLAN + f"[workspace]\nrepository = {str(repository)!r}\ninto = 'next'\n",
        encoding="utf-8",
    )
    assert main(["doctor", "plan.toml"]) == 0
    assert not (plan / "runs.db").exists()
    RunFile.load("plan.toml")
    refs = git(repository, "for-each-ref")
    assert "next" not in refs
    Journal("runs.db").close()
    before = (plan / "runs.db").read_bytes()
    capsys.readouterr()
    assert main(["doctor", "plan.toml"]) == 0
    assert "0 runs" in capsys.readouterr().out
    assert (plan / "runs.db").read_bytes() == before
    (plan / "runs.db").write_text("not a journal " * 100, encoding="utf-8")
    assert main(["doctor", "plan.toml"]) == 1
    assert "not a usable journal" in capsys.readouterr().out


def test_a_user_without_a_name_can_decide(tmp_path, monkeypatch):
    """A container may run under a number that no file knows."""

    def nobody():
        raise KeyError("uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", nobody)
    with Journal(tmp_path / "r.db") as journal:
        journal.open_run("r").append("run.started", {})
    where = ["--journal", str(tmp_path / "r.db")]
    assert main(["cancel", *where, "r"]) == 0
    with Journal(tmp_path / "r.db") as journal:
        posted = journal.connection.execute("SELECT data FROM inbox").fetchone()[0]
    assert json.loads(posted)["by"].startswith("uid ")
