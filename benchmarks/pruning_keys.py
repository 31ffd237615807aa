"""How long it takes to find the redundant units of a wide layer, and how much memory.

    python -m benchmarks.pruning_keys --output benchmarks/results/pruning_keys.json

The layer is random, of few inputs; of every 32 units one is 1.7 times another, so that there is something to
find. Memory is that beyond the values: on a CPU what the process has grown by.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jumpstart_kernels.bench import SCHEMA, heading
from jumpstart_kernels.bench.files import write_results
from jumpstart_kernels.bench.machine import describe
from jumpstart_kernels.bench.memory import peak_bytes
from jumpstart_kernels.bench.timing import seconds
from jumpstart_kernels.cli.inputs import find_device, positive
from jumpstart_kernels.pruning.keys import passed_on, permutation_keys, redundant_pairs

INPUTS = 64
COPIES = 32  # one of so many units is a scaled copy
TOLERANCE = 0.05


def make_values(units: int, samples: int, device: torch.device) -> Tensor:
    """float32 ``[units, samples]``, the last units 1.7 times the first."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(units, INPUTS, generator=generator)
    values = weight.to(device) @ torch.randn(INPUTS, samples, generator=generator).to(device)
    copies = units // COPIES
    values[units - copies :] = 1.7 * values[:copies]
    return values


def peak_growth(run: Callable[[], object], device: torch.device) -> int | None:
    """Bytes by which ``run`` raises the peak of memory; None if the system does not tell."""
    if device.type == "cuda":
        return peak_bytes(run, device)
    before = _reset_peak()
    run()
    after = _resident("VmHWM")
    return None if before is None or after is None else after - before


def _reset_peak() -> int | None:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is resident
    except OSError:  # not Linux
        return None
    return _resident("VmRSS")


def _resident(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)


def measure(units: int, samples: int, rounds: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """A record for each function; its first run, which measures memory, is not timed."""
    values = make_values(units, samples, device)
    calls: dict[str, Callable[[], Any]] = {
        "redundant_pairs": lambda: redundant_pairs(values, tolerance=TOLERANCE),
        "passed_on": lambda: passed_on(values[: units // 2], values[units // 2 :]),
        "permutation_keys": lambda: permutation_keys(values),
    }
    for name, call in calls.items():
        peak = peak_growth(call, device)
        times = [seconds(call, device) for _ in range(rounds)]
        record = {"name": name, "median": statistics.median(times), "seconds": times, "peak": peak}
        if name == "redundant_pairs":
            found = redundant_pairs(values, tolerance=TOLERANCE)
            same = int((found.correlation == 1).sum())
            record |= {"tolerance": TOLERANCE, "pairs": len(found.pairs), "same_order": same}
        yield record


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pruning_keys", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--units", type=positive, default=4096, metavar="N", help="default: 4096")
    parser.add_argument("--samples", type=positive, default=50_000, metavar="N", help="default: 50000")
    parser.add_argument("--rounds", type=positive, default=3, metavar="N", help="timed runs; default: 3")
    parser.add_argument("--device", help="default: cuda if available, else cpu")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="file for the results")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print and write the results; returns 1 if a copy was not found."""
    words = sys.argv[1:] if words is None else list(words)
    arguments = parse_arguments(words)
    from rich.console import Console

    device = find_device(arguments.device)
    console = Console(highlight=False)
    machine = describe(device, ["python", "-m", "benchmarks.pruning_keys", *words])
    console.print(heading(machine), markup=False, soft_wrap=True)
    records: list[dict[str, Any]] = []
    results = {
        "schema": SCHEMA,
        "machine": machine,
        "units": arguments.units,
        "samples": arguments.samples,
        "functions": records,
    }
    for record in measure(arguments.units, arguments.samples, arguments.rounds, device):
        records.append(record)
        peak = "unknown" if record["peak"] is None else f"{record['peak'] / 2**30:.2f} GiB"
        console.print(f"{record['name']:18}{record['median']:8.2f} s, memory {peak}", soft_wrap=True)
        if arguments.output is not None:
            write_results(arguments.output, results)
    return int(records[0]["same_order"] != arguments.units // COPIES)


if __name__ == "__main__":
    sys.exit(main())
