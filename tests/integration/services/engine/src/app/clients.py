"""Calls to the other services: found in the registry, tried again, cut off."""

import json
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from src.registry.service_registry import NoInstances, ServiceRegistry

from ..resilience.circuit_breaker import CircuitBreaker, CircuitOpen
from ..resilience import retry as retrying

# What says "not now" rather than "never".
UNAVAILABLE = (OSError, NoInstances, CircuitOpen)


class Refused(ValueError):
    """The other service understood and said no."""


class Client:
    def __init__(self, registry: ServiceRegistry, name: str, *, timeout: float) -> None:
        self.service = registry.service(name)
        self.timeout = timeout
        self.breaker = CircuitBreaker(
            name, failure_rate=0.5, minimum_calls=6, open_for=0.5
        )
        guarded = self.breaker(self._send)
        self.send = retrying.Retry(attempts=4, on=UNAVAILABLE, wait=0.2)(guarded)

    def _send(self, path, data=None):
        with self.service.call() as instance:
            body = None if data is None else json.dumps(data).encode()
            try:
                with urlopen(Request(instance.url(path), body), timeout=self.timeout) as answer:
                    return json.load(answer)
            except HTTPError as error:
                with error:
                    if error.code >= 500:
                        raise ConnectionError(f"{path}: {error.code}") from error
                    refusal = Refused(f"{path}: {error.code} {error.read().decode()}")
        # Outside the block: a refusal is not the instance's fault.
        raise refusal


class Templates(Client):
    def render(self, template, name):
        return self.send("/render?" + urlencode({"template": template, "name": name}))["text"]


class Quality(Client):
    def check(self, text):
        return self.send("/check", {"text": text})
