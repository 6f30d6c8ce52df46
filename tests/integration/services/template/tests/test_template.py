"""Settings are read, letters are rendered and recorded."""

from pathlib import Path
from unittest.mock import patch

import pytest

import services.core.service_registry
from services.core import AuditLogger
from services.core.audit_logger import (
    Actor as Who,
)
from services.core.yaml_config_parser import ConfigError, load
from services.template.app import App
from services.template.settings import read_settings

SETTINGS = Path(__file__).parent.parent / "templates.yaml"


@pytest.fixture
def audit(tmp_path):
    audit = AuditLogger(tmp_path / "audit", origin="x.example/audit", actor=Who.service("t"))
    yield audit
    audit.close()


@pytest.fixture
def app(audit):
    return App(read_settings(SETTINGS), audit)


def test_a_letter_is_rendered_and_recorded(app, audit):
    code, answer = app.answer("/render?template=greeting&name=Ada")
    assert (code, answer["text"].startswith("Dear Ada")) == (200, True)
    assert len(list(audit.query(action="letter.render"))) == 1


@pytest.mark.parametrize("path", ["/render?template=none&name=x", "/render", "/other"])
def test_what_is_not_there_is_404(app, path):
    assert app.answer(path)[0] == 404


def test_the_style_is_plain_data(app):
    assert app.answer("/style") == (200, {"most_words": 40, "forbidden": ["urgent", "act now"]})


def test_broken_settings_are_named(tmp_path):
    (tmp_path / "t.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(ConfigError, match="t.yaml"):
        load(tmp_path / "t.yaml")


def test_settings_come_from_the_parser():
    with patch("services.core.yaml_config_parser.load") as loader:
        loader.return_value = {"templates": {}, "style": {"most_words": 1, "forbidden": []}}
        assert read_settings("x.yaml").templates == {}


def test_a_registered_service_is_found(tmp_path):
    registry = services.core.service_registry.ServiceRegistry.open(f"sqlite:///{tmp_path}/r.db")
    registration = registry.register("template", port=8080)
    assert registry.service("template").pick().url("/style") == "http://127.0.0.1:8080/style"
    registration.close()
    assert registry.find("template") == ()
    with pytest.raises(services.core.service_registry.NoInstances):
        registry.service("nobody").pick()
    registry.close()
