"""What libyaml lets pass although YAML forbids it.

Two quick searches tell whether a text can have such a place at all; only then
are its tokens read.
"""

import re
from collections.abc import Callable
from typing import Any

from yaml.tokens import (
    DirectiveToken,
    DocumentEndToken,
    ScalarToken,
    StreamEndToken,
    StreamStartToken,
)

from ._source import Source
from .errors import ConfigSyntaxError

# Starts with the literal so that the search is a scan for one character.
_TIGHT_COMMENT = re.compile(r"#(?<=[\"'\]},>|]#)")


def refuse_what_libyaml_accepts(source: Source, parser_for: Callable[[], Any]) -> None:
    """Raise for a comment without a blank before it, or a misplaced directive."""
    text = source.text
    tight = {m.start() for m in _TIGHT_COMMENT.finditer(text)}
    directives = text.startswith("%") or "\n%" in text
    if not tight and not directives:
        return
    parser = parser_for()
    before: Any = None
    while True:
        token = parser.get_token()
        kind = type(token)
        if kind is StreamEndToken or token is None:
            return
        end = token.end_mark.index
        header = kind is ScalarToken and token.style in ("|", ">")
        after = token.start_mark.index + 1 if header else end
        if after in tight:
            found = source.diagnostic(
                after, "a comment needs a blank before its #", code="syntax",
                hint="add a blank, or quote the value",
            )  # fmt: skip
            raise ConfigSyntaxError(found)
        if kind is DirectiveToken and before not in (
            StreamStartToken, DocumentEndToken, DirectiveToken,
        ):  # fmt: skip
            found = source.diagnostic(
                token.start_mark.index, "a directive cannot follow a document",
                code="syntax", hint="end the document with '...' first",
            )  # fmt: skip
            raise ConfigSyntaxError(found)
        before = kind
