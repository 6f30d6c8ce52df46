"""Check a letter: run the rules as tests, count what came out."""

import json
import os
import tempfile
from pathlib import Path

from ..adapters.test_adapters import PytestAdapter as Adapter
from ..core import test_result_aggregator as results

RULES = Path(__file__).parent / "rules"


def check(text: str, style: dict) -> dict:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "letter.txt").write_text(text, encoding="utf-8")
        (folder / "style.json").write_text(json.dumps(style), encoding="utf-8")
        report = Adapter(
            paths=[RULES],
            cwd=folder,
            env={
                "LETTER": str(folder / "letter.txt"),
                "STYLE": str(folder / "style.json"),
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            },
            args=["-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(RULES)],
            timeout=15,
        ).run()
        report.write(folder / "report.xml")
        return verdict(folder / "report.xml")


def verdict(path: Path) -> dict:
    with results.TestResultAggregator() as aggregator:
        run = aggregator.ingest(path)
        failed = sorted(result.name for result in run.failed_results)
        passed = run.counts.passed
    return {"ok": passed > 0 and not failed, "passed": passed, "failed": failed}
