"""How the cost of a package's operations grows with their size.

python tools/bench_growth.py packages/NAME/benchmarks/growth.py [--json FILE]

The file names its cases: `CASES = {"verify events": ((10_000, 30_000), prepare)}`.
`prepare(size, folder)` makes the input and returns the call that is measured. Each
size has processes of its own; the figure is the smallest CPU time of three, or of up to
nine while the slope is too large: a slow minute of the machine would look like growth. A
straight line through the logarithms gives the slope: 1 is linear, and n log n has the slope
given as target, with 0.15 for the noise. The peak of memory is at the largest size.
"""

import argparse
import importlib.util
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROUNDS, TRIES = 3, 3
NOISE = 0.15


def main() -> int:
    """Measure all cases of one file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--json", type=Path, help="write the rows")
    parser.add_argument("--short", action="store_true", help="one round each")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    cases = load(args.file)
    if args.one:
        name, size = args.one
        print(json.dumps(measure(cases[name][1], int(size))))
        return 0
    rows = []
    for name, (sizes, _) in cases.items():
        rows.append(grow(args.file, name, sizes, 1 if args.short else ROUNDS))
        print(f"{name}: slope {rows[-1]['ours']:.2f}, {rows[-1]['note']}", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"rows": rows}, indent=1), encoding="utf-8")
    return 0


def load(file: Path) -> dict[str, Any]:
    """Return the cases of a file."""
    spec = importlib.util.spec_from_file_location("growth", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cases: dict[str, Any] = module.CASES
    return cases


def measure(prepare: Any, size: int) -> dict[str, float]:
    """Return the CPU seconds of one call and the peak of memory of this process."""
    with tempfile.TemporaryDirectory() as folder:
        call = prepare(size, Path(folder))
        began = time.process_time()
        call()
        spent = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cpu": spent, "mb": peak}


def grow(file: Path, name: str, sizes: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Return the row of one case."""
    first, last = sizes[0], sizes[-1]
    allowed = (
        math.log(last * math.log(last) / (first * math.log(first)))
        / math.log(last / first)
        + NOISE
    )
    found: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for number in range(rounds * TRIES):
        for size in sizes:  # in turns: the speed of the machine changes meanwhile
            found[size].append(apart(file, name, size))
        seconds = [min(one["cpu"] for one in found[size]) for size in sizes]
        slope = fit([math.log(n) for n in sizes], [math.log(s) for s in seconds])
        if number + 1 >= rounds and slope <= allowed:
            break
    megabytes = max(one["mb"] for one in found[last])
    curve = ", ".join(f"{n:,}: {s:.3f} s" for n, s in zip(sizes, seconds, strict=True))
    return {
        "work": f"growth: {name}", "unit": "slope", "peer": "", "peer_value": None,
        "ours": slope, "ratio": None, "spread": None, "target": round(allowed, 2),
        "met": slope <= allowed, "direction": "lower",
        "note": f"{curve}; peak {megabytes:.0f} MB",
    }  # fmt: skip


def apart(file: Path, name: str, size: int) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, "-P", __file__, str(file), "--one", name, str(size)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, check=True, encoding="utf-8", timeout=300
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def fit(x: list[float], y: list[float]) -> float:
    """Return the slope of the straight line with the least squares."""
    middle, height = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - middle) * (b - height) for a, b in zip(x, y, strict=True))
    return above / sum((a - middle) ** 2 for a in x)


if __name__ == "__main__":
    sys.exit(main())
