"""What a step is made of, as a hash: for noticing changes, and for the cache."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from operator import attrgetter, not_
from typing import Any

from ._expression import Expression, Text
from ._model import Node, Ref, Spec
from ._shape import Shape

_spec, _name = attrgetter("spec"), attrgetter("name")
_needs, _direct = attrgetter("needs"), attrgetter("direct")


def shape_of(nodes: Sequence[Node]) -> Shape:
    """Return names, digests and dependencies of steps."""
    found = list(map(_spec, nodes))
    keys = list(map(id, found))
    specs = dict(zip(keys, found, strict=True))
    known = {key: spec_digest(spec) for key, spec in specs.items()}
    digests = list(map(known.__getitem__, keys))
    # Of direct nodes the arguments are what they wait for: `Shape.needs` has those.
    for index in compress(range(len(nodes)), map(not_, map(_direct, nodes))):
        digests[index] = _node_digest(nodes[index], digests[index])
    return Shape(
        names=list(map(_name, nodes)), digests=digests, needs=list(map(_needs, nodes))
    )


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
