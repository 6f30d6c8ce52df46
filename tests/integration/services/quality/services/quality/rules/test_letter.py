"""The rules for letters, as tests. LETTER and STYLE name files."""

import json
import os
from pathlib import Path

LETTER = Path(os.environ["LETTER"]).read_text(encoding="utf-8")
STYLE = json.loads(Path(os.environ["STYLE"]).read_text(encoding="utf-8"))


def test_it_begins_politely():
    assert LETTER.startswith("Dear ")


def test_it_is_short():
    assert len(LETTER.split()) <= STYLE["most_words"]


def test_it_does_not_shout():
    assert not [word for word in STYLE["forbidden"] if word in LETTER.lower()]
