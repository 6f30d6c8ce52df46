"""Defining workflows in Python: decorators whose calls return placeholders."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final, overload

from ._arguments import (
    flag,
    hinting,
    mapping,
    named,
    refuse_unknown,
    units,
    whole,
    wrong,
)
from ._expression import Expression, Text
from ._model import Kind, Mapping_, Ref, Retry, RunOn, Spec, seconds

if TYPE_CHECKING:
    from ._workflow import Workflow

_building: ContextVar[Workflow | None] = ContextVar("maestro_building", default=None)
_RESERVED = ("after", "when")
CAPTURES = ("text", "lines", "json", "none")


_OPTIONS = (
    "retry", "timeout", "pool", "resources", "estimate", "cache", "version", "once",
    "compensate", "run_on",
)  # fmt: skip
_RUN_ON = ("success", "failure", "always")


def _options(owner: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Turn what users write into what a Spec holds."""
    return {
        name: _option(owner, name, value)
        for name, value in options.items()
        if name not in ("pool", "resources") and value is not None
    } | {"pools": _pools(owner, options)}


def _option(owner: str, name: str, value: Any) -> Any:
    """Check one option, and return it as a Spec holds it."""
    if name == "retry":
        return _retry(owner, value)
    if name in ("timeout", "estimate"):
        try:
            length = seconds(value)
        except ValueError:
            length = -1.0
        if length < 0 or (name == "timeout" and not length):
            more = ", more than 0" if name == "timeout" else ""
            raise wrong(owner, name, f"a duration such as '1m30s' or 90{more}", value)
        return length
    if name in ("cache", "once"):
        return flag(owner, name, value)
    if name == "run_on" and value not in _RUN_ON:
        raise wrong(owner, name, "success, failure or always", value)
    if name == "compensate":
        if not callable(value):
            raise wrong(owner, name, "a step or a function", value)
        return value.spec if isinstance(value, Step) else _spec(value, {})
    return value if name == "run_on" else named(owner, name, value)


def _retry(owner: str, value: Any) -> Retry:
    if isinstance(value, Retry):
        return value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        some = (
            "a number of attempts of 1 or more, or a Retry such as Retry(3, wait='1s')"
        )
        raise wrong(owner, "retry", some, value)
    return Retry(value)


def _pools(owner: str, options: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    pools = units(owner, "resources", options.get("resources"))
    pool = options.get("pool")
    if pool is not None:
        pools[named(owner, "pool", pool)] = pools.get(pool, 0) + 1
    return tuple(sorted(pools.items()))


def _spec(function: Callable[..., Any], options: dict[str, Any]) -> Spec:
    if not callable(function):
        raise wrong("step()", "function", "a function (options go by name)", function)
    kind: Kind = "async" if inspect.iscoroutinefunction(function) else "python"
    try:
        names = tuple(
            parameter.name
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is not parameter.VAR_POSITIONAL
        )
    except (TypeError, ValueError):  # some C functions have no signature
        names = ()
    name = options.pop("name", None) or getattr(function, "__name__", "step")
    if clash := [n for n in names if n in _RESERVED]:
        raise TypeError(
            f"step {name!r} has a parameter {clash[0]!r}, which workflows use "
            "themselves; rename it"
        )
    module = getattr(function, "__module__", None)
    qualname = getattr(function, "__qualname__", "<locals>")
    ref = f"{module}:{qualname}" if module and "<" not in qualname else None
    return Spec(
        name=name,
        kind=kind,
        target=function,
        ref=ref,
        wants_ctx="ctx" in names,
        **options,
    )


@final
class Step:
    """A function or command that can be a step of workflows.

    Called inside a workflow it adds a step and returns a placeholder for its
    result; called elsewhere it is the plain function.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        target = spec.target
        self.__doc__ = getattr(target, "__doc__", None)
        self.__name__ = getattr(target, "__name__", spec.name)
        self.__qualname__ = getattr(target, "__qualname__", spec.name)
        self.__module__ = getattr(target, "__module__", __name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        workflow = _building.get()
        if workflow is not None:
            return workflow.add(self, *args, **kwargs)
        if self.spec.target is None:
            raise TypeError(
                f"{self.spec.name!r} is a {self.spec.kind}; call it inside a workflow"
            )
        return self.spec.target(*args, **kwargs)

    def map(
        self,
        items: Any,
        *,
        chunk: int = 1,
        expect: int = 1,
        after: Iterable[Ref] = (),
        when: Any = True,
        **fixed: Any,
    ) -> Any:
        """Run the step once for each item; the result is the list of results.

        Args:
            items: a list, or the placeholder of a step that returns one.
            chunk: items that one attempt handles, for very small work.
            expect: how many items a plan assumes while they are not known.
            after: steps to wait for without using their results.
            when: see `Workflow.add`.
            fixed: keyword arguments that every call gets.
        """
        workflow = _building.get()
        if workflow is None:
            return [self(item, **fixed) for item in items]
        owner = f"{self.spec.name}.map()"
        whole(owner, "chunk", chunk)
        whole(owner, "expect", expect, 0)
        if not isinstance(items, Ref | Text | Expression):
            if isinstance(items, str | bytes) or not isinstance(items, Iterable):
                raise wrong(owner, "items", "a list, or the result of a step", items)
            items = list(items)
        return workflow._add(
            self.spec, (), fixed, after, when, Mapping_(items, chunk, expect)
        )

    @hinting
    def options(
        self,
        *,
        name: str | None = None,
        retry: Retry | int | None = None,
        timeout: float | str | None = None,
        estimate: float | str | None = None,
        run_on: RunOn | None = None,
        cache: bool | None = None,
    ) -> Step:
        """Return the same step with some options changed, for one call of it."""
        given = {
            "name": name, "retry": retry, "timeout": timeout, "estimate": estimate,
            "run_on": run_on, "cache": cache,
        }  # fmt: skip
        new = _options(f"step {self.spec.name!r}", given)
        del new["pools"]
        return Step(replace(self.spec, **new))

    def __reduce__(self) -> str | tuple[Any, ...]:
        # By name, as functions are: the decorated name is this object.
        return self.__qualname__

    def __repr__(self) -> str:
        return f"<step {self.spec.name}>"


@overload
def step(function: Callable[..., Any], /) -> Step: ...
@overload
def step(
    *,
    name: str | None = None,
    retry: Retry | int | None = None,
    timeout: float | str | None = None,
    pool: str | None = None,
    resources: Mapping[str, int] | None = None,
    estimate: float | str | None = None,
    cache: bool = False,
    version: str | None = None,
    once: bool = False,
    compensate: Step | Callable[..., Any] | None = None,
    run_on: RunOn = "success",
) -> Callable[[Callable[..., Any]], Step]: ...
def step(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function, plain or async, a step of workflows.

    Args:
        function: given when the decorator is used without brackets.
        options: `name`, by default the function's.
            `retry`: a `Retry`, or the number of attempts in all.
            `timeout`: seconds or a text such as "5m", for each attempt.
            `pool`: the pool of which a running attempt holds one slot.
            `resources`: several pools, each with the units that it takes.
            `estimate`: the expected duration, until the journal knows better.
            `cache`: reuse the result of equal code and equal arguments.
            `version`: what stands for the code in the cache's key.
            `once`: never run again after a crash without being asked.
            `compensate`: called with the result when the run fails later on.
            `run_on`: "success" of what it waits for, "failure", or "always".
    """
    if function is not None and not options:
        return Step(_spec(function, {}))
    refuse_unknown("step()", options, ("name", *_OPTIONS))
    checked = _options("step()", options)

    def decorate(function: Callable[..., Any]) -> Step:
        return Step(_spec(function, checked.copy()))

    return decorate if function is None else decorate(function)


def command(
    name: str,
    argv: Sequence[Any],
    *,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    capture: Literal["text", "lines", "json", "none"] = "text",
    **options: Any,
) -> Step:
    """Make a step that runs a program; its result is what the program prints.

    Args:
        name: the step's name.
        argv: program and arguments; no shell reads them. Text such as "${build}"
            stands for the result of a step, `${params.day}` for a parameter.
        cwd: the folder to run it in.
        env: variables added to the environment.
        capture: the result: the output without its last newline as "text", as
            "lines", parsed as "json", or "none".
        options: as for `step`.
    """
    owner = f"command {name!r}"
    named("command()", "name", name)
    given: object = argv
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise wrong(owner, "argv", "a list such as ['make', 'test']", argv)
    if not isinstance(cwd, str | PathLike | None):
        raise wrong(owner, "cwd", "the path of a folder", cwd)
    if capture not in CAPTURES:
        some = f"{', '.join(CAPTURES[:-1])} or {CAPTURES[-1]}"
        raise wrong(owner, "capture", some, capture)
    refuse_unknown(owner, options, ("cwd", "env", "capture", *_OPTIONS))
    return Step(
        Spec(
            name=name,
            kind="command",
            argv=tuple(argv),
            cwd=None if cwd is None else str(cwd),
            env=mapping(owner, "env", env),
            capture=capture,
            **_options(owner, options),
        )
    )


def gate(name: str, *, after: Iterable[Ref] = (), when: Any = True) -> Any:
    """Add a point where the run waits for somebody's approval.

    A run with nothing else left to do ends in the state "waiting"; approve with
    `engine.resume(run, approve=[name])` or `maestro-workflow continue RUN --gate
    NAME`.
    """
    workflow = _building.get()
    if workflow is None:
        raise TypeError(f"gate({name!r}) works inside a workflow only")
    named("gate()", "name", name)
    return workflow._add(Spec(name=name, kind="gate"), (), {}, after, when)
