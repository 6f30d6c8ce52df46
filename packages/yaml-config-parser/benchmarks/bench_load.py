"""Loading a test plan of 1 MB and 10 MB against other YAML loaders.

python bench_load.py [--short] [--json FILE]

Ours has positions, duplicate keys refused and all limits on. Each loader runs in
the same process, in turns, and the time is processor time; a peer that takes long
runs once. What --large leaves out takes up to 23 minutes; the kept figures of those
stay. With BENCH_SLOW in the environment nothing is left out.
"""

import argparse
import gc
import io
import json
import os
import platform
import statistics
import time
from importlib.metadata import PackageNotFoundError, version

import yaml
from maestro_yaml_config_parser import loads


def plan(size):
    parts = ["defaults: &d\n  timeout: 30\n  retries: 2\nsuites:\n"]
    length = number = 0
    while length < size:
        steps = "".join(
            f"      - click: button{j}\n        value: {j * 1.5}\n"
            f'        enabled: true\n        note: "text {number} {j}"\n'
            for j in range(6)
        )
        part = (
            f"  - name: suite {number}\n    <<: *d\n"
            f"    tags: [smoke, fast, t{number % 7}]\n"
            f"    env: {{BASE: 'http://x/{number}', N: {number}}}\n"
            f"    steps:\n{steps}"
        )
        parts.append(part)
        length += len(part)
        number += 1
    return "".join(parts)


def ruamel_safe():
    from ruamel.yaml import YAML

    return lambda text: YAML(typ="safe").load(text)


def ruamel_round_trip():
    from ruamel.yaml import YAML

    return lambda text: YAML().load(text)


def omegaconf():
    from omegaconf import OmegaConf

    return lambda text: OmegaConf.load(io.StringIO(text))


def strict():
    import strictyaml

    # strictyaml refuses anchors and flow style: it reads its own dialect.
    return lambda text: strictyaml.load(
        yaml.dump(
            yaml.load(text, yaml.CSafeLoader), Dumper=Plain, default_flow_style=False
        )
    )


class Plain(yaml.CSafeDumper):
    def ignore_aliases(self, data):
        return True


PEERS = {
    "CSafeLoader": lambda: lambda text: yaml.load(text, yaml.CSafeLoader),
    "ruamel safe": ruamel_safe,
    "SafeLoader": lambda: lambda text: yaml.load(text, yaml.SafeLoader),
    "ruamel round trip": ruamel_round_trip,
    "OmegaConf": omegaconf,
    "strictyaml": strict,
}
SLOW = ("ruamel round trip", "OmegaConf", "strictyaml")


REPEATS, ENOUGH_S = 5, 1.0


def seconds(work, text):
    """Return CPU seconds; what is short runs again, and the least counts.

    The others met something else that the machine did.
    """
    spent = []
    while len(spent) < REPEATS and sum(spent) < ENOUGH_S:
        gc.collect()
        start = time.process_time()
        result = work(text)
        spent.append(time.process_time() - start)
        del result
    return min(spent)


def compare(peer, text, rounds, mine):
    """Return a row's figures; `mine` gets all our times, and a slow peer is told by it.

    Such a peer runs once and meets fast and slow moments of the machine in turn, so
    it stands beside the mean of all our times at this size.
    """
    pairs = []
    mine.append(seconds(loads, text))
    for _ in range(rounds):
        theirs = seconds(peer, text)
        mine.append(seconds(loads, text))
        pairs.append(((mine[-1] + mine[-2]) / 2, theirs))
    if rounds == 1:
        pairs = [(statistics.fmean(mine), theirs)]
    ratios = sorted(ours / theirs for ours, theirs in pairs)
    return {
        "ours": statistics.median(o for o, _ in pairs),
        "peer_value": statistics.median(t for _, t in pairs),
        "ratio": statistics.median(ratios),
        "spread": ratios[-1] - ratios[0],
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json")
    parser.add_argument(
        "--large",
        default=",".join(PEERS) if "BENCH_SLOW" in os.environ else "CSafeLoader",
        help="peers that also get 10 MB; " + ", ".join(PEERS),
    )
    args = parser.parse_args()
    rows, left_out = [], []
    for megabytes in (1,) if args.short else (1, 10):
        text, mine = plan(megabytes * 1_000_000), []
        for name, make in PEERS.items():
            if megabytes > 1 and name not in args.large.split(","):
                left_out.append([f"load {megabytes} MB", name])
                continue
            if args.short and name in ("SafeLoader", *SLOW):
                continue
            try:
                peer = make()
            except ImportError:
                print(f"{megabytes:>2} MB  {name:<18} not installed")
                continue
            rounds = 5 if megabytes == 1 else 3
            if name in SLOW or (name != "CSafeLoader" and megabytes > 1):
                rounds = 1
            row = compare(peer, text, 1 if args.short else rounds, mine)
            target = 1 / 3.5 if name == "CSafeLoader" else None
            rows.append(
                {
                    "work": f"load {megabytes} MB",
                    "unit": "s",
                    "peer": name,
                    **row,
                    "target": target,
                    "met": None if target is None else row["ratio"] <= target,
                    "direction": "lower",
                }
            )
            print(
                f"{megabytes:>2} MB  {name:<18} {row['peer_value']:8.3f} s   "
                f"ours {row['ours']:7.3f} s   {1 / row['ratio']:6.1f}x"
            )
    if args.json:
        versions = {}
        for name in ("PyYAML", "ruamel.yaml", "omegaconf", "strictyaml"):
            try:
                versions[name] = version(name)
            except PackageNotFoundError:
                versions[name] = "not installed"
        machine = {"python": platform.python_version(), "machine": platform.machine()}
        with open(args.json, "w", encoding="utf-8") as stream:
            json.dump(
                {
                    "benchmark": "load",
                    "rows": rows,
                    "left_out": left_out,
                    "versions": versions,
                    "machine": machine,
                },
                stream,
                indent=1,
            )


if __name__ == "__main__":
    main()
