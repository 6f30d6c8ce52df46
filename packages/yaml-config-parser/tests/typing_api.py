"""Read by mypy, not run: the types that users see."""

from dataclasses import dataclass
from typing import Any, assert_type

from maestro_yaml_config_parser import Document, TestPlan, YamlConfigParser, load


@dataclass
class App:
    name: str


doc = load("app.yaml")
assert_type(doc, Document)
assert_type(doc.into(App), App)
assert_type(doc.into(TestPlan).mapping(), dict[str, Any])
assert_type(YamlConfigParser().parse_file("a.yaml"), dict[str, Any])
assert_type(doc.explain("name"), str)
