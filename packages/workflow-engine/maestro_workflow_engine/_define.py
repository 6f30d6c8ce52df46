"""Defining workflows in Python: decorators whose calls return placeholders."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final, overload

from ._expression import Expression, Text
from ._model import Kind, Mapping_, Ref, Retry, RunOn, Spec, seconds

if TYPE_CHECKING:
    from ._workflow import Workflow

_building: ContextVar[Workflow | None] = ContextVar("maestro_building", default=None)
_RESERVED = ("after", "when")


def _options(
    *,
    retry: Retry | int | None = None,
    timeout: float | str | None = None,
    pool: str | None = None,
    resources: Mapping[str, int] | None = None,
    estimate: float | str | None = None,
    compensate: Step | Callable[..., Any] | None = None,
    **rest: Any,
) -> dict[str, Any]:
    """Turn what users write into what a Spec holds."""
    pools: dict[str, Any] = dict(resources or {})
    if pool is not None:
        pools[pool] = pools.get(pool, 0) + 1
    for name, amount in pools.items():
        if isinstance(amount, bool) or not isinstance(amount, int) or amount < 1:
            raise ValueError(
                f"expected 1 or more units of resource {name!r}, got {amount!r}"
            )
    if compensate is not None:
        rest["compensate"] = (
            compensate.spec if isinstance(compensate, Step) else _spec(compensate, {})
        )
    return {
        "retry": Retry(retry) if isinstance(retry, int) else retry,
        "timeout": None if timeout is None else seconds(timeout),
        "pools": tuple(sorted(pools.items())),
        "estimate": None if estimate is None else seconds(estimate),
        **rest,
    }


def _spec(function: Callable[..., Any], options: dict[str, Any]) -> Spec:
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
        if chunk < 1:
            raise ValueError(f"expected a chunk of 1 or more, got {chunk!r}")
        if not isinstance(items, Ref | Text | Expression):
            items = list(items)
        return workflow._add(
            self.spec, (), fixed, after, when, Mapping_(items, chunk, expect)
        )

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
        new: dict[str, Any] = {
            "name": name,
            "retry": Retry(retry) if isinstance(retry, int) else retry,
            "timeout": None if timeout is None else seconds(timeout),
            "estimate": None if estimate is None else seconds(estimate),
            "run_on": run_on,
            "cache": cache,
        }
        given = {key: value for key, value in new.items() if value is not None}
        return Step(replace(self.spec, **given))

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
    if function is not None:
        return Step(_spec(function, {}))

    def decorate(function: Callable[..., Any]) -> Step:
        return Step(_spec(function, _options(**options)))

    return decorate


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
    if isinstance(argv, str) or not argv:
        raise TypeError(
            f"expected a list such as ['make', 'test'] for command {name!r}, "
            f"got {argv!r}"
        )
    return Step(
        Spec(
            name=name,
            kind="command",
            argv=tuple(argv),
            cwd=None if cwd is None else str(cwd),
            env=env,
            capture=capture,
            **_options(**options),
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
    return workflow._add(Spec(name=name, kind="gate"), (), {}, after, when)
