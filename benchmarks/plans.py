"""How the CUDA kernels' time depends on how their work is cut, by the parameters of ``csrc/cuda/plan.h``.

    python -m benchmarks.plans --output benchmarks/results/cuda_plans.json

One parameter at a time differs from its default. Settings take turns, and the times are the profiler's.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.kernels import check_output_and_gpu, kernel_times, run_cases
from jumpstart_kernels.bench.cases import Case
from jumpstart_kernels.bench.peers import make_peers
from jumpstart_kernels.bench.timing import Buffers
from jumpstart_kernels.cli.inputs import positive
from jumpstart_kernels.ops import backends

CASES = (
    Case((256, 4)),
    Case((256, 64)),
    Case((256, 1024)),
    Case((256, 1024), "bfloat16"),
    Case((16384, 16384), "bfloat16"),
    Case((256, 64, 112, 112), "bfloat16"),
    Case((256, 64, 112, 112), "bfloat16", "channels_last"),
    Case((16384, 16384), "float32"),
    Case((16384, 16384), "bfloat16", bias=True),
)
# Places within a region are kept in 16 bits: a narrow matrix allows 63 steps. Without small_bytes, one of a
# small size is taken by a cluster of one block. An H100 and an H200 hold 396 blocks at once.
VALUES = {
    "forward_waves": (4, 32),
    "forward_steps": (4, 8, 32),
    "forward_end_steps": (0, 1, 4),
    "chunk_pieces": (1, 4),
    "merge_partials": (4, 16, 32),
    "backward_steps": (1, 4, 8),
    "bias_backward_steps": (2, 8),
    "small_bytes": (0,),
    "most_blocks": (396, 1584),
    "cluster_blocks": (0, 8),
    "cluster_steps": (1, 2, 8),
}


@contextmanager
def changed(parameters: Any, name: str | None, value: int | None) -> Iterator[None]:
    """One of the parameters has another value; none has, if the name is None."""
    if name is None:
        yield
        return
    before = getattr(parameters, name)
    setattr(parameters, name, value)
    try:
        yield
    finally:
        setattr(parameters, name, before)


def measure(case: Case, rounds: int, parameters: Any, device: torch.device) -> dict[str, Any]:
    """The record of a case: for every setting the median seconds of forward and backward, merges included."""
    buffers = Buffers(case, device)
    peer = make_peers(("jumpstart",), ["native"], case, device)[-1]
    settings = [(None, None), *((name, value) for name, values in VALUES.items() for value in values)]
    taken: dict[tuple[str | None, int | None], dict[str, list[float]]] = {
        setting: {"forward": [], "backward": []} for setting in settings
    }
    for _ in range(rounds):
        for setting, times in taken.items():
            with changed(parameters, *setting):
                kernels = kernel_times(peer, buffers)
            for direction, of_direction in times.items():
                own = [kernel for kernel in kernels if f"_{direction}_" in kernel["kernel"]]
                own = [kernel for kernel in own if "penalty" not in kernel["kernel"]]
                of_direction.append(sum(kernel["median"] * kernel["launches"] for kernel in own))
    return {
        "shape": list(case.shape),
        "dtype": case.dtype,
        "layout": case.layout,
        "bias": case.bias,
        "bytes": case.bytes,
        "settings": [
            {
                "parameter": name,
                "value": value,
                **{
                    direction: {"median": statistics.median(seconds), "seconds": seconds}
                    for direction, seconds in times.items()
                },
            }
            for (name, value), times in taken.items()
        ],
    }


def make_table(record: dict[str, Any], defaults: Any) -> Any:
    """A record as a table of ``rich``: microseconds, and in how far they differ from the defaults'."""
    from rich.table import Table

    case = Case(tuple(record["shape"]), record["dtype"], record["layout"], bias=record["bias"])
    table = Table(title=str(case), title_justify="left")
    for header in ("parameter", "default", "value", "forward, µs", "", "backward, µs", ""):
        table.add_column(header, justify="left" if header == "parameter" else "right", no_wrap=True)
    first = record["settings"][0]
    for setting in record["settings"]:
        name, value = setting["parameter"], setting["value"]
        row = ["all", "", ""] if name is None else [name, str(getattr(defaults, name)), str(value)]
        for direction in ("forward", "backward"):
            median, default = setting[direction]["median"], first[direction]["median"]
            row += [f"{median * 1e6:.1f}", f"{median / default:.3f}" if default else ""]
        table.add_row(*row)
    return table


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print a table for each case, write the results as they come."""
    words = sys.argv[1:] if words is None else list(words)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plans", description=__doc__.partition("\n")[0] if __doc__ else None
    )
    parser.add_argument("--rounds", type=positive, default=2, help="for each setting; default: 2")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="file for the results")
    arguments = parser.parse_args(words)
    check_output_and_gpu(parser, arguments.output)
    reason = backends.unavailable("native", "cuda")
    if reason is not None:
        parser.error(f"needs the native CUDA kernels: {reason}")
    from jumpstart_kernels.ops.native import extension

    native = extension()
    assert native is not None  # or the backend would be unavailable
    parameters = native.plan_parameters()
    device = torch.device("cuda")
    run_cases(
        ["python", "-m", "benchmarks.plans", *words],
        CASES,
        device,
        lambda case: measure(case, arguments.rounds, parameters, device),
        lambda record: make_table(record, parameters),
        arguments.output,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
