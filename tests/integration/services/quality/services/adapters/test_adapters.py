"""Run tests in a process of their own."""

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path


class AdapterError(RuntimeError):
    pass


@dataclass(frozen=True)
class Result:
    name: str
    outcome: str


class Report:
    def __init__(self, xml):
        self.xml = xml
        self.results = []
        for case in ElementTree.fromstring(xml).iter("testcase"):
            tags = {child.tag for child in case}
            bad = tags & {"failure", "error"}
            outcome = "failed" if bad else "skipped" if "skipped" in tags else "passed"
            self.results.append(Result(case.get("name"), outcome))

    @property
    def failures(self):
        return [result for result in self.results if result.outcome == "failed"]

    @property
    def ok(self):
        return bool(self.results) and not self.failures

    def write(self, path):
        Path(path).write_text(self.xml, encoding="utf-8")


class PytestAdapter:
    def __init__(self, paths, *, cwd=".", env=None, args=(), timeout=None):
        self.paths, self.cwd, self.env = [str(path) for path in paths], cwd, env or {}
        self.args, self.timeout = list(args), timeout

    def run(self):
        with tempfile.TemporaryDirectory() as folder:
            xml = Path(folder) / "junit.xml"
            command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={xml}"]
            done = subprocess.run(
                [*command, *self.args, *self.paths],
                cwd=self.cwd,
                env={**os.environ, **self.env},
                timeout=self.timeout,
                capture_output=True,
                text=True,
            )
            if not xml.exists():
                raise AdapterError(done.stdout + done.stderr)
            return Report(xml.read_text(encoding="utf-8"))
