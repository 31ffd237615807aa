"""Kernel times of forward and backward on a GPU, next to those of nn.ReLU.

    python -m benchmarks.kernels --output benchmarks/results/cuda_kernels.json

The profiler's times do not include the gaps between launches, which the benchmark measures too.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from jumpstart_kernels.bench import SCHEMA, heading
from jumpstart_kernels.bench.cases import HEALTHS, Case
from jumpstart_kernels.bench.files import write_results
from jumpstart_kernels.bench.machine import describe
from jumpstart_kernels.bench.peer import Peer
from jumpstart_kernels.bench.peers import default_backends, make_peers
from jumpstart_kernels.bench.timing import Buffers, current, run_both
from jumpstart_kernels.cli.bench import parse_shape

CASES = (
    Case((256, 4)),
    Case((256, 64)),
    Case((256, 1024)),
    *(
        Case(shape, dtype, layout)
        for dtype in ("bfloat16", "float32")
        for shape, layout in (
            ((16384, 16384), "contiguous"),
            ((256, 64, 112, 112), "contiguous"),
            ((256, 64, 112, 112), "channels_last"),
        )
    ),
    # Where some units never reach the margin, extrema are followed to the end.
    *(
        Case(shape, "bfloat16", layout, False, *HEALTHS["unhealthy"])
        for shape, layout in (((16384, 16384), "contiguous"), ((256, 64, 112, 112), "channels_last"))
    ),
    *(
        Case(shape, "bfloat16", layout, bias=True)
        for shape, layout in (
            ((256, 4), "contiguous"),
            ((256, 1024), "contiguous"),
            ((16384, 16384), "contiguous"),
            ((256, 64, 112, 112), "contiguous"),
            ((256, 64, 112, 112), "channels_last"),
        )
    ),
)
ITERATIONS = 12
WIDTH = 64  # of kernel names in the table


def kernel_times(peer: Peer, buffers: Buffers) -> list[dict[str, Any]]:
    """The kernels of a forward and backward in order: name, launches per iteration, median seconds."""
    from torch.profiler import ProfilerActivity, profile

    with peer.active():
        peer.prepare(buffers.pairs[0][0])
        run_both(peer, buffers.take(3))
        torch.cuda.synchronize(buffers.device)
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            run_both(peer, buffers.take(ITERATIONS))
            torch.cuda.synchronize(buffers.device)
    taken: dict[str, list[float]] = {}
    for event in profiled.events() or ():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            taken.setdefault(event.name, []).append(event.device_time / 1e6)
    return [
        {"kernel": name, "launches": len(times) / ITERATIONS, "median": statistics.median(times)}
        for name, times in taken.items()
    ]


def measure(case: Case, device: torch.device) -> dict[str, Any]:
    """The record of a case: the kernels of every peer."""
    buffers = Buffers(case, device)
    peers = make_peers(
        ("jumpstart",), [name for name in default_backends("cuda") if name != "reference"], case, device
    )
    return {
        "shape": list(case.shape),
        "dtype": case.dtype,
        "layout": case.layout,
        "health": case.health,
        "dead": case.dead,
        "linear": case.linear,
        "bias": case.bias,
        "bytes": case.bytes,
        "peers": [{"name": peer.name, "kernels": kernel_times(peer, buffers)} for peer in peers],
    }


def make_table(record: dict[str, Any]) -> Any:
    """A record as a table of ``rich``."""
    from rich.table import Table

    health = record["dead"], record["linear"]
    case = Case(
        tuple(record["shape"]), record["dtype"], record["layout"], False, *health, bias=record["bias"]
    )
    table = Table(title=str(case), title_justify="left")
    for header in ("implementation", "kernel", "launches", "µs"):
        table.add_column(
            header, justify="left" if header in ("implementation", "kernel") else "right", no_wrap=True
        )
    for peer in record["peers"]:
        for kernel in peer["kernels"]:
            name = kernel["kernel"].removeprefix("void ")[:WIDTH]
            table.add_row(peer["name"], name, f"{kernel['launches']:g}", f"{kernel['median'] * 1e6:.2f}")
    return table


def check_output_and_gpu(parser: argparse.ArgumentParser, output: Path | None) -> None:
    """A parser's error if there is no folder for the results, or no CUDA device."""
    if output is not None and not output.absolute().parent.is_dir():
        parser.error(f"argument --output: there is no folder {output.parent}")
    if not torch.cuda.is_available():
        parser.error("needs a CUDA device")


def run_cases(
    command: Sequence[str],
    cases: Iterable[Case],
    device: torch.device,
    measure: Callable[[Case], dict[str, Any]],
    make_table: Callable[[dict[str, Any]], Any],
    output: Path | None,
) -> None:
    """Measure cases one after the other, print a table for each, write the results as they come."""
    from rich.console import Console

    console = Console(highlight=False, width=140)
    results: dict[str, Any] = {"schema": SCHEMA, "machine": describe(device, list(command)), "cases": []}
    console.print(heading(results["machine"]), markup=False)
    with current(device):
        for case in cases:
            torch.manual_seed(0)
            results["cases"].append(measure(case))
            console.print(make_table(results["cases"][-1]))
            if output is not None:
                write_results(output, results)
            torch.cuda.empty_cache()


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print a table for each case, write the results."""
    words = sys.argv[1:] if words is None else list(words)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernels", description=__doc__.partition("\n")[0] if __doc__ else None
    )
    parser.add_argument(
        "--shape",
        action="append",
        type=parse_shape,
        metavar="NxC[x...]",
        help="measure this shape instead; may be repeated",
    )
    parser.add_argument("--bias", action="store_true", help="add a bias to the inputs of --shape")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="file for the results")
    arguments = parser.parse_args(words)
    check_output_and_gpu(parser, arguments.output)
    cases = [Case(shape, bias=arguments.bias) for shape in arguments.shape or []] or CASES
    device = torch.device("cuda")
    command = ["python", "-m", "benchmarks.kernels", *words]
    run_cases(command, cases, device, lambda case: measure(case, device), make_table, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
