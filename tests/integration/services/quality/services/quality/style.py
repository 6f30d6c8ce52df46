"""The style of letters, which the template service knows."""

import json
from urllib.request import urlopen

from services.core.resilience import (
    Fallback,
    Retry,  # three attempts, then the last known style
)
from services.core.service_registry import NoInstances, ServiceRegistry

DEFAULT = {"most_words": 100, "forbidden": []}


class Style:
    def __init__(self, registry: ServiceRegistry) -> None:
        self.templates = registry.service("template")
        self.known = DEFAULT
        away = (OSError, NoInstances)
        fetch = Retry(attempts=3, on=away, wait=0.1)(self._fetch)
        self.read = Fallback(lambda error: self.known, on=away)(fetch)

    def _fetch(self):
        with self.templates.call() as instance:
            with urlopen(instance.url("/style"), timeout=2) as answer:
                self.known = json.load(answer)
        return self.known
