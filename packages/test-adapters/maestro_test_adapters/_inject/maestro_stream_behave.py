"""Runs behave 1.2.6 or later and tells a file what happens, as it happens."""

import os
import sys
import time

from maestro_stream_base import begin, first_line, step

sys.path.insert(0, os.getcwd())

import behave
from behave import model, runner
from behave.__main__ import main

_OUTCOME = {"passed": "passed", "failed": "failed", "skipped": "skipped"}
STREAM, CHOICE = begin(below=":/")


def identity(scenario):
    """Return `file:line`, which behave takes as a location, too."""
    return str(scenario.location)


def case_of(scenario):
    feature = getattr(scenario, "feature", None)
    return {
        "id": identity(scenario),
        "name": scenario.name,
        "suite": [feature.name] if feature is not None else [],
        "filePath": scenario.filename,
        "line": scenario.line,
        "tags": sorted(map(str, getattr(scenario, "effective_tags", scenario.tags))),
    }


def choose(features, config):
    """Skip what is not chosen; put features first in which an earlier run failed."""
    found = [
        (identity(scenario), scenario)
        for feature in features
        for scenario in feature.walk_scenarios()
        if scenario.should_run(config)
    ]
    chosen = [scenario for _, scenario in CHOICE.apply(found, STREAM)]
    STREAM.write("cases", cases=[case_of(scenario) for scenario in chosen])
    kept = set(map(id, chosen))
    for _, scenario in found:
        if id(scenario) not in kept:
            scenario.mark_skipped()
    if not CHOICE.settings.get("first"):
        return features
    return sorted(
        features,
        key=lambda feature: (
            not any(
                CHOICE.is_first(identity(scenario))
                for scenario in feature.walk_scenarios()
            )
        ),
    )


def run_model(self, features=None):
    STREAM.session("behave", behave.__version__)
    features = choose(self.features if features is None else features, self.config)
    if CHOICE.settings["collect"]:
        return False
    return _run_model(self, features)


def text_of(captured, name):
    """Return what was captured; behave 1.3 keeps a part for each step and hook."""
    parts = getattr(captured, "captures", None) or [captured]
    return "".join(getattr(part, name, None) or "" for part in parts)


def run_scenario(self, running):
    """Run a scenario between its start and its end."""
    if not self.should_run(running.config):
        return _run_scenario(self, running)
    begun, at = time.perf_counter(), time.time()
    STREAM.start(identity(self), at)
    failed = _run_scenario(self, running)
    raw = self.status.name
    steps, message, trace = [], getattr(self, "error_message", None) or "", ""
    undefined = raw in ("undefined", "untested_undefined")
    for one in self.all_steps:
        if one.status.name not in ("untested", "skipped"):
            text = one.error_message or ""
            outcome = _OUTCOME.get(one.status.name, "error")
            steps.append(step(one.keyword + " " + one.name, outcome, first_line(text)))
            trace += text
            if one.status.name == "undefined" and not undefined:
                undefined, message = True, "undefined step: %s" % one.name
            elif outcome != "passed" and not message:
                message = text
    outcome = "error" if undefined else _OUTCOME.get(raw, "error")
    said = getattr(self, "captured", None)
    STREAM.end(
        case_of(self),
        outcome,
        time.perf_counter() - begun,
        at,
        raw=raw,
        message=first_line(message) or (self.skip_reason or ""),
        trace=trace if outcome in ("failed", "error") else "",
        steps=steps,
        stdout=text_of(said, "stdout"),
        stderr=text_of(said, "stderr"),
        log=text_of(said, "log_output"),
    )
    return failed


if __name__ == "__main__":
    _run_model, runner.ModelRunner.run_model = runner.ModelRunner.run_model, run_model
    _run_scenario, model.Scenario.run = model.Scenario.run, run_scenario
    code = main(sys.argv[1:])
    STREAM.finish(code)
    sys.exit(code)
