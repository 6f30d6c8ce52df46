"""Instances, events and services; run by `make bench`."""

from maestro_service_registry import ServiceRegistry

SIZES = (600, 2_000, 6_000)


def filled(count, url="memory://"):
    registry = ServiceRegistry.open(url)
    for number in range(count):
        registry.register(f"s{number % 50}", port=1, id=f"i{number}", ttl=600)
    return registry


def register(count, _):
    return lambda: filled(count).close()


def register_sqlite(count, folder):
    return lambda: filled(count, f"sqlite:///{folder}/r.db").close()


def read(count, _):
    registry = filled(count)
    return registry.services


def start_cache(count, _):
    registry = filled(count)
    return lambda: registry.service("s7").pick()


def watch(count, _):
    registry = ServiceRegistry.open()
    seen = registry.watch()
    me = registry.register("moving", port=1, ttl=600)

    def call():
        for number in range(count):
            me.update(meta={"at": str(number)})
            if number % 100 == 0:
                seen.poll()

    return call


CASES = {
    "instances registered in memory": (SIZES, register),
    "instances registered in SQLite": ((300, 1_000, 3_000), register_sqlite),
    "instances read": (SIZES, read),
    "instances in a cache that starts": (SIZES, start_cache),
    "events followed": (SIZES, watch),
}
