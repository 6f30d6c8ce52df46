"""Real YAML files to work on: those that installed libraries bring along."""

import importlib.metadata
from pathlib import Path

import pytest

PLAN = """\
# A plan as somebody would write it.
name: shop
description: "Checkout, end to end"   # shown in reports
environments:
  local:
    base_url: http://127.0.0.1:8000
    browser: chromium
    variables: {USER: ada, LIMIT: 3}
fixtures:
  server:
    scope: suite
    setup:
      - run: [python, -m, shop]
    teardown:
      - run: {argv: [pkill, shop], exit: 1}
defaults:
  environment: local
  timeout: 60
  tags: [nightly]
suites:
  - name: checkout
    adapter: playwright
    fixtures: [server]
    tags: [smoke, "slow"]
    matrix:
      browser: [chromium, firefox]
      size: [1, 2]
      exclude:
        - {browser: firefox, size: 2}
    cases:
      - name: login
        steps:
          - open: /login
          - fill: {label: Name, value: "${{ variables.USER }}"}
          - click: {role: button, name: Sign in}
            timeout: 2.5
      - name: pay
        needs: [login]
        retries: 2
        parameters:
          amount: 12
        steps:
          - open: "/pay?n=${{ matrix.size }}"
          - expect:
              testid: total
              text: "42"
              visible: true
          - press: Enter
  - name: api
    needs: [checkout]
    cases:
      - name: unit
        timeout: 30
        steps:
          - pytest: [tests]
"""


def _real_files() -> list[Path]:
    found = []
    for name in ("dask", "distributed", "hypothesis", "pandas", "playwright"):
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found += [Path(f.locate()) for f in files if f.suffix in (".yaml", ".yml")]
    return sorted(f for f in found if 200 < f.stat().st_size < 100_000)


@pytest.fixture(scope="session")
def real_texts() -> dict[str, str]:
    """Name to text of real YAML files, and of one plan."""
    texts = {f.name: f.read_text(encoding="utf-8") for f in _real_files()}
    return {"plan.yaml": PLAN, **texts}


@pytest.fixture
def plan_text() -> str:
    """A valid plan with most features."""
    return PLAN
