"""Edits: only the characters that were asked for."""

import os
import random
import subprocess
import sys
import time

import pytest
from maestro_yaml_config_parser import EditError, PathNotFoundError, load, loads

TEXT = """\
# head
a:   1  # one
b:
  - x
  - {q: 'z', w: 2}   # flow
c: |
  text
  more
d:
e: &k 5
f: *k
g: {}
"""


@pytest.mark.parametrize(
    ("path", "value", "old", "new"),
    [
        ("a", 2, "a:   1  # one", "a:   2  # one"),
        ("b[0]", "x: y", "- x", '- "x: y"'),
        ("b[1].q", "it's", "'z'", "'it''s'"),
        ("b[1].new", [1, None], "w: 2}", "w: 2, new: [1, null]}"),
        ("c", "one", "|\n  text\n  more\n", "one\n"),
        ("d", True, "d:\n", "d: true\n"),
        ("d", "no", "d:\n", 'd: "no"\n'),
        ("g.h", 1.0, "g: {}", "g: {h: 1.0}"),
        ("z", "1", "g: {}\n", 'g: {}\nz: "1"\n'),
        ("b", ["p"], "- x\n  - {q: 'z', w: 2}", "[p]"),
    ],
)
def test_a_set_changes_only_its_characters(path, value, old, new):
    """Everything else stays, byte for byte."""
    with loads(TEXT).edit() as e:
        e.set(path, value)
    assert e.text == TEXT.replace(old, new)
    assert loads(e.text).at(path).value == value


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("a", "a:   1  # one\n", ""),
        ("b[0]", "  - x\n", ""),
        ("b[1]", "  - {q: 'z', w: 2}   # flow\n", ""),
        ("b[1].q", "q: 'z', ", ""),
        ("b[1].w", ", w: 2", ""),
        ("c", "c: |\n  text\n  more\n", ""),
        ("g", "g: {}\n", ""),
    ],
)
def test_a_remove_takes_the_line_with_it(path, old, new):
    """Or just its part of a flow collection."""
    with loads(TEXT).edit() as e:
        e.remove(path)
    assert e.text == TEXT.replace(old, new)


def test_an_append_follows_the_style_of_the_list():
    """Block lists get a line, flow lists an item."""
    with loads("a:\n- 1 # one\n# end\nb: [1]\n").edit() as e:
        e.append("a", {"k": "v"})
        e.append("b", 2)
    assert e.text == "a:\n- 1 # one\n- {k: v}\n# end\nb: [1, 2]\n"


@pytest.mark.parametrize(
    ("before", "path", "comment", "after"),
    [
        ("a: 1\nb: 2\n", "a", "one", "a: 1  # one\nb: 2\n"),
        ("a: 1   # old\nb: 2", "a", "new", "a: 1   # new\nb: 2"),
        ("a: 1  # old\r\nb: 2\r\n", "a", None, "a: 1\r\nb: 2\r\n"),
        ("a: 1\n", "a", None, "a: 1\n"),
        ("a:\n  b: 1\n", "a", "nested", "a:  # nested\n  b: 1\n"),
        ("a: # old\n  - 1\n", "a", "new", "a: # new\n  - 1\n"),
        ("a: |\n  # text\n", "a", "kept", "a: |  # kept\n  # text\n"),
        ("a: &x >-  # old\n  t\n", "a", None, "a: &x >-\n  t\n"),
        ("a:\nb: 1\n", "a", "nothing", "a:  # nothing\nb: 1\n"),
        ("- 1\n- '#'\n", "[1]", "sharp", "- 1\n- '#'  # sharp\n"),
        ("a: [1,\n  2]\n", "a", "", "a: [1,\n  2]  #\n"),
        ("a: {b: 1}\n", "a", "all", "a: {b: 1}  # all\n"),
        ("a: one\n  two\n", "a", "x", "a: one\n  two  # x\n"),
    ],
)
def test_a_comment_changes_only_the_end_of_its_line(before, path, comment, after):
    edit = loads(before).edit()
    edit.comment(path, comment)
    assert edit.text == after


@pytest.mark.parametrize(
    ("text", "path"),
    [("a: {b: 1, c: 2}\n", "a.b"), ("- a: 1\n  b: 2\n", "[0]"), ("[1, 2]", "[0]")],
)
def test_a_comment_that_has_no_line_is_refused(text, path):
    edit = loads(text).edit()
    with pytest.raises(EditError):
        edit.comment(path, "x")
    assert edit.text == text


def test_a_comment_is_one_line():
    with pytest.raises(ValueError, match="one line"):
        loads("a: 1").edit().comment("a", "x\nb: 2")


def test_an_edit_of_an_alias_is_refused():
    """It would change the anchor, or the other way round."""
    e = loads(TEXT).edit()
    with pytest.raises(EditError, match="is an alias"):
        e.set("f", 1)
    with pytest.raises(EditError, match="something else"):
        e.set("e", 1)
    with pytest.raises(PathNotFoundError):
        e.remove("nope")
    assert e.text == TEXT


def test_a_file_is_saved_whole_or_not_at_all(tmp_path):
    """Line ends, BOM and mode stay; a change by somebody else is not lost."""
    file = tmp_path / "a.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: \xc3\xa9 # c\r\n")
    file.chmod(0o640)
    with load(file).edit() as e:
        e.set("a", 2)
        e.set("c", 3)
    assert file.read_bytes() == b"\xef\xbb\xbfa: 2\r\nb: \xc3\xa9 # c\r\nc: 3\r\n"
    assert file.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["a.yaml"]
    edit = load(file).edit()
    edit.set("a", 9)
    file.write_text("a: 5\n", encoding="utf-8")
    with pytest.raises(EditError, match="changed since"):
        edit.save()
    assert file.read_text(encoding="utf-8") == "a: 5\n"
    with pytest.raises(RuntimeError), load(file).edit() as e:
        e.set("a", 6)
        raise RuntimeError
    assert file.read_text(encoding="utf-8") == "a: 5\n"


def test_a_killed_save_leaves_the_old_or_the_new_file(tmp_path):
    """A process that saves without pause, killed five times at random."""
    file = tmp_path / "a.yaml"
    file.write_text("n: 0 # " + "x" * 200_000 + "\n", encoding="utf-8")
    size = file.stat().st_size
    code = (
        "import sys, itertools\n"
        "from maestro_yaml_config_parser import load\n"
        "for i in itertools.count():\n"
        "    with load(sys.argv[1]).edit() as e:\n"
        "        e.set('n', 1 - e._data()['n'])\n"
        "    print(i, flush=True)\n"
    )
    rng = random.Random(3)
    for _ in range(5):
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", code, str(file)], stdout=subprocess.PIPE
        )
        for _ in range(rng.randrange(1, 8)):
            assert child.stdout.readline()
        time.sleep(rng.random() / 100)  # a random point of the next save
        child.kill()
        child.wait()
        child.stdout.close()
        assert load(file)["n"] in (0, 1)
        assert file.stat().st_size == size


def _scalars(value, path=()):
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in pairs:
        if isinstance(item, dict | list):
            yield from _scalars(item, (*path, key))
        else:
            yield (*path, key)


def _lines_of(doc, path):
    """Return the first and last line that a node may occupy."""
    offsets = []
    for _, container, key, _ in doc._walk():
        place = doc.places(container, key)[0]
        offsets += [place.key, place.value]
    place = doc.places_of(path)[0]
    following = [o for o in offsets if o > place.value]
    last = doc.source.place(min(following))[0] if following else 10**9
    return doc.source.place(place.key)[0] - 1, last


def _run_edits(texts, count, seed):
    rng = random.Random(seed)
    values = [
        0,
        7,
        -1.5,
        True,
        None,
        "word",
        "a: b",
        "no",
        "x # y",
        "'q'",
        'é"',
        "",
        [1],
        {"k": "v"},
    ]
    done = refused = 0
    names = sorted(
        n
        for n, t in texts.items()
        if list(_scalars(loads(t, unknown_tags="ignore").root))
    )
    while done + refused < count:
        text = texts[rng.choice(names)]
        doc = loads(text, unknown_tags="ignore")
        path = rng.choice(list(_scalars(doc.root)))
        value = rng.choice(values)
        kind = rng.choice(["set", "set", "remove", "add"])
        expected = doc.to_dict()
        holder = expected
        for step in path[:-1]:
            holder = holder[step]
        edit = doc.edit()
        try:
            if kind == "set":
                edit.set(path, value)
                holder[path[-1]] = value
            elif kind == "remove":
                edit.remove(path)
                del holder[path[-1]]
            elif isinstance(holder, list):
                edit.append(path[:-1], value)
                holder.append(value)
            else:
                edit.set((*path[:-1], "added_key"), value)
                holder["added_key"] = value
        except EditError:
            refused += 1
            assert edit.text == text
            continue
        done += 1
        after = loads(edit.text, unknown_tags="ignore")
        assert after.root == expected, (kind, path, value)
        before_lines, after_lines = text.splitlines(), edit.text.splitlines()
        first, last = _lines_of(doc, path)
        if kind == "add":
            common = os.path.commonprefix
            head = len(common([before_lines, after_lines]))
            tail = len(common([before_lines[head:][::-1], after_lines[head:][::-1]]))
            assert len(before_lines) - head - tail <= 1, (kind, path, value)
            continue
        tail = max(0, len(before_lines) - last)
        assert after_lines[: max(0, first - 1)] == before_lines[: max(0, first - 1)]
        assert tail == 0 or after_lines[-tail:] == before_lines[-tail:]
    return done, refused


def test_edits_of_real_files_keep_everything_else(real_texts):
    """A reduced run of the drill."""
    done, _ = _run_edits(real_texts, 120, 1)
    assert done >= 110


@pytest.mark.drill
def test_a_thousand_edits(real_texts):
    """At most one in twenty is refused; none spoils a file."""
    _, refused = _run_edits(real_texts, 1000, 2)
    assert refused <= 50
