"""Publishing to a real index: what is uploaded, refused, resumed and proven."""

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading

import pytest
from maestro_index import control
from maestro_release.build import Build, build
from maestro_release.lock import release_lock
from maestro_release.workspace import read_workspace


def result(done):
    return json.loads(done.stdout)


def test_publish_then_nothing_to_do_then_a_conflict(two):
    first = two.release("publish", "--json")
    assert first.returncode == 0, first.stderr
    value = result(first)
    assert set(value["uploaded"]) == two.files
    assert value["proven_before"] is False
    assert [p["name"] for p in value["packages"]] == ["maestro-beta", "maestro-alpha"]
    assert first.stderr.startswith("index    the embedded index at http://127.0.0.1:")
    assert two.listed() == {f["filename"]: f["sha256"] for f in value["files"]}

    second = two.release("publish")
    assert second.returncode == 0
    assert "upload   nothing: the index has every file" in second.stdout
    assert "verify   not again" in second.stdout

    before = two.listed()
    code = two.root / "packages/beta/maestro_beta/__init__.py"
    code.write_text(code.read_text(encoding="utf-8") + "# \n", encoding="utf-8")
    two.package("alpha", version="1.1.0")
    third = two.release("publish", "--json")
    assert third.returncode == 4
    differences = result(third)["differences"]
    assert {d["filename"] for d in differences} == {f for f in two.files if "beta" in f}
    assert {d["published"] for d in differences} <= set(before.values())
    for difference in differences:
        assert difference["built"] in third.stderr
        assert difference["published"] in third.stderr
    assert two.listed() == before, "something was uploaded in spite of the conflict"
    assert two.release("plan").returncode == 4

    # One changed file and a new version: exactly this package rises.
    two.package("alpha", requires='"maestro-beta>=1"', extras='x = ["maestro-beta"]')
    two.package("beta", version="1.0.1")
    fourth = two.release("publish", "--json", "--no-verify")
    assert sorted(result(fourth)["uploaded"]) == [
        "maestro_beta-1.0.1-py3-none-any.whl",
        "maestro_beta-1.0.1.tar.gz",
    ]

    verified = two.release("verify", "--json", "beta==1.0.0", "alpha")
    assert verified.returncode == 0, verified.stderr
    assert [
        (s["name"], s["version"], s["extras"]) for s in result(verified)["verified"]
    ] == [
        ("maestro-beta", "1.0.0", []),
        ("maestro-alpha", "1.0.0", ["x"]),
    ]
    missing = two.release("verify", "beta==9.0.0")
    assert missing.returncode == 2
    assert "there is 1.0.0, 1.0.1" in missing.stderr


def test_a_dry_run_uploads_nothing_and_checks_all(two, front):
    done = two.release("publish", "--dry-run", "--json")
    assert done.returncode == 0
    assert len(result(done)["files"]) == 4
    assert result(done)["uploaded"] == []
    assert two.listed() == {}


@pytest.mark.drill
def test_verification_by_pip_alone(two):
    two.release("publish", "--no-verify")
    done = two.release("verify", "--installer", "pip", "alpha")
    assert done.returncode == 0, done.stderr
    assert "2 environments by pip" in done.stdout


@pytest.mark.drill
def test_an_import_that_fails_is_found_after_the_upload(checkout):
    checkout.package("alpha", code="import module_that_nobody_has\n")
    done = checkout.release("publish")
    assert done.returncode == 1
    assert "module_that_nobody_has" in done.stderr
    again = checkout.release("publish")
    assert again.returncode == 1, "a failed proof was remembered as proven"
    assert "upload   nothing" in again.stdout


@pytest.mark.drill
def test_an_extra_without_a_solution_is_named(checkout):
    checkout.package("alpha", extras='x = ["maestro-missing>=1"]')
    done = checkout.release("publish")
    assert done.returncode == 1
    assert "maestro-missing" in done.stderr
    assert "resolving maestro-alpha[x]==1.0.0 by uv failed:" in done.stderr


@pytest.mark.drill
def test_without_a_network_the_proof_says_so_and_the_files_stay(checkout):
    checkout.package("alpha", requires='"tenacity>=8"')
    away = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_FIND_LINKS": ""}
    done = checkout.release("publish", **away)
    assert done.returncode == 1
    first = done.stderr.splitlines()[0]
    assert "installing maestro-alpha==1.0.0 by pip failed" in first
    assert "cannot reach its upstream: is this machine offline?" in first
    assert len(checkout.listed()) == 2


@pytest.mark.drill
def test_a_command_that_does_not_start_is_found_by_verify(checkout):
    folder = checkout.package("alpha")
    file = folder / "pyproject.toml"
    text = file.read_text(encoding="utf-8")
    file.write_text(
        text + '\n[project.scripts]\nalpha-x = "maestro_alpha:nothing"\n', "utf-8"
    )
    assert checkout.release("publish", "--no-verify").returncode == 0
    done = checkout.release("verify")
    assert done.returncode == 1
    assert "alpha-x --help: exit code 1" in done.stderr


def test_a_gate_stops_before_the_upload(checkout, front):
    checkout.package("alpha", requires='"maestro-beta @ file:///tmp/beta"')
    checkout.package("beta")
    done = checkout.release("publish")
    assert done.returncode == 1
    assert "points at an address" in done.stderr
    assert checkout.listed() == {}


@pytest.mark.drill
def test_a_readme_that_does_not_render_stops_before_the_upload(checkout):
    folder = checkout.package("alpha", readme="Title\n=\n\n.. nonsense::\n\n`x\n")
    (folder / "README.md").rename(folder / "README.rst")
    file = folder / "pyproject.toml"
    text = file.read_text(encoding="utf-8").replace("README.md", "README.rst")
    file.write_text(text, encoding="utf-8")
    done = checkout.release("publish")
    assert done.returncode == 1
    assert "twine:" in done.stderr
    assert checkout.listed() == {}


def test_a_package_that_does_not_build_is_named(checkout):
    folder = checkout.package("alpha")
    shutil.rmtree(folder / "maestro_alpha")
    done = checkout.release("build")
    assert done.returncode == 1
    assert "alpha does not build" in done.stderr


def test_the_first_that_does_not_build_is_named_whichever_child_met_it(checkout):
    for name in ("alpha", "beta", "gamma", "delta"):
        checkout.package(name)
    for name in ("beta", "delta"):
        shutil.rmtree(checkout.root / "packages" / name / f"maestro_{name}")
    done = checkout.release("build")
    assert done.returncode == 1
    assert "beta does not build (wheel)" in done.stderr
    assert [path.name for path in (checkout.root / "dist").iterdir()] == [".lock"]


def test_a_child_that_dies_ends_the_build(checkout, monkeypatch, tmp_path):
    for name in ("alpha", "beta", "gamma"):
        checkout.package(name)
    dying = tmp_path / "dying.py"
    dying.write_text("import sys; sys.exit('no memory')\n", encoding="utf-8")
    monkeypatch.setattr("maestro_release.build.BUILDER", dying)
    done = checkout.release("build")
    assert done.returncode == 1
    assert "ended with code 1 after 0 files: no memory" in done.stderr


BUILDING = """
import sys, time
from pathlib import Path
from maestro_release.build import Build
from maestro_release.workspace import read_workspace
root = Path(sys.argv[1])
with Build(read_workspace(root).packages, root / "dist"):
    print("begun", flush=True)
    time.sleep(60)
"""


def test_the_next_build_removes_what_a_killed_one_left(checkout):
    checkout.package("alpha")
    process = subprocess.Popen(
        [sys.executable, "-c", BUILDING, checkout.root],
        stdout=subprocess.PIPE, encoding="utf-8", start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.stdout.readline() == "begun\n"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    dist = checkout.root / "dist"
    [left] = dist.glob(".building-*")
    packages = read_workspace(checkout.root).packages
    with Build(packages, dist) as running:  # one that goes on is left alone
        assert not left.exists()
        assert len(build(packages, dist)) == 2
        assert len(list(dist.glob(".building-*"))) == 1
        assert len(running.finish()) == 2
    assert list(dist.glob(".building-*")) == []


def test_files_come_in_the_order_of_the_packages(checkout):
    for name in ("alpha", "beta", "gamma"):
        checkout.package(name)
    packages = read_workspace(checkout.root).packages
    found = build(packages, checkout.root / "dist")
    assert [(a.package.name, a.kind) for a in found] == [
        (package.name, kind) for package in packages for kind in ("wheel", "sdist")
    ]
    assert build([], checkout.root / "dist") == ()


def test_publish_proves_by_uv_where_asked(two, monkeypatch):
    done = two.release("publish", "--installer", "uv")
    assert done.returncode == 0, done.stderr
    assert "2 packages by uv, imported" in done.stdout
    monkeypatch.setattr("maestro_release.verify.find_uv", lambda: None)
    done = two.release("publish", "--installer", "uv")
    assert done.returncode == 2
    assert "uv is not in this environment; use --installer pip" in done.stderr


def test_check_builds_again_and_finds_the_same_bytes(two):
    done = two.release("check")
    assert done.returncode == 0, done.stderr
    assert "4 files came out the same byte for byte" in done.stdout


def test_the_password_is_wrong(two, front):
    done = two.release("publish", MAESTRO_INDEX_PASSWORD="a-wrong-secret")
    assert done.returncode == 3
    assert "does not accept the password of user 'deployer'" in done.stderr
    assert "MAESTRO_INDEX_PASSWORD" in done.stderr
    assert "a-wrong-secret" not in done.stdout + done.stderr
    assert two.listed() == {}


def test_no_password_at_all(two, front):
    del two.environment["MAESTRO_INDEX_USER"], two.environment["MAESTRO_INDEX_PASSWORD"]
    done = two.release("publish")
    assert done.returncode == 3
    assert "no user and password" in done.stderr


@pytest.mark.drill
def test_the_password_is_not_in_any_command_line(two, front):
    seen = []

    def look(_number):
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                with open(f"/proc/{entry}/cmdline", encoding="utf-8") as file:
                    seen.append(file.read())

    front.answer = look
    process = two.start("publish", "--no-verify")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert any("maestro_release" in line for line in seen)
    assert two.environment["MAESTRO_INDEX_PASSWORD"] not in output
    assert not any(two.environment["MAESTRO_INDEX_PASSWORD"] in line for line in seen)


def test_nothing_answers(two):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        done = two.release("publish", MAESTRO_INDEX_URL=url)
    assert done.returncode == 3
    assert "cannot be reached (connection refused)" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_port_is_taken_by_something_else(two):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])

        def answer():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = other.accept()
                    connection.sendall(b"220 mail ready\r\n")
                    connection.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        done = two.release("publish", MAESTRO_INDEX_PORT=port)
        other.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    assert done.returncode == 3
    assert f"port {port} is taken by something that is not an index" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_502_in_the_middle_is_survived(two, front):
    front.answer = lambda number: 502 if number == 2 else None
    done = two.release("publish", "--no-verify")
    assert done.returncode == 0, done.stderr
    assert sorted(front.uploads) == sorted(two.files)


@pytest.mark.drill
def test_an_answer_that_got_lost_is_no_conflict(two, front):
    # The server took the file, the client saw 502 and sends it again: 400.
    front.answer = lambda number: "lose" if number == 2 else None
    done = two.release("publish", "--no-verify")
    assert done.returncode == 0, done.stderr
    assert set(two.listed()) == two.files


@pytest.mark.drill
def test_an_index_that_stays_down_is_explained_and_the_next_run_goes_on(two, front):
    front.answer = lambda number: None if number <= 2 else 502
    done = two.release("publish", "--no-verify")
    assert done.returncode == 3
    assert "2 of 4 files are published, run the same command again" in done.stderr
    front.answer = lambda _: None
    assert two.release("publish", "--no-verify").returncode == 0
    assert sorted(front.uploads) == sorted(two.files), "a file was sent twice"


@pytest.mark.drill
def test_a_full_disk_on_the_index_is_explained(two, front):
    front.answer = lambda number: 507 if number >= 2 else None
    done = two.release("publish", "--no-verify")
    assert done.returncode == 3
    assert "no space left" in done.stderr
    front.answer = lambda _: None
    assert two.release("publish", "--no-verify").returncode == 0
    assert sorted(front.uploads) == sorted(two.files)


@pytest.mark.drill
def test_a_server_that_stalls_is_given_up(two, front):
    (two.root / "tools").mkdir()
    (two.root / "tools" / "release.yaml").write_text(
        "index:\n  upload_timeout: 1.5\n", encoding="utf-8"
    )
    ended = threading.Event()
    front.answer = lambda _: ended.wait(60) and 502
    done = two.release("publish", "--no-verify")
    ended.set()
    assert done.returncode == 3
    assert "took no data for 2 s" in done.stderr
    assert "0 of 4 files are published" in done.stderr


def test_kill_9_between_two_files_and_go_on(two, front):
    front.kill_after(two.start("publish", "--no-verify"), 1)
    done = two.release("publish", "--no-verify", "--json")
    assert done.returncode == 0, done.stderr
    assert sorted(front.uploads) == sorted(two.files), "a file was sent twice"
    assert len(result(done)["uploaded"]) == 3


@pytest.mark.drill
def test_an_upload_that_arrives_after_its_sender_was_killed(two, front):
    """The server holds a request whose sender is dead; the next run sends it too."""
    reached, go_on = threading.Event(), threading.Event()

    def answer(number):
        if number == 1:
            reached.set()
            go_on.wait(60)

    front.answer = answer
    process = two.start("publish", "--no-verify")
    assert reached.wait(60)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    timer = threading.Timer(1.0, go_on.set)
    timer.start()
    done = two.release("publish", "--no-verify")
    timer.join()
    assert done.returncode == 0, done.stderr
    assert set(two.listed()) == two.files
    assert two.release("publish", "--no-verify").stdout.count("upload   nothing") == 1


@pytest.mark.drill
def test_a_second_release_says_whom_it_waits_for(two, front):
    reached, go_on = threading.Event(), threading.Event()

    def answer(number):
        if number == 1:
            reached.set()
            go_on.wait(60)

    front.answer = answer
    process = two.start("publish", "--no-verify")
    assert reached.wait(60)
    refused = two.release("publish", "--wait", "0")
    assert refused.returncode == 1
    assert f"another release (process {process.pid})" in refused.stderr
    second = two.start("publish", "--no-verify")
    assert wait_for_line(second, "waiting for another release")
    go_on.set()
    rest, _ = second.communicate(timeout=60)
    process.communicate()
    assert second.returncode == 0, rest
    assert sorted(front.uploads) == sorted(two.files)


def test_every_file_leaves_a_line_and_two_go_at_once(two, front):
    """Side by side, but alpha's files come after those of beta, which it needs."""
    together = threading.Barrier(2)

    def answer(_number):
        together.wait(30)  # would break if files came one after the other

    front.answer = answer
    done = two.release("publish", "--no-verify")
    assert done.returncode == 0, done.stderr
    lines = [line.split(",")[0].strip() for line in done.stdout.splitlines()]
    assert two.files <= set(lines)
    assert ["beta" in name for name in front.uploads] == [True, True, False, False]


def wait_for_line(process, text):
    return any(text in line for line in process.stdout)


@pytest.mark.drill
def test_other_bytes_that_appear_meanwhile_are_a_conflict(two, front, tmp_path_factory):
    """Another checkout publishes the version between our look and our upload."""
    other = type(two)(tmp_path_factory.mktemp("other"), dict(two.environment))
    other.package("alpha", code="OTHER = 1\n")
    other.package("beta", code="OTHER = 2\n")
    other.environment["MAESTRO_INDEX_URL"] = front.behind
    meanwhile, outputs = threading.Lock(), []

    def answer(_number):
        with meanwhile:  # nothing of ours arrives before all of the other's has
            if not outputs:
                process = other.start("publish", "--no-verify")
                outputs.append(process.communicate(timeout=60)[0])

    front.answer = answer
    done = two.release("publish", "--no-verify", "--json")
    assert done.returncode == 4
    assert (
        "somebody else published them while this release was uploading" in done.stderr
    )
    assert len(result(done)["differences"]) == 4


def test_two_publishers_at_once(two, front):
    both = [two.start("publish", "--no-verify") for _ in range(2)]
    outputs = [process.communicate(timeout=90)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sorted(front.uploads) == sorted(two.files)
    assert sum("upload   nothing" in text for text in outputs) == 1


@pytest.mark.drill
def test_publishers_in_two_checkouts_meet_at_the_index(two, front, tmp_path_factory):
    """No lock between machines: the index decides, equal bytes are success."""
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(two.root / "packages", other / "packages")
    processes = [
        two.start("publish", "--no-verify"),
        subprocess.Popen(
            [*two.command("publish", "--no-verify")[:-1], str(other)],
            env=two.env(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        ),
    ]
    outputs = [process.communicate(timeout=90)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert set(two.listed()) == two.files


def test_interrupted_it_ends_with_130_and_no_trace(two, front):
    reached = threading.Event()
    front.answer = lambda _: reached.set()
    process = two.start("publish")
    assert reached.wait(60)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in output
    with release_lock(two.root / "dist", wait=10, waiting=print):
        pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["publish", "alhpa"], "did you mean 'alpha'"),
        (["verify", "gamma"], "no package 'gamma'"),
    ],
)
def test_usage_faults(two, arguments, message):
    two.environment["MAESTRO_INDEX_PORT"] = "0"
    done = two.release(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_help_shows_examples_and_exit_codes():
    done = subprocess.run(
        [sys.executable, "-P", "-m", "maestro_release", "--help"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert "maestro-release publish" in done.stdout
    assert "4 a version is published with other bytes" in done.stdout


def test_the_index_is_left_running_with_a_private_password(two):
    two.release("plan")
    port = control.read_json(two.root / ".index" / "server.json")["port"]
    assert control.probe(port).kind == "embedded"
    mode = (two.root / ".index" / "credentials.json").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
