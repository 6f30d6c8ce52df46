"""Steps run where they are called, one after another."""

from contextvars import ContextVar

running = ContextVar("running", default=None)


class Step:
    def __init__(self, function, retry=1):
        self.function = function
        self.name = function.__name__
        self.retry = retry

    def __call__(self, *args, **kwargs):
        run = running.get()
        if run is None:
            return self.function(*args, **kwargs)
        return run.execute(self, args, kwargs)


def step(function=None, *, retry=1):
    if function is not None:
        return Step(function)
    return lambda function: Step(function, retry)


class Template:
    def __init__(self, function):
        self.function = function
        self.name = function.__name__


def workflow(function):
    return Template(function)
