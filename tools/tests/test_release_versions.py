"""Versions from fragments, git and the API; changelogs and tags."""

import json
import subprocess
from pathlib import Path

import pytest
from maestro_release.errors import GateFailed
from maestro_release.fragments import read_fragments
from maestro_release.versions import Level, left_behind, propose, raised
from maestro_release.workspace import Package, read_workspace
from packaging.version import Version

CODE = '"""Beta."""\n\n\ndef call(what, times=1):\n    return what * times\n'
BROKEN = '"""Beta."""\n\n\ndef call(what, where, times=1):\n    return what * times\n'
WIDER = CODE + "\n\ndef more():\n    return 1\n"


def package(version="1.2.3", name="maestro-beta", **more):
    return Package(name=name, version=version, folder=Path("beta"), **more)


@pytest.mark.parametrize(
    ("version", "level", "wanted"),
    [
        ("1.2.3", Level.NONE, "1.2.3"),
        ("1.2.3", Level.PATCH, "1.2.4"),
        ("1.2.3", Level.MINOR, "1.3.0"),
        ("1.2.3", Level.MAJOR, "2.0.0"),
        ("0.2.3", Level.MAJOR, "0.3.0"),
        ("1.2", Level.PATCH, "1.2.1"),
    ],
)
def test_raised(version, level, wanted):
    assert raised(Version(version), level) == Version(wanted)


@pytest.mark.parametrize(
    ("now", "kinds", "changed", "breaks", "to", "reasons"),
    [
        ("1.2.3", [], [], [], "1.2.3", ("unchanged",)),
        ("1.2.3", ["fixed", "fixed"], ["a.py"], [], "1.2.4", ("2 fixed",)),
        ("1.2.3", ["fixed", "added"], ["a.py"], [], "1.3.0", ("1 fixed", "1 added")),
        (
            "1.2.3",
            ["fixed"],
            ["a.py"],
            ["x"],
            "2.0.0",
            ("1 fixed", "1 break of the API"),
        ),
        ("1.2.3", [], ["a.py"], [], "1.2.4", ("1 file changed, no change fragment",)),
        ("1.4.0", ["added"], ["a.py"], [], "1.4.0", ("1 added", "raised already")),
        ("1.2.4", ["added"], ["a.py"], [], "1.3.0", ("1 added",)),
    ],
)
def test_proposals(now, kinds, changed, breaks, to, reasons):
    levels = {"fixed": Level.PATCH, "added": Level.MINOR}
    found = propose(
        package(now),
        Version("1.2.3"),
        kinds=[(kind, levels[kind]) for kind in kinds],
        changed=changed,
        breaks=breaks,
    )
    assert (str(found.to), found.reasons) == (to, reasons)
    assert found.rises == (to != now)


def test_a_package_without_a_tag_keeps_its_version():
    found = propose(package(), None, kinds=[], changed=["a.py"], breaks=[])
    assert (str(found.to), found.reasons, found.pending) == (
        "1.2.3",
        ("first release",),
        True,
    )


def test_siblings_whose_range_is_left_are_named():
    siblings = [
        package(name="maestro-a", requires=("maestro-beta>=1,<2",)),
        package(name="maestro-c", extras=(("x", ("Maestro_Beta>=1",)),)),
    ]
    assert left_behind(siblings, "maestro-beta", Version("2.0.0")) == (
        "maestro-a wants maestro-beta>=1,<2",
    )
    assert left_behind(siblings, "maestro-beta", Version("1.9.0")) == ()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("12.fixd.md", "x", "did you mean 'fixed'"),
        ("fixed.md", "x", "NUMBER.KIND.md"),
        ("12.fixed.md", " \n", "empty"),
    ],
)
def test_a_wrong_fragment_is_named(checkout, name, text, message):
    folder = checkout.package("beta")
    (folder / "changes").mkdir()
    (folder / "changes" / name).write_text(text, encoding="utf-8")
    with pytest.raises(GateFailed, match=message):
        read_fragments(read_workspace(checkout.root).packages[0])


@pytest.fixture
def repository(checkout, require_program):
    """A git repository with one package, released as 1.0.0."""
    require_program("git")
    folder = checkout.package("beta", code=CODE)
    (folder / "changes").mkdir()
    (folder / "changes" / ".gitkeep").touch()
    text = "# Changelog\n\n## 1.0.0 (2026-01-01)\n\n### Added\n\n- All.\n"
    (folder / "CHANGELOG.md").write_text(text, encoding="utf-8")
    (checkout.root / ".gitignore").write_text(
        ".index/\n.maestro/\ndist/\n", encoding="utf-8"
    )
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        checkout.environment[f"{name}_NAME"] = "A maintainer"
        checkout.environment[f"{name}_EMAIL"] = "a@example.com"
    git(checkout, "init", "-q")
    commit(checkout)
    git(checkout, "tag", "maestro-beta/v1.0.0")
    return checkout


def git(checkout, *arguments):
    done = subprocess.run(
        ["git", "-C", checkout.root, *arguments],
        env=checkout.env(),
        check=True,
        capture_output=True,
        encoding="utf-8",
    )
    return done.stdout


def commit(checkout):
    git(checkout, "add", "-A")
    git(checkout, "commit", "-q", "-m", "Change")


def edit(checkout, code):
    path = checkout.root / "packages/beta/maestro_beta/__init__.py"
    path.write_text(code, encoding="utf-8")


def fragment(checkout, name, text="Something."):
    path = checkout.root / "packages/beta/changes" / name
    path.write_text(text + "\n", encoding="utf-8")


def bumped(checkout, *arguments):
    done = checkout.release("bump", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["packages"][0]


def test_nothing_changed_nothing_rises(repository):
    assert bumped(repository)["to"] == "1.0.0"


def test_benchmarks_are_no_reason_to_release(
    repository,
):
    folder = repository.root / "packages/beta/benchmarks"
    folder.mkdir()
    (folder / "bench_x.py").write_text("x = 1\n", encoding="utf-8")
    assert bumped(repository)["reasons"] == ["unchanged"]


def test_a_break_is_found_raises_the_major_part_and_can_be_waived(repository):
    edit(repository, BROKEN)
    fragment(repository, "1.fixed.md")
    found = bumped(repository)
    assert found["to"] == "2.0.0"
    assert "maestro_beta.call(where)" in " ".join(found["breaks"])

    waivers = repository.root / "tools" / "api-waivers.toml"
    waivers.parent.mkdir()
    waivers.write_text(
        "[maestro-beta]\n"
        '"maestro_beta.call(where)" = "nobody calls it"\n'
        '"maestro_beta.call(times)" = "nobody calls it"\n',
        encoding="utf-8",
    )
    found = bumped(repository)
    assert found["to"] == "1.0.1"
    assert all("waived: nobody calls it" in text for text in found["breaks"])

    waivers.write_text(
        '[maestro-beta]\n"maestro_beta.call(where)" = ""\n', encoding="utf-8"
    )
    done = repository.release("bump")
    assert done.returncode == 2
    assert "has no reason" in done.stderr


def test_write_raises_the_version_and_moves_the_fragments(repository):
    edit(repository, WIDER)
    fragment(repository, "+more.added.md", "`more()` gives one.")
    fragment(repository, "7.fixed.md", "Calls end.")
    found = bumped(repository, "--write", "--date", "2026-02-03")
    assert found["to"] == "1.1.0"
    folder = repository.root / "packages/beta"
    assert 'version = "1.1.0"' in (folder / "pyproject.toml").read_text(
        encoding="utf-8"
    )
    assert (
        (folder / "CHANGELOG.md")
        .read_text(encoding="utf-8")
        .startswith(
            "# Changelog\n\n## 1.1.0 (2026-02-03)\n\n### Added\n\n- `more()` gives one.\n\n"
            "### Fixed\n\n- Calls end. (7)\n\n## 1.0.0 (2026-01-01)\n"
        )
    )
    assert [p.name for p in (folder / "changes").iterdir()] == [".gitkeep"]
    # Once more: the version stands already, nothing rises a second time.
    again = bumped(repository, "--write")
    assert (again["now"], again["to"]) == ("1.1.0", "1.1.0")


def test_the_first_release_gets_its_date(repository):
    git(repository, "tag", "-d", "maestro-beta/v1.0.0")
    path = repository.root / "packages/beta/CHANGELOG.md"
    path.write_text("# Changelog\n\n## 1.0.0 (unreleased)\n", encoding="utf-8")
    assert bumped(repository, "--write", "--date", "2026-02-03")["to"] == "1.0.0"
    assert path.read_text(encoding="utf-8") == "# Changelog\n\n## 1.0.0 (2026-02-03)\n"


def test_a_wrong_date_is_a_usage_fault(repository):
    assert repository.release("bump", "--date", "tomorrow").returncode == 2


def test_plan_proposes_a_version_and_tag_names_what_was_published(repository, front):
    git(repository, "tag", "-d", "maestro-beta/v1.0.0")
    done = repository.release("tag")
    assert done.returncode == 1
    assert "publish first, then tag" in done.stderr

    assert repository.release("publish", "--no-verify").returncode == 0
    done = repository.release("tag", "--json")
    assert json.loads(done.stdout)["tags"] == [
        {"tag": "maestro-beta/v1.0.0", "new": True}
    ]
    assert git(repository, "cat-file", "-t", "maestro-beta/v1.0.0") == "tag\n"
    done = repository.release("tag", "--json")
    assert json.loads(done.stdout)["tags"] == [
        {"tag": "maestro-beta/v1.0.0", "new": False}
    ]

    edit(repository, WIDER)
    fragment(repository, "1.added.md")
    done = repository.release("plan")
    assert done.returncode == 4
    assert "1.1.0 proposed" in done.stdout
    bumped(repository, "--write")
    done = repository.release("publish", "--no-verify")
    assert done.returncode == 0
    done = repository.release("tag")
    assert done.returncode == 1
    assert "not committed" in done.stderr
    commit(repository)
    assert repository.release("tag").returncode == 0
    assert "maestro-beta/v1.1.0" in git(repository, "tag")


def test_without_git_a_bump_says_so(checkout):
    checkout.package("beta")
    done = checkout.release("bump", GIT_CEILING_DIRECTORIES=str(checkout.root.parent))
    assert done.returncode == 2
    assert "not a git repository" in done.stderr


@pytest.mark.drill
def test_a_tag_on_other_sources_is_refused(repository, front):
    edit(repository, WIDER)
    commit(repository)
    assert repository.release("publish", "--no-verify").returncode == 0
    done = repository.release("tag")
    assert done.returncode == 2
    assert "maestro-beta/v1.0.0 exists" in done.stderr
