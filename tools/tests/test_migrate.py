"""The codemod changes what it must and nothing else."""

import ast
import json
import os
import random
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import libcst as cst
import pytest
from libcst.helpers import get_full_name_for_node
from maestro_migrate import migrate, report
from maestro_migrate.__main__ import main
from maestro_migrate.apply import edited
from maestro_migrate.dependencies import edit_pyproject, edit_requirements
from maestro_migrate.errors import GuardError, MappingError
from maestro_migrate.find import Edit, find
from maestro_migrate.mapping import DEFAULT, Package, load_mapping

MAPPING = """
[[package]]
name = "maestro-resilience"
module = "maestro_resilience"
old = ["src.resilience"]
names = ["CircuitBreaker", "Retry", "Timeout"]
rename = { Breaker = "CircuitBreaker" }

[[package]]
name = "maestro-test-adapters"
module = "maestro_test_adapters"
old = ["services.adapters.test_adapters"]
names = ["SeleniumAdapter", "PytestAdapter"]
"""


@pytest.fixture
def mapping(tmp_path):
    path = tmp_path / "mapping.toml"
    path.write_text(MAPPING, encoding="utf-8")
    return load_mapping(path)


def change(text: str, mapping, module: str = "src.api.client", **options) -> str:
    options.setdefault("is_module", lambda name: name == "src.resilience.retry")
    found = find(text, module, mapping, **options)
    return edited(text, found.edits, found.tree) if found.edits else text


CASES = {
    "from src.resilience.circuit_breaker import CircuitBreaker\n": (
        "from maestro_resilience import CircuitBreaker\n"
    ),
    "from src.resilience.retry import Retry as R  # keep\n": (
        "from maestro_resilience import Retry as R  # keep\n"
    ),
    "from src.resilience import (\n    Retry,  # why\n    Timeout,\n)\n": (
        "from maestro_resilience import (\n    Retry,  # why\n    Timeout,\n)\n"
    ),
    "from ..resilience.retry import Retry\n": "from maestro_resilience import Retry\n",
    "from  src . resilience  import Retry\n": "from  maestro_resilience  import Retry\n",
    "import src.resilience.retry as retry\n": "import maestro_resilience as retry\n",
    "import os, src.resilience as r, sys\n": "import os, maestro_resilience as r, sys\n",
    "from src.resilience import retry\nretry.Retry()\n": (
        "import maestro_resilience as retry\nretry.Retry()\n"
    ),
    "from src.resilience.circuit_breaker import Breaker\nBreaker()\n": (
        "from maestro_resilience import CircuitBreaker as Breaker\nBreaker()\n"
    ),
    "import src.resilience.retry\nx = src.resilience.retry.Retry(1)\n": (
        "import maestro_resilience\nx = maestro_resilience.Retry(1)\n"
    ),
    "try:\n    from src.resilience import Retry\nexcept ImportError:\n    Retry = None\n": (
        "try:\n    from maestro_resilience import Retry\nexcept ImportError:\n    Retry = None\n"
    ),
    "def f():\n    from src.resilience import Retry; return Retry\n": (
        "def f():\n    from maestro_resilience import Retry; return Retry\n"
    ),
    "from services.adapters.test_adapters import SeleniumAdapter\n": (
        "from maestro_test_adapters import SeleniumAdapter\n"
    ),
    "from src.resilience.retry import Retry, helper\n": (
        "from maestro_resilience import Retry\nfrom src.resilience.retry import helper\n"
    ),
    "if True:\n    from ..resilience import Retry as R, odd as o\n": (
        "if True:\n    from maestro_resilience import Retry as R\n"
        "    from ..resilience import odd as o\n"
    ),
    "@mock.patch('src.resilience.retry.Retry.call')\ndef t(m): pass\n": (
        "@mock.patch('maestro_resilience.Retry.call')\ndef t(m): pass\n"
    ),
    'with patch("src.resilience.retry.Retry", autospec=True): pass\n': (
        'with patch("maestro_resilience.Retry", autospec=True): pass\n'
    ),
    "m = importlib.import_module('src.resilience.retry')\n": (
        "m = importlib.import_module('maestro_resilience')\n"
    ),
    "é = 1; from src.resilience import Retry\n": "é = 1; from maestro_resilience import Retry\n",
    'from src.resilience import Retry\n__all__ = ["Retry"]\n': (
        'from maestro_resilience import Retry\n__all__ = ["Retry"]\n'
    ),
}


@pytest.mark.parametrize(("before", "after"), CASES.items())
def test_each_kind_of_import_is_changed(mapping, before, after):
    assert change(before, mapping) == after


@pytest.mark.parametrize("text", CASES.values())
def test_what_was_changed_needs_no_change(mapping, text):
    assert change(text, mapping) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from src.resilience import *\n", "star import"),
        ("from src.resilience import unknown\n", "has no 'unknown'"),
        ("x = 'src.resilience.retry.Retry'\n", "--strings"),
        ("patch('src.resilience.retry.Unknown')\n", "lacks"),
        (
            "import src.resilience.retry\nsrc.other.f(src.resilience.retry.Retry)\n",
            "used for other modules",
        ),
        (
            "x = 1; from src.resilience import Retry, odd\n",
            "several statements share a line",
        ),
    ],
)
def test_what_cannot_be_changed_is_named_with_its_line(mapping, text, message):
    found = find(text, "src.api.client", mapping)
    assert any(message in note.message for note in found.notes)
    assert change(text, mapping) == text
    assert found.notes[0].line >= 1


def test_strings_elsewhere_are_changed_on_demand(mapping):
    text = "x = 'src.resilience.retry.Retry'\n"
    assert change(text, mapping, strings=True) == "x = 'maestro_resilience.Retry'\n"


def test_the_guard_refuses_an_edit_that_changes_more(mapping):
    text = "from src.resilience import Retry\ny = 2\n"
    tree = ast.parse(text)
    wrong = Edit(
        5, len(text), "x import Retry\ny = 3\n", 1, tree.body[0], "from x import Retry"
    )
    with pytest.raises(GuardError, match="differs in more"):
        edited(text, [wrong], tree)


def service(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    return folder


@pytest.fixture
def small(tmp_path):
    return service(
        tmp_path / "small",
        {
            "src/__init__.py": "",
            "src/resilience/__init__.py": "from .retry import Retry\n",
            "src/resilience/retry.py": "class Retry:\n    def call(self, f):\n        return f()\n",
            "src/api/__init__.py": "",
            "src/api/client.py": "from ..resilience.retry import Retry\n",
            "requirements.txt": "requests>=2\n",
        },
    )


def test_a_dry_run_writes_nothing_and_exits_1(small, tmp_path, mapping, capsys):
    before = {p: p.read_bytes() for p in small.rglob("*") if p.is_file()}
    assert main(["run", str(small), "--mapping", str(tmp_path / "mapping.toml")]) == 1
    out = capsys.readouterr().out
    assert "-from ..resilience.retry import Retry" in out
    assert "+from maestro_resilience import Retry" in out
    assert {p: p.read_bytes() for p in small.rglob("*") if p.is_file()} == before


def test_a_second_run_changes_nothing(small, tmp_path, mapping, capsys):
    options = [
        "--write",
        "--remove-copies",
        "--mapping",
        str(tmp_path / "mapping.toml"),
    ]
    assert main(["run", str(small), *options]) == 0
    assert (small / "src/api/client.py").read_text("utf-8") == (
        "from maestro_resilience import Retry\n"
    )
    assert (small / "requirements.txt").read_text("utf-8") == (
        "requests>=2\nmaestro-resilience>=1.0,<2\n"
    )
    assert not (small / "src/resilience").exists()
    capsys.readouterr()
    assert main(["run", str(small), *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changed"] == []


def test_the_report_goes_from_old_to_new(small, tmp_path, mapping, capsys):
    before = report.measure(small, mapping)
    assert before.old_references == ["src/api/client.py:1"]
    assert (before.copy_lines, before.share) == (4, 0.0)
    migrate.carry_out(migrate.plan(small, mapping))
    migrate.remove_copies(migrate.plan(small, mapping), mapping)
    after = report.measure(small, mapping)
    assert after.old_references == []
    assert after.packages == {"maestro-resilience": ">=1.0,<2"}
    assert after.copies == {}
    page = report.as_page([before, after])
    assert "<svg" in page
    assert "maestro-resilience &gt;=1.0,&lt;2" in page


def test_a_copy_that_is_still_needed_stays(small, tmp_path, mapping, capsys):
    """A name that the package lacks keeps the module it comes from."""
    service(small, {"src/api/odd.py": "from src.resilience.retry import odd_one\n"})
    options = [
        "--write",
        "--remove-copies",
        "--mapping",
        str(tmp_path / "mapping.toml"),
    ]
    assert main(["run", str(small), *options]) == 1
    out = capsys.readouterr().out
    assert "kept src/resilience/retry.py: src/api/odd.py:1 still needs it" in out
    assert (small / "src/resilience/retry.py").exists()
    assert "maestro_resilience" in (small / "src/api/client.py").read_text("utf-8")


def test_a_string_keeps_its_copy_too(small, tmp_path, mapping):
    service(small, {"src/api/names.py": "PLUGIN = 'src.resilience.retry'\n"})
    plan = migrate.plan(small, mapping)
    migrate.carry_out(plan)
    assert migrate.remove_copies(plan, mapping) == []
    (small / "src/api/names.py").unlink()
    assert len(migrate.remove_copies(plan, mapping)) == 2


def test_names_are_known_whether_all_is_written_out_or_computed(tmp_path, monkeypatch):
    for name, text in {
        "written": "__all__ = ['A', 'B']\n",
        "computed": "__all__ = [*sorted({'B', 'A'})]\n",
    }.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        package = Package(name=name, module=name, old=("x",))
        assert package.public == {"A", "B"}


def test_newlines_encoding_mode_and_marks_stay(tmp_path, mapping):
    root = tmp_path / "s"
    root.mkdir()
    first = (
        "# -*- coding: latin-1 -*-\r\nfrom src.resilience import Retry\r\nx = 'é'\r\n"
    )
    (root / "a.py").write_bytes(first.encode("latin-1"))
    (root / "b.py").write_bytes(b"\xef\xbb\xbffrom src.resilience import Retry\n")
    (root / "b.py").chmod(0o755)
    migrate.carry_out(migrate.plan(root, mapping))
    expected = first.replace("src.resilience", "maestro_resilience").encode("latin-1")
    assert (root / "a.py").read_bytes() == expected
    assert (
        root / "b.py"
    ).read_bytes() == b"\xef\xbb\xbffrom maestro_resilience import Retry\n"
    assert stat.S_IMODE((root / "b.py").stat().st_mode) == 0o755


def test_broken_files_are_named_and_left(tmp_path, mapping):
    root = service(tmp_path / "s", {"a.py": "from src.resilience import (\n"})
    (root / "b.py").write_bytes(b"\xff\xfe")
    (root / "c.py").write_bytes(b"from src.resilience import Retry\r\nx = 1\n")
    plan = migrate.plan(root, mapping)
    assert plan.changes == []
    messages = {str(path): note.message for path, note in plan.notes}
    assert "no Python" in messages["a.py"]
    assert "cannot be read" in messages["b.py"]
    assert "line ends" in messages["c.py"]


PYPROJECT = """\
[project]
name = "x"  # a comment
dependencies = [
    "requests>=2",  # another
]
"""


def test_pyproject_keeps_its_comments_and_gains_the_packages():
    wanted = {"maestro-resilience": ">=1.0,<2"}
    once = edit_pyproject(PYPROJECT, wanted)
    assert '"maestro-resilience>=1.0,<2"' in once
    assert "# a comment" in once
    assert "# another" in once
    assert edit_pyproject(once, wanted) == once


def test_poetry_tables_and_requirements_are_known():
    wanted = {"maestro-resilience": ">=1.0,<2"}
    poetry = "[tool.poetry.dependencies]\npython = '^3.11'\n"
    assert 'maestro-resilience = ">=1.0,<2"' in edit_pyproject(poetry, wanted)
    assert edit_pyproject("[tool.ruff]\n", wanted) is None
    assert (
        edit_requirements("Maestro_Resilience==1.0\n", wanted)
        == "Maestro_Resilience==1.0\n"
    )
    assert edit_requirements("a", wanted) == "a\nmaestro-resilience>=1.0,<2\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no \\[\\[package\\]\\]"),
        ("[[package]]\nname='x'\nmodule='y'\n", "'old' is missing"),
        ("[[package]]\nname='x'\nmodul='y'\n", "unknown key 'modul'"),
        ("[[", "mapping.toml"),
    ],
)
def test_a_wrong_mapping_is_named(tmp_path, text, message):
    path = tmp_path / "mapping.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MappingError, match=message):
        load_mapping(path)


def test_the_shipped_mapping_covers_every_package():
    names = {package.name for package in load_mapping(DEFAULT).packages}
    root = Path(__file__).resolve().parent.parent.parent / "packages"
    assert {f"maestro-{p.parent.name}" for p in root.glob("*/pyproject.toml")} <= names


STYLES = [
    "from src.resilience.retry import Retry",
    "from src.resilience import (\n    CircuitBreaker,  # breaker\n    Retry,\n)",
    "import src.resilience.timeout as t",
    "from services.adapters.test_adapters import SeleniumAdapter as S, PytestAdapter",
    "import src.resilience.retry\nvalue = src.resilience.retry.Retry()",
    "try:\n    from src.resilience import Retry\nexcept ImportError:  # old\n    Retry = None",
]
FILLERS = [
    "x = {'a': 1,  'b' :2}  # odd  spacing",
    "def f(a, *, b=1): return (a,\n      b)",
    'TEXT = """\nfrom src.resilience import Retry\n"""',
    "class A:\n\n\n    'doc'\n    y: int=3",
    "async def g():\n\tawait h()\n\n",
    "lam = lambda *a, **k: None ; z = 'é'  ",
    "@deco\n@other(1)\ndef h(): ...",
]


def test_a_thousand_files_change_in_their_imports_only(tmp_path, mapping, capsys):
    """The trees without imports and moved names are equal; the time is printed."""
    chance = random.Random(7)
    root = tmp_path / "big"
    for number in range(1000):
        parts = chance.choices(FILLERS, k=12)
        if number % 3 == 0:
            parts[chance.randrange(12)] = chance.choice(STYLES)
        path = root / f"pkg{number % 20}" / f"mod{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        newline = chance.choice(["\n", "\r\n"])
        path.write_bytes(
            newline.join("\n".join(parts).split("\n")).encode() + newline.encode()
        )
    before = {p: p.read_bytes() for p in root.rglob("*.py")}
    begun = time.perf_counter()
    plan = migrate.plan(root, mapping)
    migrate.carry_out(plan)
    spent = time.perf_counter() - begun
    with capsys.disabled():
        print(f"\nmigrate: 1000 files, {len(plan.changes)} changed, {spent:.2f} s")
    changed = 0
    for path, old in before.items():
        new = path.read_bytes()
        if new == old:
            assert not any(
                s.split("\n")[0].encode() in old.split(b'"""')[0] for s in STYLES[:1]
            )
            continue
        changed += 1
        assert (b"\r\n" in old) == (b"\r\n" in new)
        assert bare(new) == bare(old)
        lines = sum(
            a != b for a, b in zip(old.split(b"\n"), new.split(b"\n"), strict=True)
        )
        assert 1 <= lines <= 2
    assert changed == 334
    assert migrate.plan(root, mapping).changes == []


def test_the_bytes_are_those_that_libcst_would_write(mapping, capsys):
    """The same change as a LibCST codemod, on 200 files; both times are printed."""

    class Rename(cst.CSTTransformer):
        def leave_ImportFrom(self, original_node, updated_node):
            name = get_full_name_for_node(original_node.module) or ""
            package = mapping.find(name)
            if package is None:
                return updated_node
            return updated_node.with_changes(module=cst.Name(package.module))

    chance = random.Random(11)
    froms = [style for style in STYLES if "import src" not in style]
    spent = {"ours": 0.0, "libcst": 0.0}
    for _ in range(200):
        parts = chance.choices(FILLERS, k=12)
        parts[chance.randrange(12)] = chance.choice(froms)
        text = "\n".join(parts) + "\n"
        begun = time.perf_counter()
        ours = change(text, mapping, is_module=lambda _name: False)
        between = time.perf_counter()
        theirs = cst.parse_module(text).visit(Rename()).code
        spent["ours"] += between - begun
        spent["libcst"] += time.perf_counter() - between
        assert ours == theirs
        assert ours != text
    with capsys.disabled():
        ratio = spent["libcst"] / spent["ours"]
        print(f"\nmigrate: as LibCST on 200 files, in 1/{ratio:.0f} of its time")


def bare(source: bytes) -> list[str]:
    """Return the tree's statements without imports and the one moved use."""
    return [
        ast.dump(node)
        for node in ast.parse(source).body
        if not isinstance(node, ast.Import | ast.ImportFrom | ast.Try)
        and not (
            isinstance(node, ast.Assign) and ast.unparse(node).startswith("value =")
        )
    ]


def test_the_command_explains_mistakes_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "maestro_migrate", "run", tmp_path / "missing"],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert done.returncode == 2
    assert "is not a folder" in done.stderr
    assert "Traceback" not in done.stderr
