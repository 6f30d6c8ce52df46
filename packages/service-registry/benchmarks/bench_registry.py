"""Cached look-ups and picks, watch latency, takeover after kill -9 on one host.

python bench_registry.py [--short] [--json FILE]
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from maestro_service_registry import ServiceRegistry

HOLD = """
import sys, time
from maestro_service_registry import ServiceRegistry
registry = ServiceRegistry.open(sys.argv[1])
registry.lock("job", ttl=2).acquire()
print("held", flush=True)
time.sleep(60)
"""
REGISTER = """
import sys, time
from maestro_service_registry import ServiceRegistry
registry = ServiceRegistry.open(sys.argv[1])
me = registry.register("moving", port=1, meta={"at": "0"})
print("ready", flush=True)
for _ in range(int(sys.argv[2])):
    time.sleep(0.005)
    me.update(meta={"at": repr(time.monotonic())})
"""


def rate(call, number):
    started = time.perf_counter()
    for _ in range(number):
        call()
    return number / (time.perf_counter() - started)


def lookups(short):
    number = 20_000 if short else 300_000
    with ServiceRegistry.open() as registry:
        for n in range(1000):
            registry.register(f"s{n % 100}", port=1, id=f"i{n}", ttl=600)
        service = registry.service("s7")
        rates = {"lookup": [], "pick": [], "store read": []}
        for _ in range(3):
            rates["lookup"].append(rate(lambda: service.instances, number))
            rates["pick"].append(rate(service.pick, number))
            rates["store read"].append(
                rate(lambda: registry.find("s7"), number // 1000)
            )
    return {name: statistics.median(found) for name, found in rates.items()}


def watch(url, short):
    number = 50 if short else 300
    with ServiceRegistry.open(url) as registry, registry.watch("moving") as changes:
        writer = subprocess.Popen(
            [sys.executable, "-c", REGISTER, url, str(number)], stdout=subprocess.PIPE
        )
        seen = []
        while len(seen) < number:
            for change in changes.poll(10):
                at = (
                    float(change.instance.meta["at"])
                    if hasattr(change, "instance")
                    else 0
                )
                if at:
                    seen.append((time.monotonic() - at) * 1000)
        writer.communicate()
    return statistics.median(seen)


def takeover(url, rounds):
    times = []
    for _ in range(rounds):
        with ServiceRegistry.open(url) as registry:
            holder = subprocess.Popen(
                [sys.executable, "-c", HOLD, url], stdout=subprocess.PIPE
            )
            holder.stdout.readline()
            got = []
            thread = threading.Thread(
                target=lambda r=registry, g=got: (
                    r.lock("job").acquire(),
                    g.append(time.monotonic()),
                )
            )
            thread.start()
            while len(registry.store.read("l/").records) < 2:
                time.sleep(0.005)
            time.sleep(0.1)
            killed = time.monotonic()
            holder.kill()
            thread.join()
            holder.communicate()
            times.append((got[0] - killed) * 1000)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []

    def row(work, unit, ours, target, direction):
        met = ours >= target if direction == "higher" else ours <= target
        rows.append(
            {
                "work": work,
                "unit": unit,
                "peer": "none",
                "peer_value": None,
                "ours": ours,
                "ratio": None,
                "spread": None,
                "target": target,
                "met": met,
                "direction": direction,
            }
        )
        print(
            f"{work:45} {ours:14,.2f} {unit:3} target {target:,} {'met' if met else 'MISSED'}"
        )

    found = lookups(args.short)
    row("cached look-up, 1,000 instances", "/s", found["lookup"], 1_000_000, "higher")
    print(f"{'pick (p2c)':45} {found['pick']:14,.2f} /s")
    print(f"{'find: a read from the memory store':45} {found['store read']:14,.2f} /s")
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/r.db"
        row(
            "update to seen in another process, p50",
            "ms",
            watch(url, args.short),
            1.0,
            "lower",
        )
        row(
            "takeover after kill -9, p50",
            "ms",
            takeover(url, 3 if args.short else 9),
            50.0,
            "lower",
        )
    if args.json:
        machine = {"python": platform.python_version(), "machine": platform.machine()}
        result = {
            "benchmark": "registry",
            "rows": rows,
            "versions": {},
            "machine": machine,
        }
        args.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
