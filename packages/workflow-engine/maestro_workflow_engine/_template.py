"""Templates: workflows with typed parameters, made of functions that call steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, final, overload

from ._arguments import flag, hinting, mapping, named, wrong
from ._define import _building
from ._model import Ref
from ._workflow import Workflow
from .errors import ParameterError, did_you_mean

if TYPE_CHECKING:
    from ._plan import Plan


@final
class Template:
    """A workflow with typed parameters: what `@workflow` makes of a function.

    Called inside another workflow it adds its steps there, under its name. Called
    elsewhere, or with `build`, it returns a `Workflow`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str | None,
        pools: Mapping[str, int] | None,
        barriers: bool,  # noqa: FBT001 - private
    ) -> None:
        if not inspect.isroutine(function):
            some = "a function (options go by name)"
            raise wrong("workflow()", "function", some, function)
        self.function = function
        if name is not None:
            named("workflow()", "name", name)
        self.name = name or function.__name__
        self.pools = mapping("workflow()", "pools", pools)
        self.barriers = flag("workflow()", "barriers", barriers)
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self.__module__ = function.__module__
        self.signature = inspect.signature(function, eval_str=True)
        self.source = f"{function.__module__}:{function.__qualname__}"

    def __call__(self, *args: Any, **params: Any) -> Any:
        outer = _building.get()
        if outer is None:
            return self.build(*args, **params)
        outer.pools.update(
            {k: v for k, v in self.pools.items() if k not in outer.pools}
        )
        prefix = outer._prefix
        count = outer._taken.get(f"{prefix}{self.name}/", 0) + 1
        outer._taken[f"{prefix}{self.name}/"] = count
        own = self.name if count == 1 else f"{self.name}-{count}"
        outer._prefix = f"{prefix}{own}/"
        try:
            return self.function(*args, **params)
        finally:
            outer._prefix = prefix

    def build(self, *args: Any, **params: Any) -> Workflow:
        """Return the workflow for these parameters.

        Raises:
            ParameterError: one is missing, unknown, or not of its annotated type.
        """
        bound = self._bind(args, params)
        built = Workflow(
            self.name,
            pools=self.pools,
            params=dict(bound.arguments),
            source=self.source,
        )
        with built:
            self.function(*bound.args, **bound.kwargs)
        return built.with_barriers() if self.barriers else built

    def _bind(
        self, args: tuple[Any, ...], params: dict[str, Any]
    ) -> inspect.BoundArguments:
        known = self.signature.parameters
        for name in params:
            if name not in known:
                raise ParameterError(
                    name,
                    f"workflow {self.name!r} has no parameter {name!r}"
                    f"{did_you_mean(name, known)}",
                )
        try:
            bound = self.signature.bind(*args, **params)
        except TypeError as error:
            missing = [
                p.name
                for p in [*known.values()][len(args) :]
                if p.default is p.empty
                and p.name not in params
                and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
            ]
            told = [needs_value(self.name, name) for name in missing]
            raise ParameterError(
                ", ".join(missing),
                "\n".join(told) or f"workflow {self.name!r}: {error}",
            ) from None
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            check_type(self.name, name, value, known[name].annotation)
        return bound

    def parse(self, texts: Mapping[str, str]) -> dict[str, Any]:
        """Turn texts from a command line into parameters of the annotated types."""
        found: dict[str, Any] = {}
        for name, text in texts.items():
            parameter = self.signature.parameters.get(name)
            annotation = parameter.annotation if parameter else str
            found[name] = from_text(self.name, name, text, annotation)
        return found

    def plan(
        self, workers: int | Iterable[int] = (1, 2, 4, 8), /, **params: Any
    ) -> Plan:
        """Forecast runs with these parameters; see `Plan`."""
        return self.build(**params).plan(workers)

    def __repr__(self) -> str:
        return f"<workflow template {self.name}{self.signature}>"


@overload
def workflow(function: Callable[..., Any], /) -> Template: ...
@overload
def workflow(
    *,
    name: str | None = None,
    pools: Mapping[str, int] | None = None,
    barriers: bool = False,
) -> Callable[[Callable[..., Any]], Template]: ...
@hinting
def workflow(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    pools: Mapping[str, int] | None = None,
    barriers: bool = False,
) -> Any:
    """Make a function that calls steps a workflow; its parameters are the template's.

    Args:
        function: given when the decorator is used without brackets.
        name: the workflow's name, by default the function's.
        pools: the units of each pool and resource.
        barriers: run in tiers; see `Workflow.with_barriers`.
    """
    if function is not None:
        return Template(function, name, pools, barriers)
    return lambda function: Template(function, name, pools, barriers)


def needs_value(where: str, name: str) -> str:
    """Say that a parameter has no value, and how to give it one."""
    return (
        f"workflow {where!r} needs parameter {name!r} "
        f"(on the command line: -p {name}=VALUE)"
    )


_PLAIN = {str: "a text", int: "a whole number", float: "a number", bool: "true or false",
          list: "a list", dict: "a mapping"}  # fmt: skip


def check_type(where: str, name: str, value: Any, annotation: Any) -> None:
    """Raise ParameterError when a value does not fit a simple annotation."""
    if annotation not in _PLAIN or isinstance(value, Ref):
        return
    fits = isinstance(value, annotation) and not (
        isinstance(value, bool) and annotation is not bool
    )
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        fits = True
    if not fits:
        raise ParameterError(
            name,
            f"parameter {name!r} of workflow {where!r} should be "
            f"{_PLAIN[annotation]}, got {value!r}",
        )


def from_text(where: str, name: str, text: str, annotation: Any) -> Any:
    """Turn one text of a command line into a value of a simple annotation."""
    words = {
        "true": True,
        "yes": True,
        "1": True,
        "false": False,
        "no": False,
        "0": False,
    }
    try:
        if annotation is bool:
            return words[text.lower()]
        if annotation in (int, float):
            return annotation(text)
        if annotation in (list, dict):
            import json

            return json.loads(text)
    except (KeyError, ValueError):
        raise ParameterError(
            name,
            f"parameter {name!r} of workflow {where!r} should be "
            f"{_PLAIN[annotation]}, got {text!r}",
        ) from None
    return text
