"""pytest plugin that tells a file what happens, line by line, as it happens.

A single file that needs nothing but pytest 7 or later, on Python 3.8 or later. The
adapter puts its folder on PYTHONPATH and names it with `-p`; every line is one write
to a file opened for appending, so that what was told survives any crash.

Environment: MAESTRO_STREAM (the file), MAESTRO_SELECT (a JSON file with `only`,
`skip` and `first`: lists of node ids; optional), MAESTRO_STACKS (where a stack dump
goes on SIGUSR2; optional), MAESTRO_PARENT (stop when this is no longer our parent).
"""

import json
import os
import sys
from json.encoder import encode_basestring_ascii as _quoted
from time import time as _now  # a test may replace that of the module

import pytest

_LIMIT = 1000000  # characters of one captured stream of one test
_BITS = 10000  # of an int; Python refuses to write or read many more as a decimal
_json = json.JSONEncoder(separators=(",", ":")).encode  # making it costs most of a line
_PASSED = (
    '{"e":"end","test":{%s,"status":"passed","rawStatus":"passed","duration":%d,'
    '"start":%d,"extra":{"maestro.outcome":"passed","maestro.seconds":%r,'
    '"maestro.start":%r,"maestro.id":%s}}}'
)


class _Stream:
    """The file, owned by the process that opened it."""

    def __init__(self, path):
        self.owner = os.getpid()
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def write(self, event):
        self.write_line(_json(event))

    def write_line(self, text):
        try:
            os.write(self.file, text.encode("ascii") + b"\n")
        except OSError:
            pass  # a full disk must not fail the tests; the adapter misses the line


def _plain(value):
    if isinstance(value, int) and value.bit_length() > _BITS:
        return hex(value)[:1000]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else repr(value)
    try:
        return repr(value)[:1000]
    except Exception:  # a broken __repr__ is the test's own business
        return "<" + type(value).__name__ + ">"


def _wanted_by(nodeid, wanted):
    """Return which of the wanted are this node or one that it lies below."""
    found = {nodeid} & wanted
    for mark in ("[", "::", "/"):
        at = nodeid.find(mark)
        while at >= 0:
            if nodeid[:at] in wanted:
                found.add(nodeid[:at])
            at = nodeid.find(mark, at + len(mark))
    return found


def _matches(nodeid, wanted):
    return nodeid in wanted or bool(_wanted_by(nodeid, wanted))


class Selection:
    """Keeps, drops and orders the collected tests; runs where they are collected."""

    def __init__(self, stream, chosen):
        self.stream = stream
        self.chosen = chosen

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config, items):
        only = self.chosen.get("only")
        skip = set(self.chosen.get("skip", ()))
        if only is not None:
            only = set(only)
            self._tell_missing(only, [item.nodeid for item in items])
        if only is not None or skip:
            kept, gone = [], []
            for item in items:
                nodeid = item.nodeid
                take = nodeid not in skip and (only is None or _matches(nodeid, only))
                (kept if take else gone).append(item)
            if gone:
                config.hook.pytest_deselected(items=gone)
                items[:] = kept
        first = set(self.chosen.get("first", ()))
        if first:
            items.sort(key=lambda item: not _matches(item.nodeid, first))

    def _tell_missing(self, only, known):
        left = set(only)
        for nodeid in known:
            left -= _wanted_by(nodeid, left)
            if not left:
                return
        self.stream.write({"e": "missing", "ids": sorted(left), "known": known[:5000]})


class Guard:
    """Watches forks: which test forked, and whether the child came back into us."""

    def __init__(self, stream):
        self.stream = stream
        self.last = ""
        self.boxed = 0  # our process id, if a plugin forked us to run one test
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def _forked(self):
        if _forked_by_a_plugin(sys._getframe()):
            self.boxed = os.getpid()
        test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
        if test:
            self.stream.write({"e": "fork", "id": test, "pid": os.getpid()})

    def stop_escaped(self, nodeid):
        pid = os.getpid()
        if pid not in (self.stream.owner, self.boxed):
            self.stream.write({"e": "escaped", "id": nodeid, "pid": pid})
            os._exit(70)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self):
        self.stop_escaped("")


def _forked_by_a_plugin(frame):
    """Return whether a test's protocol forked (as pytest-forked does), not the test."""
    while frame is not None:
        if frame.f_code is pytest.CallInfo.from_call.__func__.__code__:
            return False
        if frame.f_code.co_name == "pytest_runtest_protocol":
            return True
        frame = frame.f_back
    return False


class Worker:
    """In a worker of xdist: sends along what only the worker knows of a test."""

    def __init__(self, config, stream, guard):
        self.config = config
        self.stream = stream
        self.guard = guard
        self.cases = _Cases(config)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report):
        self.guard.stop_escaped(report.nodeid)

    def pytest_collection_finish(self, session):
        if self.config.workerinput["workerid"] == "gw0":
            self.stream.write({"e": "cases", "cases": self.cases.of(session.items)})

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item, call):
        outcome = yield
        if call.when == "setup":
            # As text: xdist carries neither enums nor lone surrogates.
            outcome.get_result().maestro_case = self.cases.text(item)


class _Cases:
    """Describes collected items as CTRF does."""

    def __init__(self, config):
        self.folder = str(config.invocation_params.dir)
        self.files = {}
        self.tags = {}
        self.shared = {}

    def _path(self, item):
        path = str(getattr(item, "path", None) or item.fspath)
        known = self.files.get(path)
        if known is None:
            known = os.path.relpath(path, self.folder)
            known = self.files[path] = path if known.startswith("..") else known
        return known

    def case(self, item):
        case = {"name": item.name, "filePath": self._path(item)}
        suite = item.nodeid.partition("[")[0].split("::")[:-1]
        if suite:
            case["suite"] = suite
        if item.location[1] is not None:
            case["line"] = item.location[1] + 1
        tags = self._tags(item)
        if tags:
            case["tags"] = sorted(tags)
        spec = getattr(item, "callspec", None)
        if spec is not None and spec.params:
            case["parameters"] = {k: _plain(v) for k, v in spec.params.items()}
        return case

    def text(self, item):
        """Return the case as JSON without its braces; plain functions share most."""
        plain = type(item) is pytest.Function and item.location[1] is not None
        if item.own_markers or hasattr(item, "callspec") or not plain:
            return _json(self.case(item))[1:-1]
        shared = self.shared.get(item.parent)
        if shared is None:
            case = self.case(item)
            del case["name"], case["line"]
            shared = self.shared[item.parent] = _json(case)[1:-1]
        line = item.location[1] + 1
        return '"name":%s,%s,"line":%d' % (_quoted(item.name), shared, line)

    def _tags(self, item):
        above = self.tags.get(item.parent)
        if above is None:
            marks = item.parent.iter_markers() if item.parent else ()
            above = {mark.name for mark in marks} - {"parametrize"}
            self.tags[item.parent] = above
        own = {mark.name for mark in item.own_markers} - {"parametrize"}
        return above | own if own else above

    def of(self, items):
        return [dict(self.case(item), id=item.nodeid) for item in items]


class StreamPlugin:
    """Writes the events of one session."""

    def __init__(self, config, stream, guard):
        self.config = config
        self.stream = stream
        self.guard = guard
        self.cases = {}  # by node id, as JSON without its braces
        self.open = {}
        self.session = None
        self.parent = os.environ.pop("MAESTRO_PARENT", None)

    def pytest_sessionstart(self, session):
        self.session = session

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node):
        node.workerinput["maestro"] = self.config.maestro_settings

    def pytest_collection_finish(self, session):
        described = _Cases(self.config)
        told = []
        for item in session.items:
            text = self.cases[item.nodeid] = described.text(item)
            told.append('{%s,"id":%s}' % (text, _quoted(item.nodeid)))
        self.stream.write_line('{"e":"cases","cases":[%s]}' % ",".join(told))

    def pytest_collectreport(self, report):
        if report.failed:
            self.stream.write(
                {
                    "e": "end",
                    "test": {
                        "name": report.nodeid or "collection",
                        "status": "failed",
                        "rawStatus": "error",
                        "duration": 0,
                        "filePath": report.nodeid.partition("::")[0],
                        "message": _last_line(report.longreprtext),
                        "trace": report.longreprtext,
                        "extra": {
                            "maestro.id": report.nodeid or "collection",
                            "maestro.outcome": "error",
                            "maestro.seconds": 0.0,
                            "maestro.phase": "collect",
                        },
                    },
                }
            )

    def pytest_runtest_logstart(self, nodeid, location):
        at = _now()
        if self.parent and str(os.getppid()) != self.parent:
            self.session.shouldstop = "the process that started the run is gone"
        self.open[nodeid] = {"at": at, "reports": []}
        self.stream.write_line('{"e":"start","id":%s,"at":%r}' % (_quoted(nodeid), at))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report):
        self.guard.stop_escaped(report.nodeid)
        entry = self.open.get(report.nodeid)
        if entry is None:
            # xdist reports the test of a crashed worker after its start was told.
            entry = self.open[report.nodeid] = {"at": _now(), "reports": []}
        entry["reports"].append(report)
        if report.when == "???":  # a crashed worker: no finish will follow
            self._finish(report.nodeid)

    def pytest_runtest_logfinish(self, nodeid, location):
        self._finish(nodeid)

    def _finish(self, nodeid):
        entry = self.open.pop(nodeid, None)
        if entry is None or not entry["reports"]:
            return
        reports, at = entry["reports"], entry["at"]
        known = self.cases.get(nodeid)
        if known and _plainly_passed(reports):
            self.stream.write_line(_line_of_passed(nodeid, known, reports, at))
            return
        event = {"e": "end", "test": _test_of(nodeid, known, reports, at)}
        if any(report.outcome == "rerun" for report in reports):
            event["again"] = True  # pytest-rerunfailures runs it once more
        self.stream.write(event)

    def pytest_sessionfinish(self, session, exitstatus):
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        counts = {}
        for name, reports in (reporter.stats if reporter else {}).items():
            if name and name not in ("deselected", "warnings"):
                counts[name] = sum(
                    1 for r in reports if getattr(r, "count_towards_summary", True)
                )
        self.stream.write(
            {
                "e": "finish",
                "exit": int(exitstatus),
                "at": _now(),
                "counts": counts,
            }
        )


def _plainly_passed(reports):
    for report in reports:
        if (
            report.outcome != "passed"
            or report.sections
            or report.user_properties
            or type(report.duration) is not float
            or type(report) is not pytest.TestReport
            or not _NOTABLE.isdisjoint(report.__dict__)
        ):
            return False
    return True


_NOTABLE = {"wasxfail", "context", "worker_id"}


def _line_of_passed(nodeid, known, reports, at):
    """Return what `_test_of` says of a test that has nothing to say, as JSON."""
    seconds = 0.0
    for report in reports:  # in this order, as sum() rounds otherwise
        seconds += report.duration
    start = float(getattr(reports[0], "start", None) or at)
    ms, start_ms = round(seconds * 1000), int(start * 1000)
    return _PASSED % (known, ms, start_ms, seconds, start, _quoted(nodeid))


def _test_of(nodeid, known, reports, at):
    """Return a test as CTRF has it, from the reports of its phases.

    `known` is what its collection told, as JSON without its braces, or None.
    """
    known = known or getattr(reports[0], "maestro_case", None)
    test = json.loads("{%s}" % known) if known else _case_of(reports[0])
    test.update(_told(reports, at))
    test["extra"]["maestro.id"] = nodeid
    return test


def _case_of(report):
    case = {"name": report.nodeid.rpartition("::")[2] or report.nodeid}
    path, line, _ = report.location
    case["filePath"] = path
    if line is not None:
        case["line"] = line + 1
    return case


def _last_line(text):
    for line in reversed(text.splitlines()):
        if line.startswith("E  "):
            return line[1:].strip()
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def _why(report):
    """Return one line that says why a report is not a plain pass."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        return crash.message
    if isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        return reason.removeprefix("Skipped: ")
    if report.longrepr is None:
        return ""
    return _last_line(report.longreprtext)


def _told(reports, at):
    """Return the outcome, times, texts and properties of a test's phases."""
    outcome, raw, message, trace, steps = "passed", "passed", None, [], []
    out, err, log, user, seconds = "", "", "", (), 0.0
    for report in reports:
        if type(report).__name__ == "SubtestReport" or hasattr(report, "context"):
            steps.append(_step(report))
            if report.failed and outcome == "passed":
                outcome = raw = "failed"
                message = _why(report)
                trace.append(report.longreprtext)
            continue
        seconds += report.duration
        user = report.user_properties or user
        if report.sections:
            out, err, log = _sections(report)
        if report.passed and not hasattr(report, "wasxfail"):
            continue
        worse, word = _outcome_of(report)
        if worse is None:
            continue
        if outcome in ("passed", "skipped", "xfailed", "xpassed"):
            outcome, raw = worse, word
            message = (
                _why(report)
                if not hasattr(report, "wasxfail")
                else report.wasxfail or _why(report)
            )
        if report.outcome in ("failed", "rerun"):
            trace.append(report.longreprtext)
    extra = {"maestro.outcome": outcome, "maestro.seconds": seconds}
    extra["maestro.start"] = float(getattr(reports[0], "start", None) or at)
    if log:
        extra["maestro.log"] = log
    told = {
        "status": _STATUS[outcome],
        "rawStatus": raw,
        "duration": round(seconds * 1000),
        "start": int(extra["maestro.start"] * 1000),
        "extra": extra,
    }
    if message:
        told["message"] = message
    if trace:
        told["trace"] = "\n".join(trace)
    if out:
        told["stdout"] = out.split("\n")
    if err:
        told["stderr"] = err.split("\n")
    if steps:
        told["steps"] = steps
    worker = getattr(reports[0], "worker_id", None)
    if worker:
        told["threadId"] = worker
    _add_properties(told, user)
    return told


_STATUS = {
    "passed": "passed",
    "failed": "failed",
    "error": "failed",
    "crashed": "failed",
    "skipped": "skipped",
    "xfailed": "skipped",
    "xpassed": "passed",
}


def _outcome_of(report):
    again = report.outcome == "rerun"
    if report.when == "???" and (report.failed or again):
        return "crashed", "crashed"
    if hasattr(report, "wasxfail"):
        if report.skipped:
            return "xfailed", "xfailed"
        return ("xpassed", "xpassed") if report.passed else ("failed", "failed")
    if report.failed or again:
        word = "failed" if report.when == "call" else "error"
        return word, "rerun" if again else word
    if report.skipped:
        return "skipped", "skipped"
    return None, None


def _sections(report):
    out, err, log = "", "", ""
    for name, text in report.sections:
        if name.startswith("Captured stdout"):
            out += text
        elif name.startswith("Captured stderr"):
            err += text
        elif name.startswith("Captured log"):
            log += text + "\n"
    return _cut(out), _cut(err), _cut(log)


def _cut(text):
    if len(text) <= _LIMIT:
        return text
    half = _LIMIT // 2
    gone = len(text) - _LIMIT
    return text[:half] + "\n[... %d characters left out ...]\n" % gone + text[-half:]


def _step(report):
    context = getattr(report, "context", None)
    name = str(getattr(context, "msg", None) or "")
    values = getattr(context, "kwargs", None) or {}
    values = ", ".join("%s=%s" % (k, _plain(v)) for k, v in values.items())
    name = " ".join(part for part in (name, values and "(%s)" % values) if part)
    outcome = _outcome_of(report)[0] or "passed"
    step = {
        "name": name or "subtest",
        "status": _STATUS[outcome],
        "extra": {"maestro.outcome": outcome},
    }
    if report.failed:
        step["extra"]["maestro.message"] = _why(report)
    return step


def _add_properties(told, user):
    """Split what `record_property` recorded: attachments, and all the rest."""
    attachments, rest = [], {}
    for name, value in user:
        if name == "attachment":
            path = str(value)
            import mimetypes

            kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
            attachments.append(
                {"name": os.path.basename(path), "contentType": kind, "path": path}
            )
        else:
            rest[str(name)] = _plain(value)
    if attachments:
        told["attachments"] = attachments
    if rest:
        told["extra"]["maestro.properties"] = rest


def pytest_configure(config):
    """Start telling, in the process that controls the session."""
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        settings = worker.get("maestro")
    else:
        # Taken out of the environment: a pytest inside a test must not tell our file.
        settings = {
            key: os.environ.pop("MAESTRO_" + key.upper(), "")
            for key in ("stream", "select", "stacks")
        }
    if not settings or not settings["stream"]:
        return
    config.maestro_settings = settings
    _watch_stacks(settings["stacks"])
    stream = _Stream(settings["stream"])
    chosen = {}
    if settings["select"]:
        with open(settings["select"], encoding="utf-8") as file:
            chosen = json.load(file)
    guard = Guard(stream)
    plugins = [Selection(stream, chosen), guard]
    if worker is None:
        stream.write(
            {
                "e": "session",
                "tool": "pytest",
                "version": pytest.__version__,
                "at": _now(),
                "root": str(config.rootpath),
                "python": "%d.%d.%d" % sys.version_info[:3],
            }
        )
        plugins.append(StreamPlugin(config, stream, guard))
    else:
        plugins.append(Worker(config, stream, guard))
    for plugin in plugins:
        config.pluginmanager.register(plugin, "maestro-" + type(plugin).__name__)


def _watch_stacks(path):
    """Dump all stacks on SIGUSR2, so that a hung test can be seen from outside."""
    if not path:
        return
    import faulthandler
    import signal

    if hasattr(faulthandler, "register"):
        file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open as long as we live
        faulthandler.register(signal.SIGUSR2, file=file, all_threads=True)
        _KEPT.append(file)


_KEPT = []
