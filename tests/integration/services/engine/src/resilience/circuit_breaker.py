import functools
import threading
import time


class CircuitOpen(Exception):
    pass


class CircuitBreaker:
    """Counts failures; after `minimum_calls` with too many of them, it opens."""

    def __init__(self, name, *, failure_rate=0.5, minimum_calls=10, open_for=30.0):
        self.name = name
        self.failure_rate = failure_rate
        self.minimum_calls = minimum_calls
        self.open_for = open_for
        self.lock = threading.Lock()
        self.results = []
        self.opened = None

    @property
    def state(self):
        if self.opened is None:
            return "closed"
        waited = time.monotonic() - self.opened
        return "open" if waited < self.open_for else "half_open"

    def call(self, function, *args, **kwargs):
        if self.state == "open":
            raise CircuitOpen(f"circuit {self.name!r} is open")
        try:
            result = function(*args, **kwargs)
        except Exception:
            self._note(False)
            raise
        self._note(True)
        return result

    def _note(self, good):
        with self.lock:
            if good and self.opened is not None:
                self.opened, self.results = None, []
            self.results = [*self.results[-50:], good]
            bad = self.results.count(False) / len(self.results)
            if len(self.results) >= self.minimum_calls and bad >= self.failure_rate:
                self.opened = time.monotonic()

    def __call__(self, function):
        @functools.wraps(function)
        def guarded(*args, **kwargs):
            return self.call(function, *args, **kwargs)

        return guarded
