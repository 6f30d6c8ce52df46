"""The plan is a pure comparison of what was built with what is published."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from maestro_release.build import Artefact
from maestro_release.errors import Conflict
from maestro_release.index import Server
from maestro_release.plan import (
    Plan,
    State,
    equivalent,
    latest,
    make_plan,
    with_equivalents,
)
from maestro_release.workspace import Package

SERVER = Server(kind="embedded", url="http://127.0.0.1:1")
ALPHA = Package(name="maestro-alpha", version="1.1.0", folder=Path("alpha"))
BETA = Package(
    name="maestro-beta",
    version="1.0.0",
    folder=Path("beta"),
    requires=("maestro-alpha>=1",),
)
WHEEL = "maestro_alpha-1.1.0-py3-none-any.whl"
SDIST = "maestro_alpha-1.1.0.tar.gz"


def artefacts(*names):
    return [
        Artefact(
            package=ALPHA if "alpha" in name else BETA,
            kind="wheel" if name.endswith(".whl") else "sdist",
            path=Path("dist", name),
            sha256=f"hash of {name}",
            size=1,
        )
        for name in names
    ]


def plan_for(published):
    return make_plan(
        SERVER,
        [ALPHA],
        artefacts(WHEEL, SDIST),
        {"maestro-alpha": published},
        [ALPHA, BETA],
    )


@pytest.mark.parametrize(
    ("published", "states", "why", "on_index"),
    [
        ({}, ["new", "new"], "never published", "nothing"),
        ({"maestro_alpha-1.0.0.tar.gz": ""}, ["new", "new"], "new version", "nothing"),
        (
            {WHEEL: f"hash of {WHEEL}"},
            ["same", "new"],
            "half published, sdist missing",
            "1 same",
        ),
        (
            {WHEEL: f"hash of {WHEEL}", SDIST: f"hash of {SDIST}"},
            ["same", "same"],
            "unchanged",
            "2 same",
        ),
        (
            {WHEEL: "another"},
            ["conflict", "new"],
            "changed without a new version",
            "1 conflict",
        ),
    ],
)
def test_states(published, states, why, on_index):
    plan = plan_for(published)
    assert [f.state for f in plan.files] == states
    assert (plan.packages[0].why, plan.packages[0].on_index) == (why, on_index)
    assert plan.packages[0].needed_by == ("maestro-beta",)
    assert [f.filename for f in plan.uploads] == [
        f.filename for f in plan.files if f.state is State.NEW
    ]


def test_a_conflict_names_the_file_and_both_hashes():
    with pytest.raises(Conflict) as caught:
        plan_for({WHEEL: "another"}).refuse_conflicts()
    text = str(caught.value)
    assert WHEEL in text
    assert f"hash of {WHEEL}" in text
    assert "another" in text
    assert caught.value.exit_code == 4


def test_a_plan_survives_json():
    plan = plan_for({WHEEL: "another"})
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_the_latest_version_is_compared_as_versions():
    names = ["maestro_a-1.10.0.tar.gz", "maestro_a-1.9.0-py3-none-any.whl", "odd.zip"]
    assert latest(dict.fromkeys(names, "")) == "1.10.0"
    assert latest({}) is None


def wheel(
    generator="poetry-core 2.5.0", code=b"x = 1\n", compression=zipfile.ZIP_STORED
):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        archive.writestr("maestro_alpha/__init__.py", code)
        info = "maestro_alpha-1.1.0.dist-info"
        archive.writestr(
            f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: {generator}\n"
        )
        archive.writestr(f"{info}/RECORD", f"hash of {generator}")
    return content.getvalue()


def sdist(code=b"x = 1\n", mode="w:gz"):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:
        member = tarfile.TarInfo("maestro_alpha-1.1.0/a.py")
        member.size = len(code)
        archive.addfile(member, io.BytesIO(code))
    return content.getvalue()


def test_another_generator_is_equivalent_and_another_line_is_not():
    assert equivalent(WHEEL, wheel(), wheel("poetry-core 2.6.0"))
    assert equivalent(WHEEL, wheel(), wheel(compression=zipfile.ZIP_DEFLATED))
    assert not equivalent(WHEEL, wheel(), wheel(code=b"x = 2\n"))
    assert not equivalent(WHEEL, wheel(), b"no zip")
    assert equivalent(SDIST, sdist(), sdist(mode="w:xz"))
    assert not equivalent(SDIST, sdist(), sdist(b"x = 2\n"))


def test_an_equivalent_file_is_no_conflict_and_keeps_the_published_hash():
    plan = with_equivalents(plan_for({WHEEL: "another"}), {WHEEL: True})
    plan.refuse_conflicts()
    file = plan.files[0]
    assert (file.state, file.expected) == (State.EQUIVALENT, "another")
    assert [f.filename for f in plan.uploads] == [SDIST]
    assert plan.packages[0].on_index == "1 equivalent"
