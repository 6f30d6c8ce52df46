"""Finding packages and putting them in order."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from maestro_release.errors import UsageFault
from maestro_release.graph import dependants, in_order, needs
from maestro_release.workspace import (
    Package,
    Workspace,
    find_root,
    normalise,
    read_workspace,
)


def package(name: str, *requires: str, **extras: tuple[str, ...]) -> Package:
    return Package(
        name=name,
        version="1.0.0",
        folder=Path(name),
        requires=requires,
        extras=tuple(extras.items()),
    )


def test_reads_what_the_files_say(checkout):
    checkout.package("beta", requires='"maestro-alpha>=1"', extras='x = ["tenacity"]')
    checkout.package("alpha", version="2.1.0")
    found = read_workspace(checkout.root)
    assert [(p.name, p.version) for p in found.packages] == [
        ("maestro-alpha", "2.1.0"),
        ("maestro-beta", "1.0.0"),
    ]
    beta = found.packages[1]
    assert beta.requires == ("maestro-alpha>=1",)
    assert beta.extras == (("x", ("tenacity",)),)
    assert (beta.short, beta.module) == ("beta", "maestro_beta")
    assert beta.tag == "maestro-beta/v1.0.0"


def test_the_root_is_found_from_a_folder_below(checkout):
    folder = checkout.package("alpha")
    assert find_root(folder / "maestro_alpha") == checkout.root


def test_no_root_above_is_a_usage_fault(tmp_path):
    with pytest.raises(UsageFault, match="--root"):
        find_root(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[project]\nname = 'x'\n", "no version"),
        ("[project]\nversion = '1'\n", "no name"),
        ("[project\n", "pyproject.toml"),
    ],
)
def test_a_broken_file_is_named(checkout, text, message):
    folder = checkout.package("alpha")
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UsageFault, match=message):
        read_workspace(checkout.root)


def test_two_folders_with_one_name_are_refused(checkout):
    checkout.package("alpha")
    other = checkout.package("beta")
    file = other / "pyproject.toml"
    text = file.read_text(encoding="utf-8").replace("maestro-beta", "Maestro_Alpha")
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageFault, match="maestro-alpha is named by two folders"):
        read_workspace(checkout.root)


def test_select_knows_short_and_full_names_and_hints():
    space = Workspace(
        root=Path(),
        packages=(package("maestro-resilience"), package("maestro-audit")),
    )
    assert space.select([]) == space.packages
    assert [p.name for p in space.select(["Maestro.Resilience"])] == [
        "maestro-resilience"
    ]
    with pytest.raises(UsageFault, match="did you mean 'maestro-audit'"):
        space.select(["maestro-audti"])


def test_order_follows_needs_and_extras_count():
    packages = (
        package("maestro-a", all=("maestro-c[x]>=1 ; python_version>'3'",)),
        package("maestro-b"),
        package("maestro-c", "Maestro_B>=1"),
    )
    assert [p.name for p in in_order(packages)] == [
        "maestro-b",
        "maestro-c",
        "maestro-a",
    ]
    assert dependants(packages, "maestro-c") == ("maestro-a",)


def test_a_circle_is_named():
    packages = (package("maestro-a", "maestro-b"), package("maestro-b", "maestro-a"))
    with pytest.raises(UsageFault, match=r"maestro-. -> maestro-. -> maestro-."):
        in_order(packages)


@given(st.lists(st.lists(st.integers(0, 7), max_size=4), min_size=1, max_size=8))
def test_each_comes_after_what_it_needs(edges):
    packages = [
        package(f"maestro-{i}", *(f"maestro-{j}" for j in below if j < i))
        for i, below in enumerate(edges)
    ][::-1]
    order = [p.name for p in in_order(packages)]
    assert sorted(order) == sorted(p.name for p in packages)
    for name, before in needs(packages).items():
        assert all(order.index(b) < order.index(name) for b in before)


@given(st.text("aA-_.", min_size=1, max_size=8))
def test_normalising_twice_changes_nothing(name):
    assert normalise(normalise(name)) == normalise(name)
