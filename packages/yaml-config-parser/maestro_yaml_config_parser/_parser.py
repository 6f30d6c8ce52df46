"""`YamlConfigParser`: the settings of a load, kept in one object."""

import os
from collections.abc import Mapping
from typing import Any

from ._arguments import check_options, known_names
from ._document import Document
from ._interpolation import SecretSource
from ._loading import DEFAULT_LIMITS, StrPath, load, loads
from ._plan import TestPlan
from ._source import Limits


class YamlConfigParser:
    """Reads configuration files and test plans with the same settings each time.

    `env` is the process's environment unless given; see `load` for the rest.
    Holds no state between calls, so threads may share it.
    """

    @known_names
    def __init__(
        self,
        *,
        profile: str | None = None,
        env: Mapping[str, str] | None = None,
        secrets: SecretSource | None = None,
        values: Mapping[str, Any] | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        check_options(
            "YamlConfigParser()", profile=profile, env=env, secrets=secrets,
            values=values, limits=limits,
        )  # fmt: skip
        self._profile = profile
        self._env = env
        self._secrets = secrets
        self._values = values
        self._limits = limits

    def parse_file(self, path: StrPath, *overlays: StrPath) -> dict[str, Any]:
        """Return the data of a file and its overlays as a dict of your own."""
        data = self.load(path, *overlays).to_dict()
        return {} if data is None else data

    def parse_string(self, text: str, name: str = "<string>") -> dict[str, Any]:
        """Return the data of a text."""
        document = loads(
            text, name, env=self._environment(), secrets=self._secrets,
            values=self._values, profile=self._profile, limits=self._limits,
        )  # fmt: skip
        data = document.to_dict()
        return {} if data is None else data

    def parse_plan(self, path: StrPath, *overlays: StrPath) -> TestPlan:
        """Return a checked test plan."""
        return self.load(path, *overlays).into(TestPlan)

    def load(self, path: StrPath, *overlays: StrPath) -> Document:
        """Return the document, which knows its places."""
        return load(
            path, overlays=overlays, profile=self._profile, env=self._environment(),
            secrets=self._secrets, values=self._values, limits=self._limits,
        )  # fmt: skip

    def _environment(self) -> Mapping[str, str]:
        return os.environ if self._env is None else self._env
