"""The cost of Jumpstart in a whole training step: zero_grad, forward, loss, backward, optimizer.

    python -m benchmarks.steps --output benchmarks/results/cpu_steps.json

Networks of one kind take turns, and the table shows medians and their ratio to the plain network. Before
that, loss and gradients with each penalty are compared with the definition, in float64.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.comparisons import (
    LAM,
    PLAIN,
    Comparison,
    Variant,
    criterion,
    find_failure,
    make_convnet_comparison,
    make_mlp_comparison,
    make_resnet_comparison,
    make_thin_comparison,
)
from jumpstart_kernels.bench import SCHEMA, heading
from jumpstart_kernels.bench.authors import REPOSITORY, load_regularization
from jumpstart_kernels.bench.files import write_results
from jumpstart_kernels.bench.machine import describe, keep_memory
from jumpstart_kernels.bench.measure import figures_of
from jumpstart_kernels.bench.memory import peak_bytes
from jumpstart_kernels.bench.report import bytes_text, does_not_run, seconds_text
from jumpstart_kernels.bench.timing import Sampler, calibrate, current, interleave, seconds
from jumpstart_kernels.cli.errors import CommandError
from jumpstart_kernels.cli.inputs import find_device, positive

NETWORKS = ("50x4", "resnet50", "mlp", "convnet")
BATCH_SIZES = {"mlp": (256, 1024)}  # by default, where it is not the network's own
MODES = ("eager", "graphs", "compiled")  # graphs: the whole step as one CUDA graph
OPTIMIZERS = ("sgd", "adam")


def make_optimizer(name: str, model: nn.Module, mode: str) -> torch.optim.Optimizer:
    """One of ``OPTIMIZERS`` with PyTorch's defaults, and steps so small that training does not diverge."""
    if name == "adam":
        return torch.optim.Adam(model.parameters(), lr=1e-4, capturable=mode == "graphs")
    return torch.optim.SGD(model.parameters(), lr=1e-4)


def make_step(
    comparison: Comparison, variant: Variant, mode: str, optimizer_name: str = "sgd"
) -> Callable[[], None]:
    """A training step of a variant on the batch of the comparison."""
    x, y, model = comparison.x, comparison.y, variant.model.train()
    optimizer = make_optimizer(optimizer_name, model, mode)
    penalty = None if variant.regularize is None else variant.regularize(model)
    autocast = partial(
        torch.autocast, x.device.type, comparison.dtype, enabled=comparison.dtype != torch.float32
    )

    def compute_loss() -> Tensor:
        with autocast():
            loss = criterion(model(x), y)
        return loss if penalty is None else loss + LAM * penalty()

    compiled = torch.compile(compute_loss, dynamic=False) if mode == "compiled" else compute_loss

    def step() -> None:
        optimizer.zero_grad()
        compiled().backward()
        optimizer.step()

    return _capture(step, x.device) if mode == "graphs" else step


def _capture(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Capture a step in a CUDA graph; returns its replay."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):  # compile and autotune before the capture
            step()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        step()
    return graph.replay


def measure(
    comparison: Comparison, mode: str, optimizer: str, rounds: int | None, budget: float
) -> dict[str, Any]:
    """The record of a comparison in one mode, with one optimizer."""
    torch._dynamo.reset()
    device = comparison.x.device
    failures: dict[str, str | None] = {}
    samplers: dict[str, Sampler] = {}
    peaks: dict[str, int | None] = {}
    for variant in comparison.variants:
        try:
            failures[variant.name] = find_failure(comparison, variant)
            if failures[variant.name] is None:
                step = make_step(comparison, variant, mode, optimizer)
                for _ in range(3):  # compile and allocate
                    step()
                samplers[variant.name] = calibrate(partial(_sample, step, device))
                if mode != "graphs":  # a replay allocates nothing
                    peaks[variant.name] = peak_bytes(step, device)
        except Exception as error:
            failures[variant.name] = does_not_run(error)
    samplers = {name: sampler for name, sampler in samplers.items() if failures[name] is None}
    taken = list(interleave(list(samplers.values()), rounds, budget)) if samplers else []
    figures = {
        name: figures_of([samples[i] for samples in taken], sampler.iterations)
        for i, (name, sampler) in enumerate(samplers.items())
    }
    plain = figures.get(PLAIN)
    for record in figures.values():
        record["ratio"] = record["median"] / plain["median"] if plain else None
    return {
        "network": comparison.network,
        "mode": mode,
        "optimizer": optimizer,
        "input": list(comparison.x.shape),
        "dtype": str(comparison.dtype).removeprefix("torch."),
        "rounds": len(taken),
        "variants": [
            {
                "name": name,
                "failure": failures[name],
                "peak_bytes": peaks.get(name),
                "step": figures.get(name),
            }
            for name in failures
        ],
    }


def _sample(step: Callable[[], None], device: torch.device, count: int) -> float:
    def run() -> None:
        for _ in range(count):
            step()

    return seconds(run, device) / count


def make_table(record: dict[str, Any]) -> Any:
    """A record as a table of ``rich``."""
    from rich.table import Table

    size = "x".join(map(str, record["input"]))
    table = Table(
        title=f"{record['network']}, {record['mode']}, {record['optimizer']}, {size}, {record['dtype']}",
        caption=f"{record['rounds']} rounds; ratio to {PLAIN}",
        title_justify="left",
        caption_justify="left",
    )
    for header in ("network", "step", "ratio", "peak"):
        table.add_column(header, justify="left" if header == "network" else "right", no_wrap=True)
    for variant in record["variants"]:
        step = variant["step"]
        if step is None:
            table.add_row(variant["name"], "no figure")
            continue
        lower, upper = step["quartiles"]
        table.add_row(
            variant["name"],
            f"{seconds_text(step['median'])} ±{(upper - lower) / 2 / step['median']:3.0%}",
            "" if step["ratio"] is None else f"{step['ratio']:.2f}",
            bytes_text(variant["peak_bytes"]),
        )
    return table


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.steps", description=__doc__.partition("\n")[0]
    )
    choices = {
        "--network": (NETWORKS, NETWORKS),
        "--mode": (MODES, MODES[:1]),
        "--optimizer": (OPTIMIZERS, OPTIMIZERS[:1]),
    }
    for option, (allowed, default) in choices.items():
        text = f"may be repeated; default: {' and '.join(default)}"
        parser.add_argument(option, action="append", choices=allowed, help=text)
    parser.add_argument("--authors", type=Path, metavar="PATH", help=f"a checkout of {REPOSITORY}")
    parser.add_argument(
        "--batch-size",
        action="append",
        type=positive,
        metavar="N",
        help="may be repeated; default: for 50x4 256, for resnet50 128, on the CPU 8, for mlp 256 and 1024, "
        "for convnet 64",
    )
    parser.add_argument(
        "--image-size", type=positive, metavar="N", help="for resnet50; default: 224, on the CPU 64"
    )
    parser.add_argument(
        "--fusible",
        action="store_true",
        help="for 50x4: also in operations that a compiler can fuse, which compile for minutes",
    )
    parser.add_argument("--quick", action="store_true", help="use a few layers, to check that it runs")
    parser.add_argument("--rounds", type=positive, metavar="N", help="default: as many as fit in --seconds")
    parser.add_argument("--seconds", type=positive, default=15, metavar="S", help="per network; default: 15")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: cuda if available")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="file for the results")
    arguments = parser.parse_args(words)
    arguments.network = arguments.network or list(NETWORKS)
    arguments.mode = arguments.mode or list(MODES[:1])
    arguments.optimizer = arguments.optimizer or list(OPTIMIZERS[:1])
    if arguments.output is not None and not arguments.output.absolute().parent.is_dir():
        parser.error(f"argument --output: there is no folder {arguments.output.parent}")
    try:
        arguments.device = find_device(arguments.device)
        if "graphs" in arguments.mode and arguments.device.type != "cuda":
            parser.error(f"argument --mode: graphs needs a CUDA device, got {arguments.device}")
        if arguments.authors is not None:
            load_regularization(arguments.authors)
    except CommandError as error:
        parser.error(str(error))
    except ValueError as error:
        parser.error(f"argument --authors: {error}")
    return arguments


def _make_comparison(network: str, samples: int | None, arguments: argparse.Namespace) -> Comparison:
    torch.manual_seed(0)
    device, quick = arguments.device, arguments.quick
    if network == "50x4":
        return make_thin_comparison(device, samples, arguments.authors, quick, arguments.fusible)
    if network == "resnet50":
        return make_resnet_comparison(device, samples, arguments.image_size, quick)
    make = {"mlp": make_mlp_comparison, "convnet": make_convnet_comparison}[network]
    return make(device, samples, quick)


def _combinations(arguments: argparse.Namespace) -> Iterator[tuple[str, str, str, int | None]]:
    """Mode, network, optimizer and samples of every comparison."""
    for mode, network, optimizer in itertools.product(arguments.mode, arguments.network, arguments.optimizer):
        for samples in arguments.batch_size or BATCH_SIZES.get(network, (None,)):
            yield mode, network, optimizer, samples


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print a table for each combination, write the results; returns 1 if a variant fails."""
    words = sys.argv[1:] if words is None else list(words)
    arguments = parse_arguments(words)
    from rich.console import Console

    console = Console(highlight=False)
    command = ["python", "-m", "benchmarks.steps", *words]
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "machine": describe(arguments.device, command, keep_memory(arguments.device)),
        "networks": [],
    }
    console.print(heading(results["machine"]), markup=False, soft_wrap=True)
    failed = False
    torch.backends.cudnn.benchmark = True  # the fastest convolutions for every network
    for mode, network, optimizer, samples in _combinations(arguments):
        with current(arguments.device):
            comparison = _make_comparison(network, samples, arguments)
            record = measure(comparison, mode, optimizer, arguments.rounds, arguments.seconds)
        results["networks"].append(record)
        console.print(make_table(record))
        for variant in record["variants"]:
            if variant["failure"] is not None:
                failed = True
                console.print(f"  {variant['name']}: {variant['failure']}", markup=False, soft_wrap=True)
        if arguments.output is not None:
            write_results(arguments.output, results)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
