"""What templates.yaml says."""

from dataclasses import dataclass
from string import Template

from services.core import yaml_config_parser as config


@dataclass(frozen=True)
class Settings:
    templates: dict[str, Template]
    style: dict


def read_settings(path) -> Settings:
    document = config.load(path)
    return Settings(
        templates={name: Template(text) for name, text in document["templates"].items()},
        style={
            "most_words": document["style"]["most_words"],
            "forbidden": list(document["style"]["forbidden"]),
        },
    )
