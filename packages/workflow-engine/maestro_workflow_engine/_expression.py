"""Conditions and `${...}` texts: a small, safe part of Python's expressions."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, final

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,  # codespell:ignore
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
_CALLS: dict[str, Callable[..., Any]] = {
    "len": len, "min": min, "max": max, "sum": sum, "any": any, "all": all,
    "str": str, "int": int, "float": float, "bool": bool, "round": round,
}  # fmt: skip
_MAX_TEXT = 2_000
_MAX_SIZE = 1_000_000  # a repeated text or list beyond this is a mistake or an attack
_WORDS = {"true": True, "false": False, "null": None}
_SLOT = re.compile(r"\$\{([^{}]*)\}")


@final
class Expression:
    """A condition over `params` and the results of steps, checked when it is made."""

    __slots__ = ("names", "text", "tree")

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        self.tree = _parse(self.text)
        self.names = frozenset(_names(self.tree))

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def evaluate(
        self, result_of: Callable[[str], Any], params: Mapping[str, Any]
    ) -> Any:
        """Return the value, looking results up by step name."""
        return _evaluate(self.tree, result_of, params)


@final
class Text:
    """A text with `${...}` slots that need results of steps."""

    __slots__ = ("names", "parts", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.parts: list[str | Expression] = []
        last = 0
        for match in _SLOT.finditer(text):
            self.parts += [text[last : match.start()], Expression(match[1])]
            last = match.end()
        self.parts.append(text[last:])
        self.names = frozenset(
            name for p in self.parts if isinstance(p, Expression) for name in p.names
        )

    def __repr__(self) -> str:
        return f"Text({self.text!r})"

    def evaluate(
        self, result_of: Callable[[str], Any], params: Mapping[str, Any]
    ) -> Any:
        """Return the text filled in; a text that is one slot keeps the value's type."""
        values = [
            part if isinstance(part, str) else part.evaluate(result_of, params)
            for part in self.parts
        ]
        if len(values) == 3 and values[0] == values[2] == "":
            return values[1]
        return "".join(map(str, values))


@lru_cache(maxsize=1_024)
def _parse(text: str) -> ast.expr:
    if len(text) > _MAX_TEXT:
        raise ValueError(
            f"an expression may have {_MAX_TEXT} characters, got {len(text)}"
        )
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text!r} is not an expression: {error}") from None
    for node in ast.walk(tree):
        _allow(node, text)
    return tree


def _allow(node: ast.AST, text: str) -> None:
    """Refuse everything that is not plainly harmless."""
    if isinstance(node, ast.BinOp) and type(node.op) not in _BINARY:
        raise ValueError(f"{text!r}: only + - * / // % are possible here")
    if isinstance(node, ast.Call) and (
        not isinstance(node.func, ast.Name)
        or node.func.id not in _CALLS
        or node.keywords
    ):
        raise ValueError(f"{text!r}: only {', '.join(sorted(_CALLS))} can be called")
    if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
        raise ValueError(f"{text!r}: names that start with _ are not possible here")
    allowed = (
        ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Compare, ast.Call, ast.Constant,
        ast.Attribute, ast.Subscript, ast.Name, ast.List, ast.Tuple, ast.IfExp,
        ast.boolop, ast.unaryop, ast.operator, ast.cmpop, ast.expr_context,
    )  # fmt: skip
    if not isinstance(node, allowed) or isinstance(node, ast.Invert):
        raise ValueError(  # noqa: TRY004 - one class for callers to catch
            f"{text!r}: {type(node).__name__} is not possible in an expression"
        )


def _names(tree: ast.expr) -> Iterator[str]:
    """Yield the steps that an expression reads."""
    called = {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and _is_name(node.value, "steps"):
            if isinstance(node.slice, ast.Constant):
                yield str(node.slice.value)
        elif isinstance(node, ast.Attribute) and _is_name(node.value, "steps"):
            yield node.attr
        elif (
            isinstance(node, ast.Name)
            and node.id not in {"params", "steps", *_WORDS}
            and id(node) not in called
        ):
            yield node.id


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


@final
class _Steps:
    """`steps.NAME` and `steps['NAME']` in an expression."""

    def __init__(self, result_of: Callable[[str], Any]) -> None:
        self.result_of = result_of


def _evaluate(
    node: ast.expr, result_of: Callable[[str], Any], params: Mapping[str, Any]
) -> Any:
    def value(child: ast.expr) -> Any:
        return _evaluate(child, result_of, params)

    match node:
        case ast.Constant():
            return node.value
        case ast.Name(id="params"):
            return params
        case ast.Name(id="steps"):
            return _Steps(result_of)
        case ast.Name(id=name):
            return _WORDS[name] if name in _WORDS else result_of(name)
        case ast.Attribute(value=inner, attr=attr):
            return _member(value(inner), attr)
        case ast.Subscript(value=inner, slice=key):
            return _member(value(inner), value(key))
        case ast.BoolOp(op=ast.And()):
            result: Any = True
            for child in node.values:
                result = value(child)
                if not result:
                    return result
            return result
        case ast.BoolOp():
            result = False
            for child in node.values:
                result = value(child)
                if result:
                    return result
            return result
        case ast.UnaryOp(op=ast.Not()):
            return not value(node.operand)
        case ast.UnaryOp(op=ast.USub()):
            return -value(node.operand)
        case ast.UnaryOp():
            return +value(node.operand)
        case ast.BinOp():
            return _binary(node.op, value(node.left), value(node.right))
        case ast.Compare():
            left = value(node.left)
            for op, right_node in zip(node.ops, node.comparators, strict=True):
                right = value(right_node)
                if not _COMPARE[type(op)](left, right):
                    return False
                left = right
            return True
        case ast.IfExp():
            return value(node.body) if value(node.test) else value(node.orelse)
        case ast.List() | ast.Tuple():
            return [value(child) for child in node.elts]
        case ast.Call(func=ast.Name(id=name)):
            return _CALLS[name](*map(value, node.args))
    raise ValueError(f"{ast.unparse(node)!r} is not possible in an expression")


def _binary(op: ast.operator, left: Any, right: Any) -> Any:
    if isinstance(op, ast.Mult):
        for a, b in ((left, right), (right, left)):
            repeats = isinstance(a, str | list | tuple) and isinstance(b, int)
            if repeats and len(a) * b > _MAX_SIZE:
                raise ValueError(f"a repetition may give {_MAX_SIZE} items at most")
    return _BINARY[type(op)](left, right)


def _member(value: Any, key: Any) -> Any:
    if isinstance(value, _Steps):
        return value.result_of(str(key))
    try:
        return value[key]
    except (KeyError, IndexError, TypeError):
        known = ", ".join(map(str, value)) if isinstance(value, Mapping) else ""
        raise LookupError(
            f"there is no {key!r} in a {type(value).__name__}"
            + (f"; it has {known}" if known else "")
        ) from None
