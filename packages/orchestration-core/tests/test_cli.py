"""The command line and the monitor, the page in a real browser."""

import json
import re
import subprocess
import tempfile
import textwrap
from pathlib import Path

import pytest
from maestro_orchestration_core import Journal, errors
from maestro_orchestration_core._cli import main
from maestro_orchestration_core._journal import _advice
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


def test_the_run_file_of_the_readme_and_of_help_works(tmp_path, monkeypatch, capsys):
    """Both show the same file; the commands that help shows run with it."""
    readme = Path(__file__).parents[1] / "README.md"
    shown = re.search(
        r"```toml\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL
    )
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert textwrap.indent(shown[1], "    ") in said
    (tmp_path / "plan.toml").write_text(shown[1], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"^  maestro-orchestrate (.+)$", said, re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        assert main(line.split()) == 0
    assert "first: completed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("agents = 1", r"agents: expected a table, got 1; write \[agents.NAME\]"),
        ("[[agents]]\nname = 'w'", r"agents: expected a table, got \["),
        ("agents.w = 'echo'", "agents.w: expected a table, got 'echo'"),
        ("[agents.w]\ncommand = 3", "agents.w.command: expected text or a list, got 3"),
        ("[agents.w]\ncommand = ['a', 3]", "agents.w.command: expected a list of texts"),
        ("[agents.w]\ncommand = 'a'\nenv = {A = 1}", "agents.w.env.A: expected text"),
        ("[agents.w]\nmodel = 'gpt'", "agents.w.model: expected a table, got 'gpt'"),
        ("[agents.w]\nmodel = {nam = 'x'}", "agents.w.model.nam: .*mean 'name'"),
        ("[agents.w]\ntimeout = true", "agents.w.timeout: expected .* number, got True"),
        ("[personas.w]\nsummary = 'x'", r"personas: expected .*; write \[\[personas\]\]"),
        ("personas = ['w']", r"personas\[0\]: expected a table, got 'w'"),
        ("budget = 3", "budget: expected a table, got 3"),
        ("budget = {calls = 'x'}", "calls: expected a whole number, got 'x'"),
        ("journal = 3", "journal: expected text, got 3"),
        ("workers = '4'", "workers: expected a whole number, got '4'"),
        ("barrier = 'yes'", "barrier: expected true or false, got 'yes'"),
        ("workspace = 'here'", "workspace: expected a table, got 'here'"),
        ("[workspace]\nallow_dirty = 1", "workspace.allow_dirty: expected true or"),
        ("gates = {pytest = 'a'}", r"gates: expected a list, .*; write \[\[gates\]\]"),
        ("gates = ['pytest']", r"gates\[0\].*: expected a table, got 'pytest'"),
        ("[[gates]]\nonly = 'a'", r"gates\[0\].only: expected a list, got 'a'"),
        ("[tasks.a]\nprompt = 'x'", r"tasks: expected a list, .*; write \[\[tasks\]\]"),
        ("tasks = ['a']", "tasks: a task is a table, got 'a'"),
    ],
)  # fmt: skip
def test_a_wrong_shape_is_refused_with_file_and_key(plan, capsys, text, said):
    """`plan` and `run` refuse it alike, and nothing is made."""
    tasks = "" if "tasks" in text else "[[tasks]]\nname = 'a'\n"
    (plan / "plan.toml").write_text(f"{text}\n{tasks}", encoding="utf-8")
    for command in ("plan", "run"):
        assert main([command, "plan.toml"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("maestro-orchestrate: plan.toml: ")
        assert re.search(said, error), error
    assert not (plan / "runs.db").exists()


@pytest.mark.parametrize(
    ("module", "said"),
    [("def work(:\n", "invalid syntax"), ("1 / 0\n", "division"), ("work = 3\n", "not a f")],
)  # fmt: skip
def test_a_module_that_does_not_load_is_refused(
    plan, capsys, monkeypatch, module, said
):
    """Whatever it raises, the key and the cause are named."""
    name = f"agents_{abs(hash(module))}"
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    (plan / f"{name}.py").write_text(module, encoding="utf-8")
    (plan / "plan.toml").write_text(
        f"[agents.w]\npython = '{name}:work'\n[[tasks]]\nname = 'a'\n", encoding="utf-8"
    )
    assert main(["run", "plan.toml"]) == 2
    error = capsys.readouterr().err
    assert "plan.toml: agents.w.python: " in error
    assert said in error


def test_a_journal_that_cannot_be_opened_says_what_to_check(tmp_path):
    """No folder, a folder in its place, or no permission."""
    missing = tmp_path / "none" / "r.db"
    with pytest.raises(errors.JournalError, match=r"no folder .*none, make it"):
        Journal(missing)
    with pytest.raises(errors.JournalError, match="it is a folder, give a file"):
        Journal(tmp_path)
    path = tmp_path / "r.db"
    Journal(path).close()
    said = _advice(path, "unable to open database file")
    assert f"the file and its folder {tmp_path}" in said
    assert "owner and mode" in said
    assert _advice(path, "file is not a database") == ""
