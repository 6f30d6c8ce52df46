"""Run tests of any framework and drive browsers, through one model and one set of verbs.

    report = PytestAdapter(paths=["tests"]).run()
    with SeleniumAdapter(base_url="http://127.0.0.1:8000") as browser: ...

Importing this package loads neither Selenium nor Playwright nor pytest.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maestro_test_adapters._backend import (
        ConsoleMessage as ConsoleMessage,
    )
    from maestro_test_adapters._backend import (
        Dialog as Dialog,
    )
    from maestro_test_adapters._backend import (
        Download as Download,
    )
    from maestro_test_adapters._backend import (
        Request as Request,
    )
    from maestro_test_adapters._backend import (
        Tab as Tab,
    )
    from maestro_test_adapters._browser import (
        AsyncBrowser as AsyncBrowser,
    )
    from maestro_test_adapters._browser import (
        AsyncFrame as AsyncFrame,
    )
    from maestro_test_adapters._browser import (
        AsyncLocator as AsyncLocator,
    )
    from maestro_test_adapters._command import (
        CommandAdapter as CommandAdapter,
    )
    from maestro_test_adapters._events import (
        Event as Event,
    )
    from maestro_test_adapters._events import (
        Output as Output,
    )
    from maestro_test_adapters._events import (
        RunFinished as RunFinished,
    )
    from maestro_test_adapters._events import (
        RunStarted as RunStarted,
    )
    from maestro_test_adapters._events import (
        RunWarning as RunWarning,
    )
    from maestro_test_adapters._events import (
        TestFinished as TestFinished,
    )
    from maestro_test_adapters._events import (
        TestStarted as TestStarted,
    )
    from maestro_test_adapters._model import (
        Attachment as Attachment,
    )
    from maestro_test_adapters._model import (
        Attempt as Attempt,
    )
    from maestro_test_adapters._model import (
        Outcome as Outcome,
    )
    from maestro_test_adapters._model import (
        Report as Report,
    )
    from maestro_test_adapters._model import (
        Status as Status,
    )
    from maestro_test_adapters._model import (
        Step as Step,
    )
    from maestro_test_adapters._model import (
        TestCase as TestCase,
    )
    from maestro_test_adapters._model import (
        TestResult as TestResult,
    )
    from maestro_test_adapters._plan import (
        run_plan as run_plan,
    )
    from maestro_test_adapters._playwright import (
        AsyncPlaywrightAdapter as AsyncPlaywrightAdapter,
    )
    from maestro_test_adapters._playwright import (
        PlaywrightAdapter as PlaywrightAdapter,
    )
    from maestro_test_adapters._pytest import (
        PytestAdapter as PytestAdapter,
    )
    from maestro_test_adapters._registry import (
        Registry as Registry,
    )
    from maestro_test_adapters._registry import (
        adapter_names as adapter_names,
    )
    from maestro_test_adapters._registry import (
        get_adapter as get_adapter,
    )
    from maestro_test_adapters._registry import (
        register_adapter as register_adapter,
    )
    from maestro_test_adapters._robot import (
        BehaveAdapter as BehaveAdapter,
    )
    from maestro_test_adapters._robot import (
        RobotAdapter as RobotAdapter,
    )
    from maestro_test_adapters._run import (
        Run as Run,
    )
    from maestro_test_adapters._runner import (
        Ending as Ending,
    )
    from maestro_test_adapters._runner import (
        Launch as Launch,
    )
    from maestro_test_adapters._runner import (
        Reader as Reader,
    )
    from maestro_test_adapters._runner import (
        RunnerAdapter as RunnerAdapter,
    )
    from maestro_test_adapters._runner import (
        Selection as Selection,
    )
    from maestro_test_adapters._selenium import (
        SeleniumAdapter as SeleniumAdapter,
    )
    from maestro_test_adapters._sync import (
        Browser as Browser,
    )
    from maestro_test_adapters._sync import (
        Frame as Frame,
    )
    from maestro_test_adapters._sync import (
        Locator as Locator,
    )
    from maestro_test_adapters._unittest import (
        UnittestAdapter as UnittestAdapter,
    )

_WHERE = {
    "_plan": ("run_plan",),
    "_registry": (
        "Registry",
        "adapter_names",
        "get_adapter",
        "register_adapter",
    ),
    "_unittest": ("UnittestAdapter",),
    "_command": ("CommandAdapter",),
    "_backend": (
        "ConsoleMessage",
        "Dialog",
        "Download",
        "Request",
        "Tab",
    ),
    "_browser": (
        "AsyncBrowser",
        "AsyncFrame",
        "AsyncLocator",
    ),
    "_events": (
        "Event",
        "Output",
        "RunFinished",
        "RunStarted",
        "RunWarning",
        "TestFinished",
        "TestStarted",
    ),
    "_model": (
        "Attachment",
        "Attempt",
        "Outcome",
        "Report",
        "Status",
        "Step",
        "TestCase",
        "TestResult",
    ),
    "_playwright": (
        "AsyncPlaywrightAdapter",
        "PlaywrightAdapter",
    ),
    "_pytest": ("PytestAdapter",),
    "_robot": ("BehaveAdapter", "RobotAdapter"),
    "_run": ("Run",),
    "_runner": (
        "Ending",
        "Launch",
        "Reader",
        "RunnerAdapter",
        "Selection",
    ),
    "_selenium": ("SeleniumAdapter",),
    "_sync": (
        "Browser",
        "Frame",
        "Locator",
    ),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "AsyncBrowser",
    "AsyncFrame",
    "AsyncLocator",
    "AsyncPlaywrightAdapter",
    "Attachment",
    "Attempt",
    "BehaveAdapter",
    "Browser",
    "CommandAdapter",
    "ConsoleMessage",
    "Dialog",
    "Download",
    "Ending",
    "Event",
    "Frame",
    "Launch",
    "Locator",
    "Outcome",
    "Output",
    "PlaywrightAdapter",
    "PytestAdapter",
    "Reader",
    "Registry",
    "Report",
    "Request",
    "RobotAdapter",
    "Run",
    "RunFinished",
    "RunStarted",
    "RunWarning",
    "RunnerAdapter",
    "Selection",
    "SeleniumAdapter",
    "Status",
    "Step",
    "Tab",
    "TestCase",
    "TestFinished",
    "TestResult",
    "TestStarted",
    "UnittestAdapter",
    "adapter_names",
    "get_adapter",
    "register_adapter",
    "run_plan",
]


def __getattr__(name: str) -> object:
    """Import a name when it is first asked for."""
    from importlib import import_module

    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{module}"), name)
    except ImportError as error:
        if module not in ("_selenium", "_playwright"):
            raise
        return _without_extra(name, error)


def _without_extra(name: str, missing: ImportError) -> type:
    """Return a class that stands in for an adapter whose extra is not installed."""

    def refuse(*_args: object, **_settings: object) -> None:
        raise ImportError(str(missing)) from missing

    return type(
        name, (), {"__init__": refuse, "start": refuse, "__doc__": str(missing)}
    )


def __dir__() -> list[str]:
    return sorted(__all__)
