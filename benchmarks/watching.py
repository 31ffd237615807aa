"""What ``jk.watch`` costs in a training step: by default, and in a forward that it observes.

    python -m benchmarks.watching --output benchmarks/results/cpu_watching.json

A step is zero_grad, forward, loss, backward, SGD. The same network takes turns plain, watched by default, and
with every forward observed; a sample is as many steps as there are from one observed forward to the next.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import jumpstart_kernels as jk
from benchmarks.comparisons import criterion
from benchmarks.models import build_convnet, build_mlp
from jumpstart_kernels.bench import SCHEMA, heading
from jumpstart_kernels.bench.files import write_results
from jumpstart_kernels.bench.machine import describe, keep_memory
from jumpstart_kernels.bench.measure import figures_of
from jumpstart_kernels.bench.timing import Sampler, interleave, seconds
from jumpstart_kernels.cli.inputs import find_device, positive
from jumpstart_kernels.demo.training import build_network

EVERY = 100  # the default of jk.watch
OBSERVED = 5  # steps of a sample in which each is observed
VARIANTS = ("plain", "watched", "observed")


def with_gelu(model: nn.Module) -> nn.Module:
    """The same model with ``nn.GELU`` in place of each ``nn.ReLU``."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.GELU())
    return model


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor, int]]] = {
    "50 layers of 4 units": lambda: (build_network(30, 2), torch.randn(256, 30), 2),
    "MLP 4 x 1024": lambda: (build_mlp(784, 10), torch.randn(256, 784), 10),
    "MLP 4 x 1024, GELU": lambda: (with_gelu(build_mlp(784, 10)), torch.randn(256, 784), 10),
    "MLP 4 x 1024, Jumpstart": lambda: (jk.replace_relu(build_mlp(784, 10)), torch.randn(256, 784), 10),
    "eight convolutions": lambda: (build_convnet(), torch.randn(16, 3, 32, 32), 10),
}


def make_sampler(model: nn.Module, x: Tensor, y: Tensor, variant: str) -> Sampler:
    """Training steps of a copy of the model, so many in one sample."""
    model = copy.deepcopy(model).train()
    if variant != "plain":
        jk.watch(model, every=EVERY if variant == "watched" else 1, warn_dead=None, warn_linear=None)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    penalized = any(isinstance(module, jk.JumpstartReLU) for module in model.modules())
    steps = OBSERVED if variant == "observed" else EVERY

    def train() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            if penalized:
                loss = loss + 0.1 * jk.penalty(model)
            loss.backward()
            optimizer.step()

    seconds(train, x.device)  # the first forward, which is observed, comes before those that are timed
    return Sampler(lambda: seconds(train, x.device) / steps, steps)


def measure(network: str, rounds: int | None, budget: float, device: torch.device) -> dict[str, Any]:
    """The record of a network: medians and quartiles of a step, and ratios to the plain one."""
    torch.manual_seed(0)
    model, x, classes = NETWORKS[network]()
    model, x = model.to(device), x.to(device)
    y = torch.randint(classes, (len(x),), device=device)
    samplers = [make_sampler(model, x, y, variant) for variant in VARIANTS]
    taken = list(interleave(samplers, rounds, budget))
    figures = {
        name: figures_of([samples[i] for samples in taken], sampler.iterations)
        for i, (name, sampler) in enumerate(zip(VARIANTS, samplers, strict=True))
    }
    for record in figures.values():
        record["ratio"] = record["median"] / figures["plain"]["median"]
    return {"network": network, "input": list(x.shape), "rounds": len(taken), **figures}


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.watching", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--network", action="append", choices=list(NETWORKS), help="may be repeated; default: all"
    )
    parser.add_argument("--rounds", type=positive, metavar="N", help="default: as many as fit in --seconds")
    parser.add_argument("--seconds", type=positive, default=40, metavar="S", help="per network; default: 40")
    parser.add_argument("--device", help="default: cuda if available, else cpu")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="file for the results")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print and write the results."""
    words = sys.argv[1:] if words is None else list(words)
    arguments = parse_arguments(words)
    from rich.console import Console

    device = find_device(arguments.device)
    console = Console(highlight=False)
    machine = describe(device, ["python", "-m", "benchmarks.watching", *words], keep_memory(device))
    console.print(heading(machine), markup=False, soft_wrap=True)
    results: dict[str, Any] = {"schema": SCHEMA, "machine": machine, "every": EVERY, "networks": []}
    for network in arguments.network or NETWORKS:
        record = measure(network, arguments.rounds, arguments.seconds, device)
        results["networks"].append(record)
        console.print(
            f"{network:26}plain {record['plain']['median'] * 1e3:8.2f} ms; ratio watched "
            f"{record['watched']['ratio']:.3f}, observed {record['observed']['ratio']:.2f}",
            soft_wrap=True,
        )
        if arguments.output is not None:
            write_results(arguments.output, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
