"""Workflows written as documents: dicts, JSON, and YAML through the extra."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

from ._arguments import whole
from ._define import _OPTIONS, CAPTURES, _options, _spec
from ._executors._processes import find
from ._expression import Expression, Text
from ._model import Mapping_, Node, Retry, Spec
from ._template import check_type, from_text, needs_value
from ._workflow import Workflow, moved
from .errors import DefinitionError, OptionError, ParameterError, Problem, did_you_mean

MAX_BYTES = 16_000_000
_TYPES = {
    "string": str, "integer": int, "number": float,
    "boolean": bool, "list": list, "mapping": dict,
}  # fmt: skip
_TOP = ("workflow", "description", "params", "pools", "barriers", "steps")
_STEP = (
    "call", "run", "gate", "workflow", "with", "map", "chunk", "expect", "needs",
    "when", "cwd", "env", "capture", "description", *_OPTIONS,
)  # fmt: skip
_KINDS = ("call", "run", "gate", "workflow")
Place = Callable[[str], str]


def load(path: Path, params: Mapping[str, Any]) -> Workflow:
    """Build a workflow from a file; `.json` needs nothing, `.yaml` the extra."""
    document, place = read(path)
    built = build(document, params, place=place, folder=path.parent)
    built.source = str(path.resolve())
    return built


def load_texts(path: Path, texts: Mapping[str, str]) -> Workflow:
    """Build a workflow from a file with parameters as a command line gives them."""
    document, _ = read(path)
    declared = document.get("params") if isinstance(document, dict) else None
    declared = declared if isinstance(declared, dict) else {}
    params: dict[str, Any] = {}
    for name, text in texts.items():
        about = declared.get(name)
        kind = about.get("type") if isinstance(about, dict) else None
        if not isinstance(about, dict) and about is not None:
            kind = next((k for k, t in _TYPES.items() if type(about) is t), None)
        params[name] = from_text(str(path), name, text, _TYPES.get(str(kind), str))
    return load(path, params)


def read(path: Path) -> tuple[Any, Place]:
    """Return a file's document, and a function that tells where a part of it stands.

    Raises:
        DefinitionError: it cannot be read.
    """
    if path.suffix in (".yaml", ".yml"):
        from ._yaml import read_yaml

        return read_yaml(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise _refuse(str(path), f"has {size} bytes, {MAX_BYTES} are possible")
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _refuse(str(path), f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        hint = "" if path.suffix == ".json" else "; a YAML document ends in .yaml"
        raise _refuse(str(path), f"is not JSON: {error}{hint}") from error
    return document, lambda where: f"{path}: {where}"


def _refuse(where: str, message: str) -> DefinitionError:
    return DefinitionError([Problem(where=where, message=message)])


def build(
    document: Any,
    params: Mapping[str, Any],
    *,
    place: Place = str,
    folder: Path | None = None,
) -> Workflow:
    """Build a workflow from a document, or raise everything that is wrong with it."""
    builder = _Builder(document, place, folder or Path())
    return builder.build(params)


@final
class _Builder:
    """Reads one document. Problems are collected; places are `$.steps.load.retry`."""

    def __init__(self, document: Any, place: Place, folder: Path) -> None:
        self.document = document
        self.place = place
        self.folder = folder
        self.problems: list[Problem] = []
        self.params: dict[str, Any] = {}
        self.missing: list[str] = []  # parameters without a value
        self.index: dict[str, int] = {}

    def wrong(self, where: str, message: str) -> None:
        self.problems.append(Problem(where=self.place(where), message=message))

    def build(self, given: Mapping[str, Any]) -> Workflow:
        doc = self.document
        if not isinstance(doc, dict):
            self.wrong(
                "$", f"expected a mapping with workflow and steps, got {doc!r:.60}"
            )
            raise DefinitionError(self.problems)
        self.known("$", doc, _TOP)
        name = doc.get("workflow")
        if not isinstance(name, str) or not name:
            self.wrong("$.workflow", f"expected the workflow's name, got {name!r}")
            name = "workflow"
        self.params = self.parameters(name, doc.get("params") or {}, given)
        pools = doc.get("pools") or {}
        if not isinstance(pools, dict):
            self.wrong("$.pools", f"expected pools with their units, got {pools!r:.60}")
            pools = {}
        workflow = Workflow(name, pools=pools, params=self.params)
        self.steps(workflow, doc.get("steps"))
        absent = [needs_value(name, key) for key in self.missing]
        if absent and not self.problems:
            raise ParameterError(", ".join(self.missing), "\n".join(absent))
        for key, message in zip(self.missing, absent, strict=True):
            self.wrong(f"$.params.{key}", message)
        if self.problems:
            raise DefinitionError(self.problems)
        return workflow.with_barriers() if doc.get("barriers") else workflow

    def known(
        self, where: str, mapping: Mapping[Any, Any], keys: tuple[str, ...]
    ) -> None:
        for key in mapping:
            if key not in keys:
                hint = did_you_mean(str(key), keys) or f"; there is {', '.join(keys)}"
                self.wrong(f"{where}.{key}", f"there is no key {key!r} here{hint}")

    def parameters(
        self, name: str, declared: Any, given: Mapping[str, Any]
    ) -> dict[str, Any]:
        if not isinstance(declared, dict):
            self.wrong("$.params", f"expected parameters by name, got {declared!r:.60}")
            return {}
        found: dict[str, Any] = {}
        for key in given:
            if key not in declared:
                raise ParameterError(
                    key,
                    f"workflow {name!r} has no parameter {key!r}"
                    f"{did_you_mean(key, declared)}",
                )
        for key, about in declared.items():
            where = f"$.params.{key}"
            about = about if isinstance(about, dict) else {"default": about}  # noqa: PLW2901
            self.known(where, about, ("type", "default", "description"))
            kind = about.get("type")
            if kind is not None and kind not in _TYPES:
                self.wrong(
                    f"{where}.type",
                    f"expected a type of {', '.join(_TYPES)}, got {kind!r}"
                    f"{did_you_mean(str(kind), _TYPES)}",
                )
                continue
            if key not in given and "default" not in about:
                # Told at the end, so that what else is wrong is told too.
                self.missing.append(str(key))
                found[str(key)] = None
                continue
            value = given.get(key, about.get("default"))
            if kind is not None:
                check_type(name, str(key), value, _TYPES[kind])
            found[str(key)] = value
        return found

    def steps(self, workflow: Workflow, steps: Any) -> None:
        if not isinstance(steps, dict) or not steps:
            self.wrong("$.steps", f"expected steps by name, got {steps!r:.60}")
            return
        undo = {
            s["compensate"]
            for s in steps.values()
            if isinstance(s, dict) and isinstance(s.get("compensate"), str)
        }
        names = [name for name in steps if name not in undo]
        self.index = {str(name): position for position, name in enumerate(names)}
        workflow.index = dict(self.index)
        specs: dict[str, Spec] = {}
        for name in (*undo, *names):
            if name in steps:
                specs[name] = self.spec(str(name), steps[name], specs)
        for name in names:
            where = f"$.steps.{name}"
            workflow.places[name] = self.place(where)
            workflow.nodes.append(self.node(where, str(name), steps[name], specs[name]))
        for name in names:
            if isinstance(steps[name], dict) and "workflow" in steps[name]:
                self.inline(workflow, str(name), steps[name])

    def spec(self, name: str, step: Any, specs: Mapping[str, Spec]) -> Spec:
        where = f"$.steps.{name}"
        fallback = Spec(name=name, kind="barrier")
        if not isinstance(step, dict):
            self.wrong(
                where,
                f"expected a mapping such as {{call: 'module:function'}}, got {step!r:.60}",
            )
            return fallback
        self.known(where, step, _STEP)
        kinds = [key for key in _KINDS if key in step]
        if len(kinds) != 1:
            got = " and ".join(kinds) or "none"
            self.wrong(where, f"expected one of {', '.join(_KINDS)}, got {got}")
            return fallback
        options = self.options(where, step, specs)
        try:
            if kinds == ["call"]:
                return self.call(name, step, options)
            if kinds == ["run"]:
                return self.command(where, name, step, options)
            if kinds == ["gate"]:
                return Spec(name=name, kind="gate")
            return fallback
        except (LookupError, TypeError, ValueError) as error:
            self.wrong(f"{where}.{kinds[0]}", str(error))
            return fallback

    def options(
        self, where: str, step: Mapping[str, Any], specs: Mapping[str, Spec]
    ) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for key in _OPTIONS:
            if key not in step:
                continue
            value: Any = step[key]
            try:
                if key == "retry" and isinstance(value, dict):
                    self.known(f"{where}.retry", value, ("attempts", "wait"))
                    value = Retry(value.get("attempts", 3), value.get("wait", 0.0))
                elif key == "compensate":
                    if value not in specs:
                        hint = did_you_mean(str(value), self.document["steps"])
                        self.wrong(
                            f"{where}.{key}", f"there is no step {value!r}{hint}"
                        )
                        continue
                    given["compensate_spec"] = specs[value]
                    continue
                _options("", {key: value})
                given[key] = value
            except (ValueError, TypeError, AttributeError) as error:
                self.wrong(f"{where}.{key}", str(error))
        compensate = given.pop("compensate_spec", None)
        return _options("", given) | ({"compensate": compensate} if compensate else {})

    def call(self, name: str, step: Mapping[str, Any], options: dict[str, Any]) -> Spec:
        target = step["call"]
        if not isinstance(target, str) or ":" not in target:
            raise ValueError(f"expected 'module:function', got {target!r}")
        function = find(target)
        if not callable(function):
            raise TypeError(f"{target!r} is not a function")
        spec = _spec(function, {"name": name, **options})
        return Spec(**{f: getattr(spec, f) for f in Spec.__slots__} | {"ref": target})

    def command(
        self, where: str, name: str, step: Mapping[str, Any], options: dict[str, Any]
    ) -> Spec:
        argv = step["run"]
        if not isinstance(argv, list) or not argv:
            raise ValueError(f"expected a list such as [make, test], got {argv!r}")
        env = step.get("env") or {}
        if not isinstance(env, dict):
            self.wrong(f"{where}.env", f"expected variables by name, got {env!r:.60}")
            env = {}
        capture = step.get("capture", "text")
        if capture not in CAPTURES:
            self.wrong(
                f"{where}.capture",
                f"expected text, lines, json or none, got {capture!r}",
            )
        return Spec(
            name=name,
            kind="command",
            argv=tuple(self.filled(f"{where}.run[{i}]", a) for i, a in enumerate(argv)),
            cwd=self.folder_of(where, step.get("cwd")),
            env={str(k): self.now(f"{where}.env.{k}", v) for k, v in env.items()},
            capture=capture,
            **options,
        )

    def folder_of(self, where: str, value: Any) -> Any:
        found = self.now(f"{where}.cwd", value)
        if found is not None and not isinstance(found, str):
            self.wrong(f"{where}.cwd", f"expected the path of a folder, got {found!r}")
            return None
        return found

    def now(self, where: str, value: Any) -> Any:
        """Fill in a text that can only depend on parameters."""
        filled = self.filled(where, value)
        if isinstance(filled, Text):
            self.wrong(where, f"only params can be used here, got {value!r}")
            return None
        return filled

    def filled(self, where: str, value: Any) -> Any:
        """Fill parameters in; what needs results stays to be filled in later."""
        if isinstance(value, dict):
            return {k: self.filled(f"{where}.{k}", v) for k, v in value.items()}
        if isinstance(value, list):
            return [self.filled(f"{where}[{i}]", v) for i, v in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        try:
            text = Text(value)
        except ValueError as error:
            self.wrong(where, str(error))
            return value
        if text.names:
            for name in sorted(text.names):
                self.step_known(where, name)
            return text
        try:
            return text.evaluate(_no_steps, self.params)
        except (LookupError, ValueError, TypeError) as error:
            if not any(f"params.{key}" in value for key in self.missing):
                self.wrong(where, f"{value!r}: {error}")
            return value

    def step_known(self, where: str, name: str) -> bool:
        if name in self.index or name.partition("/")[0] in self.index:
            return True
        hint = did_you_mean(name, (*self.index, "params"))
        self.wrong(where, f"there is no step {name!r}{hint}")
        return False

    def node(self, where: str, name: str, step: Any, spec: Spec) -> Node:
        if not isinstance(step, dict):
            return Node(name, spec)
        needs: dict[int, None] = {}
        kwargs = self.filled(f"{where}.with", step.get("with") or {})
        if not isinstance(kwargs, dict):
            self.wrong(
                f"{where}.with", f"expected arguments by name, got {kwargs!r:.60}"
            )
            kwargs = {}
        args = spec.argv if spec.kind == "command" else ()
        mapping = None
        if "map" in step:
            items = self.filled(f"{where}.map", step["map"])
            if not isinstance(items, list | tuple | Text) and not self.missing:
                self.wrong(
                    f"{where}.map",
                    f"expected a list, or a text such as '${{step}}', got {items!r:.60}",
                )
                items = []
            sizes = {"chunk": 1, "expect": 1}
            for key, low in (("chunk", 1), ("expect", 0)):
                try:
                    sizes[key] = whole("", key, step.get(key, 1), low)
                except OptionError as error:
                    self.wrong(f"{where}.{key}", str(error))
            mapping = Mapping_(items, sizes["chunk"], sizes["expect"])
        for value in (args, kwargs, mapping and mapping.items):
            self.collect(value, needs)
        order = self.order(where, step)
        when = self.condition(where, step, order)
        extra = tuple(i for i in order if i not in needs)
        return Node(
            name, spec, args, kwargs or None, (*needs, *extra), extra, when, mapping
        )

    def order(self, where: str, step: Mapping[str, Any]) -> dict[int, None]:
        needs = step.get("needs") or []
        found: dict[int, None] = {}
        for i, name in enumerate(needs if isinstance(needs, list) else [needs]):
            if self.step_known(f"{where}.needs[{i}]", str(name)):
                found[self.index[str(name)]] = None
        return found

    def condition(
        self, where: str, step: Mapping[str, Any], order: dict[int, None]
    ) -> Any:
        when = step.get("when", True)
        if not isinstance(when, str):
            return when
        try:
            condition = Expression(when)
        except ValueError as error:
            self.wrong(f"{where}.when", str(error))
            return True
        for name in sorted(condition.names):
            if self.step_known(f"{where}.when", name):
                order[self.index[name.partition("/")[0]]] = None
        return condition

    def collect(self, value: Any, needs: dict[int, None]) -> None:
        if isinstance(value, Text | Expression):
            for name in sorted(value.names):
                found = self.index.get(name, self.index.get(name.partition("/")[0]))
                if found is not None:
                    needs[found] = None
        elif isinstance(value, list | tuple):
            for item in value:
                self.collect(item, needs)
        elif isinstance(value, dict):
            self.collect(list(value.values()), needs)

    def inline(self, workflow: Workflow, name: str, step: Mapping[str, Any]) -> None:
        """Put another document's steps under a step, which becomes their end."""
        where = f"$.steps.{name}"
        path = self.folder / str(step["workflow"])
        try:
            inner = load(path, self.filled(f"{where}.with", step.get("with") or {}))
        except (DefinitionError, ParameterError) as error:
            self.wrong(f"{where}.workflow", str(error))
            return
        join = workflow.nodes[workflow.index[name]]
        join.kwargs = None
        before, shift = join.needs, len(workflow.nodes)
        ends = set(range(shift, shift + len(inner.nodes)))
        for node in inner.nodes:
            new = moved(node, shift, name)
            new.name = f"{name}/{node.name}"
            if not new.needs:
                new.needs = new.after = before
            ends.difference_update(new.needs)
            workflow.index[new.name] = len(workflow.nodes)
            workflow.nodes.append(new)
        join.needs = (*join.needs, *sorted(ends))
        for pool, units in inner.pools.items():
            workflow.pools.setdefault(pool, units)


def _no_steps(name: str) -> Any:
    raise LookupError(f"there is no {name!r}")
