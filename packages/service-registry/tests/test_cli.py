"""The command line, as users start it."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from maestro_service_registry import ServiceRegistry
from maestro_service_registry._cli import main
from registry_support import wait_until


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/r.db"


def run(url, *args, json_out=False):
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        return call(url, args, json_out)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def call(url, args, json_out):
    return main(["--url", url, *(["--json"] if json_out else []), *args])


def start(url, *args):
    command = [sys.executable, "-m", "maestro_service_registry", "--url", url, *args]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def test_list_health_and_pick(url, capsys):
    with ServiceRegistry.open(url) as registry:
        assert run(url, "health", "web") == 1
        assert run(url, "list") == 0
        assert "no service is registered in sqlite:////" in capsys.readouterr().err
        registry.register("web", port=80, id="w1", version="1.2.0", tags=["http"])
        assert run(url, "list") == 0
        assert "w1" in capsys.readouterr().out
        assert run(url, "list", "web", json_out=True) == 0
        assert json.loads(capsys.readouterr().out)[0]["port"] == 80
        assert run(url, "health", "web") == 0
        assert run(url, "pick", "web", "--version", "^1", "--tag", "http") == 0
        assert capsys.readouterr().out.endswith("127.0.0.1:80\n")
        assert run(url, "pick", "web", "--version", "^2") == 1
        assert "outside ^2" in capsys.readouterr().err
        assert run(url, "doctor") == 0


def test_register_holds_while_the_command_runs(url):
    process = start(url, "register", "web", "--port", "80", "--", "sleep", "60")
    with ServiceRegistry.open(url) as registry:
        wait_until(lambda: registry.find("web"))
        process.terminate()
        process.communicate(timeout=20)
        assert process.returncode == 128 + signal.SIGTERM
        assert registry.find("web") == ()


def test_lock_passes_the_fence_and_the_exit_code(url):
    done = start(url, "lock", "job", "--", "sh", "-c", "echo $MAESTRO_FENCE; exit 7")
    out, _ = done.communicate(timeout=20)
    assert (int(out) > 0, done.returncode) == (True, 7)


def test_a_lock_that_is_held_is_told(url, capsys):
    with ServiceRegistry.open(url) as registry, registry.lock("job", holder="me"):
        assert run(url, "lock", "job", "--timeout", "0", "--", "true") == 1
    assert "held by me" in capsys.readouterr().err


def test_a_lost_lock_ends_the_command(url, tmp_path):
    script = f"touch {tmp_path}/runs; exec sleep 60"
    process = start(url, "lock", "job", "--ttl", "0.5", "--", "sh", "-c", script)
    wait_until((tmp_path / "runs").exists)
    with ServiceRegistry.open(url) as registry:
        (record,) = registry.store.read("l/").records
        registry.store.revoke([record.lease])
        _, err = process.communicate(timeout=20)
    assert process.returncode == 3
    assert "the lock was lost" in err


@pytest.mark.parametrize(
    ("made", "words"),
    [("lock", ["lock", "job"]), ("register", ["register", "web", "--port", "1"])],
)
def test_what_is_lost_before_the_command_starts_keeps_it_from_starting(
    url, tmp_path, monkeypatch, capsys, made, words
):
    real = getattr(ServiceRegistry, made)

    def lossy(*args, **options):
        found = real(*args, **options)
        if made == "register":
            found.lost.set()
        else:
            acquire = found.acquire
            found.acquire = lambda: (acquire(), found._gone("it slept"))
        return found

    monkeypatch.setattr(ServiceRegistry, made, lossy)
    mark = tmp_path / "ran"
    assert run(url, *words, "--", "touch", str(mark)) == 1
    assert not mark.exists()
    assert "maestro-registry: " in capsys.readouterr().err


def test_a_killed_holder_takes_its_command_along(url, tmp_path):
    script = f"echo $$ > {tmp_path}/pid; exec sleep 60"
    process = start(url, "lock", "job", "--", "sh", "-c", script)
    wait_until(
        lambda: (
            (tmp_path / "pid").exists()
            and (tmp_path / "pid").read_text(encoding="utf-8")
        )
    )
    pid = int((tmp_path / "pid").read_text(encoding="utf-8"))
    process.kill()
    process.communicate()

    def gone():
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii") as file:
                return file.read().split()[2] == "Z"
        except OSError:
            return True

    wait_until(gone)


def test_planning_commands(url, capsys):
    assert (
        run(
            url,
            "claim",
            "a",
            "b",
            "--by",
            "anna",
            "--reason",
            "x",
            "--until",
            "2h",
            json_out=True,
        )
        == 0
    )
    claim = json.loads(capsys.readouterr().out)["id"]
    assert run(url, "may", "restart", "a") == 1
    assert "of anna" in capsys.readouterr().out
    assert run(url, "release", claim) == 0
    assert run(url, "may", "restart", "a") == 0
    assert (
        run(
            url,
            "freeze",
            "pay-*",
            "2020-01-01T00:00Z",
            "2999-01-01T00:00Z",
            "--reason",
            "audit",
        )
        == 0
    )
    assert run(url, "may", "modify", "pay-eu") == 1
    announce = [
        "announce",
        "a",
        "2.0.0",
        "--change",
        "drop x",
        "--breaking",
        "--consumer",
        "b",
    ]
    assert run(url, *announce, "--effective", "13d") == 1
    assert "needs 14 d" in capsys.readouterr().err
    assert run(url, *announce, "--effective", "14d", json_out=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["missing"] == ["b"]
    assert run(url, "acknowledge", found["id"], "--by", "b") == 0
    assert "nobody" in capsys.readouterr().out


def test_graph_and_doctor_name_a_circle(url, capsys):
    with ServiceRegistry.open(url) as registry:
        registry.register("a", port=1, requires={"b": "*"})
        assert run(url, "graph") == 0
        assert capsys.readouterr().out == "b\na\n"
        assert run(url, "graph", "--dot") == 0
        assert run(url, "doctor") == 1
        assert "a: requires b *" in capsys.readouterr().out
        registry.register("b", port=1, requires={"a": "*"})
        assert run(url, "graph") == 1
        assert "a -> b -> a" in capsys.readouterr().err


def test_watch_prints_changes(url):
    with ServiceRegistry.open(url) as registry:
        since = registry.store.read("").revision
        registry.register("web", port=1, id="w1").close()
    process = start(url, "watch", "web", "--since", str(since), "--count", "2")
    out, _ = process.communicate(timeout=30)
    assert [line.split()[1:3] for line in out.splitlines()] == [
        ["added", "web/w1"],
        ["removed", "web/w1"],
    ]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["list", "Bad_Name"], 2, "DNS label"),
        (["register", "web", "--port", "99999", "--", "true"], 2, "0 to 65535"),
        (["register", "web", "--port", "99999"], 2, "0 to 65535"),
        (["register", "web", "--port", "1", "--ttl", "0", "--", "true"], 2, "0.1 to"),
        (["register", "web", "--port", "1"], 2, "--port N -- CMD"),
        (["lock", "x"], 2, "lock NAME -- CMD"),
        (["lock", "x", "--", "no-such-command"], 127, "no-such-command: no such"),
        (["lock", "x", "--", "/etc/passwd"], 126, "cannot be executed"),
        (["list", "web"], 1, "no instance of 'web' in sqlite:////"),
        (["serve", "--token-file", "/nowhere/t"], 1, "/nowhere/t: No such file"),
        (["serve", "--tls-cert", "/no/c", "--tls-key", "/no/k"], 1, "/no/c: No such"),
        (["serve", "--bind", "0.0.0.0:0"], 2, "--token-file"),
        (["serve", "--bind", "nonsense"], 2, "HOST:PORT"),
        (["token", "everything"], 2, "register:<prefix>"),
        (["release", "none"], 1, "no claim 'none'"),
    ],
)
def test_mistakes_are_told_without_a_stack_trace(url, args, code, said, capsys):
    ServiceRegistry.open(url).close()
    assert run(url, *args) == code
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_a_store_that_is_away_has_its_own_code(capsys):
    assert run("http://127.0.0.1:9", "list") == 4
    assert "registry at 127.0.0.1:9" in capsys.readouterr().err


READING = [
    ["list"],
    ["list", "web"],
    ["watch"],
    ["health", "web"],
    ["pick", "web"],
    ["graph"],
    ["doctor"],
    ["may", "restart", "web"],
    ["release", "c1"],
    ["acknowledge", "a1", "--by", "web"],
]


@pytest.mark.parametrize("args", READING, ids=" ".join)
def test_looking_at_a_store_that_is_not_there_tells_so(args, tmp_path, capsys):
    assert run(f"sqlite:///{tmp_path}/r.db", *args) == 4
    err = capsys.readouterr().err
    assert f"no registry at {tmp_path}/r.db; check the path" in err
    assert list(tmp_path.iterdir()) == [], "and nothing was made"


def test_common_options_may_stand_before_or_after_the_command(url, capsys):
    with ServiceRegistry.open(url) as registry:
        registry.register("web", port=80, id="w1")
        for words in (
            ["list", "--url", url, "--json"],
            ["--json", "list", "web", "--url", url],
            ["--url", "sqlite:////nowhere/r.db", "list", "--json", "--url", url],
        ):
            assert main(words) == 0
            assert json.loads(capsys.readouterr().out)[0]["id"] == "w1"
    assert main(["--url", url, "list", "--token-from", "/nowhere/t"]) == 1
    assert "/nowhere/t: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["register", "lock"])
def test_help_shows_where_the_command_goes(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    usage = capsys.readouterr().out.split("\n\n")[0]
    assert usage.startswith(f"usage: maestro-registry {command} ")
    assert usage.endswith(" -- CMD [ARG ...]")


def test_doctor_names_the_store(url, capsys):
    ServiceRegistry.open(url).close()
    assert run(url, "doctor") == 0
    assert capsys.readouterr().out == f"nothing wrong: 0 services in {url}\n"


def test_a_wrong_value_makes_no_store(url, tmp_path):
    assert run(url, "register", "web", "--port", "99999", "--", "true") == 2
    assert run(url, "lock", "x", "--", "no-such-command") == 127
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_named_with_what_to_do(url, capsys):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        taken = f"127.0.0.1:{sock.getsockname()[1]}"
        assert run(url, "serve", "--bind", taken) == 1
        err = capsys.readouterr().err
    assert f"cannot listen on {taken}: Address already in use; stop what" in err
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        taken = f"127.0.0.1:{sock.getsockname()[1]}"
        assert run(url, "serve", "--bind", "127.0.0.1:0", "--dns", taken) == 1
    assert f"cannot listen on {taken}" in capsys.readouterr().err


def test_interrupting_a_watch_says_so(url):
    with ServiceRegistry.open(url) as registry:
        process = start(url, "watch")
        wait_until(
            lambda: (
                os.path.exists(f"{registry.store.path}.bells")
                and len(os.listdir(f"{registry.store.path}.bells")) > 0
            )
        )
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "maestro-registry: interrupted\n")
