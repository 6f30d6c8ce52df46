"""What this package raises.

TestAdaptersError
├── AdapterNotFound          no adapter of that name is registered
├── ArgumentError            a wrong argument (also a TypeError and ValueError)
├── Unsupported              this back end or runner cannot do what was asked
├── RunnerError
│   ├── RunnerNotInstalled   the target has no such runner; carries the install line
│   ├── RunnerFailed         the runner ended without a usable result
│   └── SelectionNotFound    a selected test does not exist (also a ValueError)
├── ResultNotFound           a report has no such result (also a KeyError)
├── ReportError              a report that cannot be read: file, line, what was wrong
├── PlanError                a plan that cannot be executed: path inside it, what was wrong
└── BrowserError
    ├── BrowserNotFound      no browser or driver on this machine
    ├── NavigationFailed     the page could not be opened
    ├── ElementNotReady      an element never became ready; carries the reason
    ├── ExpectationFailed    `should(...)` did not come true (also an AssertionError)
    ├── ScriptFailed         JavaScript of the caller threw
    └── NothingHappened      an awaited dialog, download or tab did not come
"""

from collections.abc import Iterable


class TestAdaptersError(Exception):
    """Root of all errors of this package."""

    __test__ = False  # pytest must not collect it by its name


class AdapterNotFound(TestAdaptersError, LookupError):
    """No adapter is registered under a name.

    Attributes:
        name: What was asked for.
        known: The names that exist.
    """

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        self.known = tuple(sorted(known))
        super().__init__(
            f"no adapter named {name!r}{did_you_mean(name, self.known)}; "
            f"known are {', '.join(self.known)}"
        )


class ArgumentError(TestAdaptersError, TypeError, ValueError):
    """A function was called with an argument that it cannot take."""


class Unsupported(TestAdaptersError):
    """A back end or runner cannot do what was asked.

    Attributes:
        what: The feature.
        where: The adapter that lacks it.
    """

    def __init__(self, what: str, *, where: str, instead: str = "") -> None:
        self.what = what
        self.where = where
        hint = f"; {instead}" if instead else ""
        super().__init__(f"{where} does not support {what}{hint}")


class RunnerError(TestAdaptersError):
    """A test runner could not do its work."""


class RunnerNotInstalled(RunnerError):
    """The target environment lacks the runner or a plugin of it.

    Attributes:
        runner: The missing package, or the program.
        install: The command that installs it; empty if nobody knows one.
    """

    def __init__(self, runner: str, *, where: str, install: str = "") -> None:
        self.runner = runner
        self.install = install
        advice = f"run `{install}`" if install else "install it, or give its path"
        super().__init__(f"{runner} is not installed in {where}: {advice}")


class RunnerFailed(RunnerError):
    """The runner ended without a usable result.

    Attributes:
        exit_code: Of the runner; negative for a signal.
        output: The last lines it wrote.
    """

    def __init__(self, message: str, *, exit_code: int | None, output: str) -> None:
        self.exit_code = exit_code
        self.output = output
        super().__init__(message + (f"\n{output}" if output else ""))


class SelectionNotFound(RunnerError, ValueError):
    """A selected test does not exist.

    Attributes:
        missing: The ids that match nothing.
    """

    def __init__(self, missing: Iterable[str], known: Iterable[str]) -> None:
        self.missing = tuple(missing)
        first = self.missing[0]
        more = f" (and {len(self.missing) - 1} more)" if len(self.missing) > 1 else ""
        super().__init__(
            f"no test matches {first!r}{more}{did_you_mean(first, tuple(known))}"
        )


class ReportError(TestAdaptersError):
    """A report cannot be read.

    Attributes:
        path: The file, or what it came from.
        line: 1-based, where known.
    """

    def __init__(self, message: str, *, path: str, line: int | None = None) -> None:
        self.path = path
        self.line = line
        super().__init__(f"{path}{f':{line}' if line else ''}: {message}")


class PlanError(TestAdaptersError, ValueError):
    """A plan cannot be executed.

    Attributes:
        path: Where in the plan, such as `suites[0].cases[2].steps[1]`.
    """

    def __init__(self, message: str, *, path: str) -> None:
        self.path = path
        super().__init__(f"{path}: {message}")


class BrowserError(TestAdaptersError):
    """Something about a browser went wrong."""


class BrowserNotFound(BrowserError):
    """This machine has no such browser or driver."""


class NavigationFailed(BrowserError):
    """A page could not be opened.

    Attributes:
        url: The address.
    """

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        self.reason = reason
        super().__init__(f"cannot open {url}: {reason}")


class ElementNotReady(BrowserError):
    """An element never became ready for a verb.

    Attributes:
        locator: The locator as text.
        verb: What was to be done.
        reason: Why not, such as `covered by <div#modal>`.
        waited: Seconds.
    """

    def __init__(self, locator: str, *, verb: str, reason: str, waited: float) -> None:
        self.locator = locator
        self.verb = verb
        self.reason = reason
        self.waited = waited
        super().__init__(f"cannot {verb} {locator}: {reason} (waited {waited:.1f} s)")


class ExpectationFailed(BrowserError, AssertionError):
    """What `should(...)` expects did not come true in time.

    Attributes:
        locator: The locator as text.
        failures: One sentence per expectation that did not hold.
        waited: Seconds.
    """

    def __init__(self, locator: str, *, failures: list[str], waited: float) -> None:
        self.locator = locator
        self.failures = failures
        self.waited = waited
        super().__init__(
            f"{locator} should have {'; '.join(failures)} (waited {waited:.1f} s)"
        )


class ScriptFailed(BrowserError):
    """JavaScript of the caller threw an error in the page."""


class NothingHappened(BrowserError):
    """An awaited dialog, download or tab did not come."""

    def __init__(self, what: str, *, waited: float) -> None:
        self.what = what
        self.waited = waited
        super().__init__(f"no {what} came (waited {waited:.1f} s)")


class ResultNotFound(TestAdaptersError, KeyError):
    """A report has no result of that id.

    Attributes:
        id: What was asked for.
    """

    __str__ = Exception.__str__

    def __init__(self, id: str, known: Iterable[str]) -> None:
        self.id = id
        names = list(known)
        near = _near_id(id, names)
        hint = f"; did you mean {near!r}?" if near else ""
        super().__init__(f"no result {id!r} among {len(names)}{hint}")


def _near_id(name: str, known: list[str]) -> str:
    """Return the id of the test of that name, else the closest."""
    import difflib

    last = [one for one in known if one.endswith(("::" + name, "/" + name, "." + name))]
    near = last or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return near[0] if near else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest known name, or nothing."""
    import difflib

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
