"""Test plans: suites, cases and steps of verbs and commands, from plain data.

The data is what `maestro-config` renders a plan to; nothing of it is imported here.
"""

import dataclasses
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from maestro_test_adapters._model import Attachment, Outcome, Report, Step, TestResult
from maestro_test_adapters._registry import get_adapter
from maestro_test_adapters.errors import (
    ElementNotReady,
    ExpectationFailed,
    PlanError,
    TestAdaptersError,
    did_you_mean,
)

BrowserFactory = Callable[..., Any]
"""Called with base_url, browser, artifacts; returns a `Browser`."""

_LOCATOR = (
    "role",
    "name",
    "label",
    "text",
    "testid",
    "css",
    "xpath",
    "placeholder",
    "nth",
)
_BARE = {
    "open": "url",
    "click": "css",
    "dblclick": "css",
    "hover": "css",
    "check": "css",
    "uncheck": "css",
    "press": "key",
    "screenshot": "path",
    "eval": "script",
    "wait": "seconds",
    "run": "argv",
    "pytest": "paths",
}
_NO_BROWSER = ("command", "pytest")
_VERBS = (*_BARE, "fill", "type", "select", "upload", "drag", "expect")


class _StepFailed(Exception):
    """A step did not do what it should."""


def run_plan(
    plan: Mapping[str, Any],
    *,
    adapters: Mapping[str, BrowserFactory] | None = None,
    artifacts: str | os.PathLike[str] = "artifacts",
    on_result: Callable[[TestResult], None] | None = None,
) -> Report:
    """Execute a plan and return its report, one result per case.

    Every suite with a browser gets one of its own; cookies go between cases unless a
    fixture of wider scope set them. A failed case keeps a screenshot. What a case or
    suite `needs` and did not pass makes it `notrun`.

    Args:
        plan: Suites of cases of steps: `TestPlan.mapping()`, or the JSON of it.
        adapters: Browser factories by adapter name; the registry's unless given.
        artifacts: The folder for screenshots and downloads.
        on_result: Called with each result as soon as it is known.

    Raises:
        PlanError: The plan cannot be executed; nothing has run then.
    """
    runner = _Plan(plan, dict(adapters or {}), Path(artifacts), on_result)
    return runner.run()


class _Plan:
    def __init__(
        self,
        plan: Mapping[str, Any],
        adapters: dict[str, BrowserFactory],
        artifacts: Path,
        on_result: Callable[[TestResult], None] | None,
    ) -> None:
        self.plan = plan
        self.adapters = adapters
        self.artifacts = artifacts
        self.on_result = on_result
        self.results: list[TestResult] = []
        self.problems: list[str] = []
        self.passed: set[str] = set()
        check_plan(plan)

    def run(self) -> Report:
        started = time.time()
        with self._fixtures(self._named("plan"), None, {}) as trouble:
            for suite in self.plan["suites"]:
                self._suite(suite, trouble)
        return Report(
            tool="maestro-plan",
            results=tuple(self.results),
            started=started,
            finished=time.time(),
            problems=tuple(self.problems),
            environment={"plan": self.plan.get("name", "")},
        )

    def _named(self, scope: str, suite: Mapping[str, Any] | None = None) -> list[str]:
        """Return the fixtures of a scope that the plan, or one suite, uses."""
        suites = [suite] if suite is not None else self.plan["suites"]
        used = [
            name
            for one in suites
            for case in one["cases"]
            for name in case.get("fixtures", ())
        ]
        known = self.plan.get("fixtures", {})
        return [
            name
            for name in dict.fromkeys(used)
            if known[name].get("scope", "case") == scope
        ]

    def _environment(self, *names: str | None) -> Mapping[str, Any]:
        name = next((one for one in names if one), None)
        found: Mapping[str, Any] = self.plan.get("environments", {}).get(name, {})
        return found

    def _suite(self, suite: Mapping[str, Any], trouble: str | None) -> None:
        needed = [need for need in suite.get("needs", ()) if need not in self.passed]
        why = trouble or (f"suite {needed[0]!r} did not pass" if needed else None)
        before = len(self.results)
        if why or suite.get("skip"):
            for case in suite["cases"]:
                self._not_run(suite, case, why)
            return
        environment = self._environment(suite.get("environment"))
        with ExitStack() as stack:
            browser = None
            try:
                browser = self._browser(suite, environment, stack)
            except (TestAdaptersError, ImportError) as error:
                why = f"no browser: {error}"
            wider = self._named("suite", suite)
            if why is None:
                why = stack.enter_context(self._fixtures(wider, browser, environment))
            for case in suite["cases"]:
                if why:
                    self._add(_result(suite, case, "error", message=why))
                else:
                    self._case(suite, case, browser, clean=not wider)
        if all(result.ok for result in self.results[before:]):
            self.passed.add(suite["name"])

    def _browser(
        self, suite: Mapping[str, Any], environment: Mapping[str, Any], stack: ExitStack
    ) -> Any:
        name = suite.get("adapter") or "command"
        if name in _NO_BROWSER:
            return None
        factory = self.adapters.get(name) or get_adapter(name)
        settings = {"artifacts": self.artifacts}
        if environment.get("base_url"):
            settings["base_url"] = environment["base_url"]
        if environment.get("browser"):
            settings["browser"] = environment["browser"]
        return stack.enter_context(factory(**settings))

    @contextmanager
    def _fixtures(
        self, names: Sequence[str], browser: Any, environment: Mapping[str, Any]
    ) -> Iterator[str | None]:
        """Set up fixtures, take them down in reverse; yield why that failed, if so."""
        known = self.plan.get("fixtures", {})
        ready: list[str] = []
        trouble = None
        try:
            for name in names:
                try:
                    # What has begun must be taken down, even if it did not end.
                    ready.append(name)
                    for step in known[name].get("setup", ()):
                        self._step(step, browser, environment, None)
                except Exception as error:
                    trouble = f"fixture {name!r} failed: {error}"
                    break
            yield trouble
        finally:
            for name in reversed(ready):
                for step in known[name].get("teardown", ()):
                    try:
                        self._step(step, browser, environment, None)
                    except Exception as error:
                        self.problems.append(f"teardown of {name!r} failed: {error}")

    def _not_run(
        self, suite: Mapping[str, Any], case: Mapping[str, Any], why: str | None
    ) -> None:
        skip = case.get("skip") or suite.get("skip")
        if skip:
            self._add(_result(suite, case, "skipped", message=str(skip)))
        else:
            self._add(_result(suite, case, "notrun", message=f"not run: {why}"))

    def _case(
        self,
        suite: Mapping[str, Any],
        case: Mapping[str, Any],
        browser: Any,
        *,
        clean: bool,
    ) -> None:
        missing = [need for need in case.get("needs", ()) if need not in self.passed]
        if case.get("skip") or missing:
            why = f"case {missing[0]!r} did not pass" if missing else None
            self._not_run(suite, case, why)
            return
        result = None
        for _ in range(1 + (case.get("retries") or 0)):
            again = self._attempt(suite, case, browser, clean=clean)
            result = again.after(result) if result else again
            if result.ok:
                self.passed.update((result.id, case["name"]))
                break
        assert result is not None
        self._add(result)

    def _attempt(
        self,
        suite: Mapping[str, Any],
        case: Mapping[str, Any],
        browser: Any,
        *,
        clean: bool,
    ) -> TestResult:
        begun, at = time.monotonic(), time.time()
        environment = self._environment(
            case.get("environment"), suite.get("environment")
        )
        deadline = begun + case["timeout"] if case.get("timeout") else None
        steps: list[Step] = []
        outcome: Outcome = "passed"
        message: str | None = None
        attachments: tuple[Attachment, ...] = ()
        if browser is not None and clean:
            browser.clear_cookies()
        known = self.plan.get("fixtures", {})
        own = [
            n
            for n in case.get("fixtures", ())
            if known[n].get("scope", "case") == "case"
        ]
        with self._fixtures(own, browser, environment) as trouble:
            if trouble:
                outcome, message = "error", trouble
            for step in () if trouble else case["steps"]:
                outcome, message = self._tried(step, browser, environment, deadline)
                steps.append(Step(name=_title(step), outcome=outcome, message=message))
                if outcome != "passed":
                    break
            if outcome != "passed" and browser is not None:
                attachments = self._picture(case, browser)
        return dataclasses.replace(
            _result(suite, case, outcome, message=message),
            duration=time.monotonic() - begun,
            start=at,
            steps=tuple(steps),
            attachments=attachments,
        )

    def _tried(
        self,
        step: Mapping[str, Any],
        browser: Any,
        environment: Mapping[str, Any],
        deadline: float | None,
    ) -> tuple[Outcome, str | None]:
        where = f"{step['file']}:{step['line']}: " if step.get("file") else ""
        try:
            self._step(step, browser, environment, deadline)
        except TimeoutError as error:
            return "timeout", f"{where}{error}"
        except (
            _StepFailed,
            ExpectationFailed,
            ElementNotReady,
            AssertionError,
        ) as error:
            late = deadline is not None and time.monotonic() >= deadline
            return "timeout" if late else "failed", f"{where}{error}"
        except Exception as error:  # the result carries whatever a step raised
            return "error", f"{where}{type(error).__name__}: {error}"
        return "passed", None

    def _picture(self, case: Mapping[str, Any], browser: Any) -> tuple[Attachment, ...]:
        name = re.sub(r"[^\w.-]+", "-", str(case.get("id") or case["name"])).strip("-")
        path = self.artifacts / f"{name}.png"
        try:
            browser.screenshot(path)
        except Exception:  # a dead browser has no picture; the failure is told already
            return ()
        return (Attachment(name=path.name, path=str(path), content_type="image/png"),)

    def _add(self, result: TestResult) -> None:
        self.results.append(result)
        if self.on_result:
            self.on_result(result)

    # Steps --------------------------------------------------------------------------

    def _step(
        self,
        step: Mapping[str, Any],
        browser: Any,
        environment: Mapping[str, Any],
        deadline: float | None,
    ) -> None:
        verb, arguments = verb_of(step)
        limit = step.get("timeout")
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the time of the case is over")
            limit = left if limit is None else min(limit, left)
        if verb == "wait":
            time.sleep(min(arguments["seconds"], limit or arguments["seconds"]))
        elif verb == "run":
            _run_command(arguments, environment, limit)
        elif verb == "pytest":
            self._pytest(arguments, environment, limit)
        elif browser is None:
            raise PlanError(
                "a fixture of the scope 'plan' has no browser", path=f"{verb!r}"
            )
        else:
            _act(browser, verb, arguments, limit)

    def _pytest(
        self,
        arguments: Mapping[str, Any],
        environment: Mapping[str, Any],
        limit: float | None,
    ) -> None:
        variables = environment.get("variables", {})
        adapter = get_adapter("pytest")(
            arguments.get("paths", ()),
            args=arguments.get("arguments", ()),
            timeout=limit,
            env={name: str(value) for name, value in variables.items()},
        )
        report: Report = adapter.run(
            select=arguments.get("select") or None,
            markers=arguments.get("markers") or None,
        )
        for result in report:
            self._add(result)
        if not report.ok:
            why = report.problems or [
                f"{one.id}: {one.message}" for one in report.failures
            ]
            raise _StepFailed(f"pytest: {report.summary()}: {why[0]}")


def _act(
    browser: Any, verb: str, arguments: Mapping[str, Any], limit: float | None
) -> None:
    given = dict(arguments)
    where = {key: given.pop(key) for key in _LOCATOR if given.get(key) is not None}
    element = browser.get(**where) if where else None
    if verb == "open":
        browser.open(given["url"], timeout=limit)
    elif verb in ("click", "dblclick", "hover", "check", "uncheck"):
        getattr(element, verb)(timeout=limit)
    elif verb in ("fill", "type", "select"):
        getattr(element, verb)(given["value"], timeout=limit)
    elif verb == "press" and element is not None:
        element.press(given["key"], timeout=limit)
    elif verb == "press":
        browser.press(given["key"])
    elif verb == "upload" and element is not None:
        element.upload(*given["files"], timeout=limit)
    elif verb == "drag" and element is not None:
        element.drag_to(browser.get(**given["to"]), timeout=limit)
    elif verb == "screenshot":
        browser.screenshot(given["path"])
    elif verb == "eval":
        value = browser.evaluate(given["script"])
        if "equals" in given and value != given["equals"]:
            raise _StepFailed(
                f"the script gave {value!r}, expected {given['equals']!r}"
            )
    elif verb == "expect":
        _expect(browser, element, given, limit)


def _expect(
    browser: Any, element: Any, given: dict[str, Any], limit: float | None
) -> None:
    url, title = given.pop("url", None), given.pop("title", None)
    if url is not None:
        browser.should_be_at(url, timeout=limit)
    if title is not None and browser.title != title:
        raise _StepFailed(f"the title is {browser.title!r}, expected {title!r}")
    if element is not None:
        element.should(**(given or {"visible": True}), timeout=limit)


def _run_command(
    arguments: Mapping[str, Any], environment: Mapping[str, Any], limit: float | None
) -> None:
    """Run a program in a process group of its own; its output goes into the failure."""
    variables = {**environment.get("variables", {}), **arguments.get("variables", {})}
    child = subprocess.Popen(
        list(arguments["argv"]),
        cwd=arguments.get("cwd"),
        env={**os.environ, **{name: str(value) for name, value in variables.items()}},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    try:
        out, err = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        raise TimeoutError(
            f"{arguments['argv'][0]} took longer than {limit:.1f} s"
        ) from None
    finally:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # all of it has ended
        child.communicate()
    wanted = arguments.get("exit", 0)
    if child.returncode != wanted:
        raise _StepFailed(
            f"exit code {child.returncode}, expected {wanted}: {(err or out).strip()[-2000:]}"
        )
    for stream, text in (("stdout", out), ("stderr", err)):
        part = arguments.get(stream)
        if part is not None and part not in text:
            raise _StepFailed(f"{stream} lacks {part!r}: {text.strip()[-2000:]}")


def verb_of(step: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return verb and arguments of a step, as rendered or as a user writes it."""
    if "verb" in step:
        return step["verb"], step.get("arguments", {})
    verb = next(key for key in step if key not in ("name", "timeout"))
    arguments = step[verb]
    return verb, arguments if isinstance(arguments, Mapping) else {
        _BARE[verb]: arguments
    }


def _title(step: Mapping[str, Any]) -> str:
    verb, arguments = verb_of(step)
    words = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return step.get("name") or f"{verb} {words}"[:200]


def _result(
    suite: Mapping[str, Any],
    case: Mapping[str, Any],
    outcome: Outcome,
    *,
    message: str | None,
) -> TestResult:
    return TestResult(
        id=case.get("id") or f"{suite['name']}/{case['name']}",
        name=case["name"],
        suite=(suite["name"],),
        outcome=outcome,
        message=message,
        tags=tuple(case.get("tags") or ()),
        parameters=dict(case.get("parameters") or {}),
    )


# The check, before anything runs ------------------------------------------------------


def check_plan(plan: Mapping[str, Any]) -> None:
    """Find what cannot be executed.

    Raises:
        PlanError: With the place of the first mistake.
    """
    suites = _need(plan, "suites", list, "$")
    _refuse_unknown(plan, _PLAN_KEYS, "$")
    for name, fixture in plan.get("fixtures", {}).items():
        for part in ("setup", "teardown"):
            for number, step in enumerate(fixture.get(part, ())):
                _check_step(step, f"fixtures.{name}.{part}[{number}]")
    for i, suite in enumerate(suites):
        _need(suite, "name", str, f"suites[{i}]")
        _refuse_unknown(suite, _SUITE_KEYS, f"suites[{i}]")
        for j, case in enumerate(_need(suite, "cases", list, f"suites[{i}]")):
            here = f"suites[{i}].cases[{j}]"
            _need(case, "name", str, here)
            _refuse_unknown(case, _CASE_KEYS, here)
            for k, step in enumerate(_need(case, "steps", list, here)):
                _check_step(step, f"{here}.steps[{k}]")
                _check_browser(suite, step, f"{here}.steps[{k}]")
            for name in case.get("fixtures", ()):
                known = plan.get("fixtures", {})
                if name not in known:
                    near = did_you_mean(name, known)
                    raise PlanError(f"unknown fixture {name!r}{near}", path=here)


_PLAN_KEYS = ("plan", "name", "description", "environments", "fixtures", "suites")
_SUITE_KEYS = (
    *("name", "description", "adapter", "environment", "tags", "needs", "skip"),
    "cases",
)
_CASE_KEYS = (
    *("id", "name", "description", "parameters", "tags", "fixtures", "environment"),
    *("timeout", "retries", "needs", "skip", "steps"),
)
_WRITTEN = ("defaults", "profiles", "matrix", "parameters", "timeout", "retries")
RENDER = "maestro-config render --mapping"


def _refuse_unknown(part: Mapping[str, Any], known: tuple[str, ...], path: str) -> None:
    """Refuse a key that would be lost, such as the matrix of an unrendered plan."""
    for key in part:
        if key in known:
            continue
        if key in (*_WRITTEN, "fixtures", "extra", "x"):
            raise PlanError(
                f"{key!r} stands in plans as they are written, and only rendered ones "
                f"can be executed: `{RENDER} FILE | maestro-test plan -`",
                path=path,
            )
        near = did_you_mean(str(key), known) or f"; known are {', '.join(known)}"
        raise PlanError(f"unknown key {key!r}{near}", path=path)


def _check_browser(suite: Mapping[str, Any], step: Any, path: str) -> None:
    verb, _ = verb_of(step)
    adapter = suite.get("adapter") or "command"
    if adapter in _NO_BROWSER and verb not in ("wait", "run", "pytest"):
        raise PlanError(
            f"{verb!r} needs a browser, and the adapter of suite {suite['name']!r} is "
            f"{adapter!r}: set it to 'playwright' or 'selenium'",
            path=path,
        )


def _need(part: Any, key: str, kind: type, path: str) -> Any:
    if not isinstance(part, Mapping):
        raise PlanError(f"expected a mapping, got {part!r:.60}", path=path)
    if not isinstance(part.get(key), kind):
        raise PlanError(
            f"needs {key!r}, a {kind.__name__}; got {part.get(key)!r:.60}", path=path
        )
    return part[key]


def _check_step(step: Any, path: str) -> None:
    if not isinstance(step, Mapping) or not step:
        raise PlanError(
            f"expected a step such as {{'click': ...}}, got {step!r:.60}", path=path
        )
    verbs = (
        [step["verb"]]
        if "verb" in step
        else [k for k in step if k not in ("name", "timeout")]
    )
    for verb in verbs:
        if verb not in _VERBS:
            raise PlanError(
                f"unknown verb {verb!r}{did_you_mean(str(verb), _VERBS)}", path=path
            )
    if len(verbs) != 1:
        raise PlanError(f"a step has one verb, got {verbs}", path=path)
    if (
        "verb" not in step
        and not isinstance(step[verbs[0]], Mapping)
        and verbs[0] not in _BARE
    ):
        raise PlanError(f"{verbs[0]} needs a mapping of arguments", path=path)
