"""`${{ ... }}`: small typed expressions, read by a safe walk over Python's AST.

There is no eval: literals, names, attribute and item access on mappings and
lists, comparisons, `and or not`, arithmetic, `a if b else c` and a dozen
functions. Nothing else is understood.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from ._diagnostics import did_you_mean

TEMPLATE = re.compile(r"(\$)?\$\{\{(.*?)\}\}", re.DOTALL)
_LONGEST = 1_000
_LONGEST_TEXT = 1_000_000


class ExpressionError(ValueError):
    """An expression has no value; `hint` says what to do."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class DeferredError(Exception):
    """The expression needs a name that is known only later."""


class Secret(str):
    """A text that prints as `***`; `reveal()` gives it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __reduce__(self) -> tuple[object, ...]:
        return (Secret, (self.reveal(),))

    def reveal(self) -> str:
        """Return the secret itself, as an ordinary str."""
        return str.__str__(self)


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ExpressionError(f"expected a number, got {value!r:.60}")
    return value


def _add(left: Any, right: Any) -> Any:
    if isinstance(left, str) and isinstance(right, str):
        return join_text([left, right])
    if isinstance(left, list) and isinstance(right, list):
        return left + right
    return _number(left) + _number(right)


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: _add,
    ast.Sub: lambda a, b: _number(a) - _number(b),
    ast.Mult: lambda a, b: _number(a) * _number(b),
    ast.Div: lambda a, b: _number(a) / _number(b),
    ast.FloorDiv: lambda a, b: _number(a) // _number(b),
    ast.Mod: lambda a, b: _number(a) % _number(b),
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}


def as_text(value: Any) -> str:
    """Return a value as it stands inside a longer text."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    raise ExpressionError(f"a {type(value).__name__} cannot stand inside a text")


def join_text(parts: list[str], separator: str = "") -> str:
    """Join texts; the result is secret when one of them is."""
    secret = any(isinstance(p, Secret) for p in [*parts, separator])
    plain = [p.reveal() if isinstance(p, Secret) else p for p in parts]
    glue = separator.reveal() if isinstance(separator, Secret) else separator
    text = glue.join(plain)
    if len(text) > _LONGEST_TEXT:
        raise ExpressionError(f"the text has more than {_LONGEST_TEXT} characters")
    return Secret(text) if secret else text


def _plain(value: Any) -> str:
    text = as_text(value)
    return text.reveal() if isinstance(text, Secret) else text


def _same_secrecy(value: Any, text: str) -> str:
    return Secret(text) if isinstance(value, Secret) else text


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "int": lambda v: int(_plain(v)) if isinstance(v, str) else int(_number(v)),
    "float": lambda v: float(_plain(v)) if isinstance(v, str) else float(_number(v)),
    "str": as_text,
    "bool": lambda v: _plain(v).lower() in ("true", "yes", "on", "1"),
    "len": len,
    "lower": lambda v: _same_secrecy(v, _plain(v).lower()),
    "upper": lambda v: _same_secrecy(v, _plain(v).upper()),
    "strip": lambda v: _same_secrecy(v, _plain(v).strip()),
    "split": lambda v, by=",": [_same_secrecy(v, p) for p in _plain(v).split(by)],
    "join": lambda v, by=",": join_text([as_text(i) for i in v], by),
    "startswith": lambda v, start: _plain(v).startswith(_plain(start)),
    "endswith": lambda v, end: _plain(v).endswith(_plain(end)),
    "default": lambda v, other: other if v is None or v == "" else v,
}
_CONSTANTS = {"true": True, "false": False, "null": None, "none": None}


def evaluate(text: str, names: Mapping[str, Any], *, deferred: frozenset[str]) -> Any:
    """Return the value of an expression.

    Raises:
        ExpressionError: it has none.
        DeferredError: it uses a name in `deferred`.
    """
    if len(text) > _LONGEST:
        raise ExpressionError(f"an expression has at most {_LONGEST} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        return _Evaluation(names, deferred).value(tree)
    except SyntaxError as e:
        hint = "write and, or, not" if re.search(r"&&|\|\||!(?!=)", text) else ""
        raise ExpressionError(f"not an expression: {e.msg}", hint=hint) from e
    except (RecursionError, MemoryError) as e:
        raise ExpressionError("nested too deeply") from e
    except (TypeError, ValueError, ArithmeticError, LookupError) as e:
        if isinstance(e, ExpressionError):
            raise
        # The text of a foreign error may quote a secret: name its kind only.
        raise ExpressionError(f"no value: {type(e).__name__}") from e


class _Evaluation:
    def __init__(self, names: Mapping[str, Any], deferred: frozenset[str]) -> None:
        self.names = names
        self.deferred = deferred

    def value(self, node: ast.expr) -> Any:
        method = getattr(self, "_" + type(node).__name__.lower(), None)
        if method is None:
            raise ExpressionError(f"{type(node).__name__} is not allowed here")
        return method(node)

    def _constant(self, node: ast.Constant) -> Any:
        if isinstance(node.value, str | int | float | bool) or node.value is None:
            return node.value
        raise ExpressionError(f"{node.value!r} is not allowed here")

    def _name(self, node: ast.Name) -> Any:
        if node.id in self.names:
            return self.names[node.id]
        if node.id in self.deferred:
            raise DeferredError(node.id)
        if node.id in _CONSTANTS:
            return _CONSTANTS[node.id]
        known = [*self.names, *self.deferred]
        hint = did_you_mean(node.id, known) or "known: " + ", ".join(known)
        raise ExpressionError(f"unknown name {node.id!r}", hint=hint)

    def _attribute(self, node: ast.Attribute) -> Any:
        return self._item(self.value(node.value), node.attr)

    def _subscript(self, node: ast.Subscript) -> Any:
        return self._item(self.value(node.value), self.value(node.slice))

    def _item(self, container: Any, key: Any) -> Any:
        if isinstance(container, Mapping):
            if key in container:
                return container[key]
            hint = did_you_mean(key, container)
            raise ExpressionError(f"no {key!r} here", hint=hint)
        if isinstance(container, list) and isinstance(key, int):
            if -len(container) <= key < len(container):
                return container[key]
            raise ExpressionError(f"no item {key}, the list has {len(container)}")
        raise ExpressionError(f"no {key!r} in a {type(container).__name__}")

    def _list(self, node: ast.List) -> Any:
        return [self.value(e) for e in node.elts]

    _tuple = _list

    def _boolop(self, node: ast.BoolOp) -> Any:
        result: Any = None
        for part in node.values:
            result = self.value(part)
            if bool(result) is isinstance(node.op, ast.Or):
                return result
        return result

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        operand = self.value(node.operand)
        if isinstance(node.op, ast.Not):
            return not operand
        if isinstance(node.op, ast.USub):
            return -_number(operand)
        if isinstance(node.op, ast.UAdd):
            return _number(operand)
        raise ExpressionError("~ is not allowed here")

    def _binop(self, node: ast.BinOp) -> Any:
        act = _BINARY.get(type(node.op))
        if act is None:
            raise ExpressionError(f"{type(node.op).__name__} is not allowed here")
        return act(self.value(node.left), self.value(node.right))

    def _compare(self, node: ast.Compare) -> Any:
        left = self.value(node.left)
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            act = _COMPARE.get(type(op))
            if act is None:
                raise ExpressionError("is not allowed here; write ==")
            right = self.value(right_node)
            if not act(left, right):
                return False
            left = right
        return True

    def _ifexp(self, node: ast.IfExp) -> Any:
        return self.value(node.body if self.value(node.test) else node.orelse)

    def _call(self, node: ast.Call) -> Any:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in _FUNCTIONS or node.keywords:
            hint = did_you_mean(name, _FUNCTIONS) or "known: " + ", ".join(_FUNCTIONS)
            raise ExpressionError(f"unknown function {name!r}", hint=hint)
        return _FUNCTIONS[name](*(self.value(a) for a in node.args))


def substitute(
    text: str, names: Mapping[str, Any], *, deferred: frozenset[str] = frozenset()
) -> Any:
    """Replace every `${{ ... }}` of a text; alone, it keeps its type.

    `$${{ ... }}` stands for the text `${{ ... }}`.
    """
    whole = TEMPLATE.fullmatch(text.strip())
    if whole is not None and not whole[1]:
        try:
            return evaluate(whole[2], names, deferred=deferred)
        except DeferredError:
            return text
    parts: list[str] = []
    at = 0
    for match in TEMPLATE.finditer(text):
        parts.append(text[at : match.start()])
        at = match.end()
        if match[1]:
            parts.append(match[0] if deferred else match[0][1:])
            continue
        try:
            parts.append(as_text(evaluate(match[2], names, deferred=deferred)))
        except DeferredError:
            parts.append(match[0])
    return join_text([*parts, text[at:]])
