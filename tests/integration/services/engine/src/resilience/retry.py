import functools
import time


class Retry:
    """Call again after a fixed wait."""

    def __init__(self, attempts=3, *, on=Exception, wait=0.1):
        self.attempts = attempts
        self.on = on
        self.wait = wait

    def call(self, function, *args, **kwargs):
        for attempt in range(1, self.attempts + 1):
            try:
                return function(*args, **kwargs)
            except self.on:
                if attempt == self.attempts:
                    raise
                time.sleep(self.wait)

    def __call__(self, function):
        @functools.wraps(function)
        def retrying(*args, **kwargs):
            return self.call(function, *args, **kwargs)

        return retrying
