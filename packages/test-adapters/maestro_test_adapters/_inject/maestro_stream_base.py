"""What our runners for unittest, Robot Framework and behave share.

For Python 3.8 or later, with nothing but the standard library. The settings come in
the JSON file that MAESTRO_SELECT names; events go to the file that MAESTRO_STREAM
names, one line each; on SIGUSR2 the stacks go to the file that MAESTRO_STACKS names.
"""

import json
import os
import sys
import time

STATUS = {
    "passed": "passed",
    "failed": "failed",
    "error": "failed",
    "skipped": "skipped",
    "xfailed": "skipped",
    "xpassed": "passed",
    "notrun": "pending",
}


class Stream:
    """The file, opened for appending: one write a line."""

    def __init__(self, path):
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self.begun = False

    def write(self, kind, **event):
        event["e"] = kind
        line = json.dumps(event, separators=(",", ":")) + "\n"
        try:
            os.write(self.file, line.encode("utf-8", "backslashreplace"))
        except OSError:
            pass  # a full disk must not fail the tests; the adapter misses the line

    def session(self, tool, version):
        self.begun = True
        python = "%d.%d.%d" % sys.version_info[:3]
        self.write(
            "session",
            tool=tool,
            version=version,
            python=python,
            at=time.time(),
            root=os.getcwd(),
        )

    def start(self, identity, at):
        self.write("start", id=identity, at=at)

    def end(self, case, outcome, seconds, at, **more):
        """Tell a result; `more` are CTRF's keys, those without a value are left out."""
        told = dict(case)
        extra = {
            "maestro.id": told.pop("id"),
            "maestro.outcome": outcome,
            "maestro.seconds": seconds,
            "maestro.start": at,
        }
        if more.get("log"):
            extra["maestro.log"] = more.pop("log")
        for key in ("stdout", "stderr"):
            if more.get(key):
                more[key] = more[key].split("\n")
        told.update(
            status=STATUS[outcome],
            rawStatus=more.pop("raw", outcome),
            duration=round(seconds * 1000),
            start=int(at * 1000),
            extra=extra,
        )
        told.update((key, value) for key, value in more.items() if value)
        self.write("end", test=told)

    def finish(self, code):
        if self.begun:  # a runner that never came to its tests says nothing
            self.write("finish", exit=code, at=time.time(), counts={})


def step(name, outcome, message=None):
    """Describe a part of a test as CTRF does."""
    extra = {"maestro.outcome": outcome}
    if message:
        extra["maestro.message"] = message
    return {"name": name, "status": STATUS[outcome], "extra": extra}


def first_line(text):
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


class Choice:
    """The selection: what to run, what to leave, what to put first."""

    def __init__(self, settings, below):
        self.settings = settings
        self.below = below

    def matches(self, identity, names):
        return any(
            identity == name or identity.startswith(name.rstrip("/") + sign)
            for name in names
            for sign in self.below
        )

    def apply(self, tests, stream):
        """Return the chosen of (id, test) pairs, in order; tell of unknown ids."""
        only = self.settings.get("only")
        if only is not None:
            ids = [identity for identity, _ in tests]
            missing = [n for n in only if not any(self.matches(i, [n]) for i in ids)]
            if missing:
                stream.write("missing", ids=missing, known=ids)
            tests = [pair for pair in tests if self.matches(pair[0], only)]
        skip = set(self.settings.get("skip", ()))
        tests = [pair for pair in tests if pair[0] not in skip]
        return sorted(tests, key=lambda pair: not self.is_first(pair[0]))

    def is_first(self, identity):
        return self.matches(identity, self.settings.get("first", ()))


def begin(below):
    """Take our settings out of the environment; return the stream and the choice."""
    with open(os.environ.pop("MAESTRO_SELECT"), encoding="utf-8") as file:
        choice = Choice(json.load(file), below)
    stream = Stream(os.environ.pop("MAESTRO_STREAM"))
    stacks = os.environ.pop("MAESTRO_STACKS", None)
    if stacks:
        import faulthandler
        import signal

        if hasattr(faulthandler, "register"):
            kept = open(stacks, "a", encoding="utf-8")  # noqa: SIM115 - for our life
            faulthandler.register(signal.SIGUSR2, file=kept, all_threads=True)
            _KEPT.append(kept)
    return stream, choice


_KEPT = []
