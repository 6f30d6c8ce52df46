"""What a step is made of, as a hash: for noticing changes, and for the cache."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ._expression import Expression, Text
from ._model import Node, Ref, Spec
from ._shape import Shape


def shape_of(nodes: Sequence[Node]) -> Shape:
    """Return names, digests and dependencies of steps."""
    names: list[str] = []
    digests: list[str] = []
    needs: list[Sequence[int]] = []
    known: dict[int, str] = {}
    last: Spec | None = None
    digest = ""
    for node in nodes:
        spec = node.spec
        if spec is not last:  # neighbours often share theirs
            last = spec
            found = known.get(id(spec))
            if found is None:
                found = known[id(spec)] = spec_digest(spec)
            digest = found
        names.append(node.name)
        needs.append(node.needs)
        # Of direct nodes the arguments are what they wait for: `needs` has those.
        digests.append(digest if node.direct else _node_digest(node, digest))
    return Shape(names=names, digests=digests, needs=needs)


def _node_digest(node: Node, base: str) -> str:
    """Hash what a step is called with, and when."""
    text = _encode([base, node.args, node.kwargs, node.when, node.mapping])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def spec_digest(spec: Spec) -> str:
    """Hash the code or command line of a step, or its `version` where it has one."""
    if spec.version is not None:
        made_of: Any = ["version", spec.version]
    elif spec.kind == "command":
        made_of = [list(spec.argv), spec.cwd, dict(spec.env or {})]
    else:
        made_of = source_of(spec.target)
    text = _encode([spec.kind, made_of, bool(spec.once), spec.capture])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def source_of(function: Callable[..., Any] | None) -> str:
    """Return a function's source text, or the best that stands for it."""
    if function is None:
        return ""
    function = inspect.unwrap(function)
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        if code is not None:
            return f"{code.co_code.hex()} {code.co_names} {code.co_consts!r}"
        return repr(getattr(function, "__qualname__", type(function).__qualname__))


def cache_key(spec: Spec, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Return the key of a result: code and argument values, nothing else.

    Raises:
        TypeError: an argument is not plain data.
    """
    given = {name: value for name, value in kwargs.items() if name != "ctx"}
    text = json.dumps([list(args), given], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(
        f"{spec.name}\0{spec_digest(spec)}\0{text}".encode()
    ).hexdigest()


def _stand_in(value: Any) -> Any:
    if isinstance(value, Ref):
        return {"ref": value.name, "path": list(map(str, value.path))}
    if isinstance(value, Expression | Text):
        return {"text": value.text}
    if callable(value):
        return {"code": source_of(value)}
    # An address would differ in every process, so the type has to do.
    return {"type": type(value).__qualname__}


# JSON that is the same in every process, whatever the value holds.
_encode = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), default=_stand_in
).encode
