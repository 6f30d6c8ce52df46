"""Letters are checked by the rules; the style survives its service."""

from unittest import mock

import pytest

from services.adapters.test_adapters import PytestAdapter
from services.core import service_registry as registry_module
from services.quality import check as checks
from services.quality.app import App
from services.quality.style import DEFAULT, Style

STYLE = {"most_words": 10, "forbidden": ["urgent"]}


def test_a_good_letter_passes():
    found = checks.check("Dear Ada, welcome.", STYLE)
    assert found == {"ok": True, "passed": 3, "failed": []}


def test_a_bad_letter_is_told_why():
    found = checks.check("URGENT! " * 20, STYLE)
    assert not found["ok"]
    assert len(found["failed"]) == 3


def test_the_adapter_runs_a_file(tmp_path):
    (tmp_path / "test_x.py").write_text("def test_x(): pass\n", encoding="utf-8")
    report = PytestAdapter(paths=["test_x.py"], cwd=tmp_path, args=["-p", "no:cacheprovider"]).run()
    assert report.ok
    assert [result.outcome for result in report.results] == ["passed"]


def test_rules_that_cannot_run_do_not_pass():
    with mock.patch("services.adapters.test_adapters.PytestAdapter.run") as run:
        run.side_effect = RuntimeError("no pytest")
        with pytest.raises(RuntimeError):
            checks.check("Dear Ada", STYLE)


def test_without_the_template_service_the_last_known_style_is_used(tmp_path):
    registry = registry_module.ServiceRegistry.open(f"sqlite:///{tmp_path}/registry.db")
    style = Style(registry)
    assert style.read() == DEFAULT
    style.known = STYLE
    assert style.read() == STYLE
    registry.close()


def test_each_check_is_recorded(tmp_path):
    app = App(
        {"AUDIT_DIR": str(tmp_path / "audit"), "REGISTRY_URL": f"sqlite:///{tmp_path}/r.db"}
    )
    with mock.patch("services.quality.app.check", return_value={"ok": True, "failed": []}):
        assert app.answer("POST", "/check", {"text": "Dear Ada"})[0] == 200
    (event,) = app.audit.query(action="letter.check")
    assert event.outcome == "success"
    assert app.audit.verify().ok
    app.close()
