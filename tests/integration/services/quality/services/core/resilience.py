"""Try again; go on with something else."""

import functools
import time


class Retry:
    def __init__(self, attempts=3, *, on=Exception, wait=0.1):
        self.attempts, self.on, self.wait = attempts, on, wait

    def __call__(self, function):
        @functools.wraps(function)
        def retrying(*args, **kwargs):
            for attempt in range(1, self.attempts + 1):
                try:
                    return function(*args, **kwargs)
                except self.on:
                    if attempt == self.attempts:
                        raise
                    time.sleep(self.wait)

        return retrying


class Fallback:
    def __init__(self, replacement, *, on=Exception):
        self.replacement, self.on = replacement, on

    def __call__(self, function):
        @functools.wraps(function)
        def guarded(*args, **kwargs):
            try:
                return function(*args, **kwargs)
            except self.on as error:
                return self.replacement(error)

        return guarded
