"""Stand-ins until the two packages of this repository are installed beside us."""
# ruff: noqa

import time

try:
    from maestro_resilience import Retry
except ImportError:

    class Retry:  # type: ignore[no-redef]
        def __init__(self, *, attempts, on, wait=0.0):
            self.attempts, self.on, self.wait = attempts, on, wait

        def call(self, function, *args):
            for attempt in range(1, self.attempts + 1):
                try:
                    return function(*args)
                except self.on:
                    if attempt == self.attempts:
                        raise
                    time.sleep(self.wait)


def load_settings(path):
    try:
        from maestro_yaml_config_parser import load
    except ImportError:
        import yaml

        return yaml.safe_load(path.read_text(encoding="utf-8"))
    return load(path).to_dict()
