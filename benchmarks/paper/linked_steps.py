"""The time of a training step with linked neurons, BatchNorm and Jumpstart, networks taking turns.

    python -m benchmarks.paper.linked_steps --output benchmarks/results/paper_linked_steps.json

The published ratio is of the ResNet-50: Linked ReLU took 2.09 times as long with BatchNorm as without. Images
are random, of CIFAR-10's shape. Nothing else should run on the machine.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.paper.linked import DEFAULTS
from benchmarks.paper.linked_networks import DEPTH, VARIANTS, WIDTH
from benchmarks.paper.linked_training import Settings, Trainer, prepare
from benchmarks.paper.sweep import SCHEMA, Record, run_command, write
from jumpstart_kernels.bench.machine import describe, keep_memory
from jumpstart_kernels.bench.measure import figures_of
from jumpstart_kernels.bench.timing import calibrate, current, interleave, seconds
from jumpstart_kernels.cli.inputs import find_device, positive
from jumpstart_kernels.demo.data import Data

TIMED = {
    "depth": (
        "relu",
        "batch_norm",
        "linked_relu",
        "selu",
        "linked_selu",
        "jumpstart",
        "jumpstart_linked",
    ),
    "resnet50": tuple(VARIANTS["resnet50"]),
}
REFERENCE = "linked_relu"  # of the ratios, as in the paper's table
CIFAR = (3, 32, 32)


def make_step(
    network: str, name: str, batch_size: int, depth: int, device: torch.device
) -> Callable[[], object]:
    """A training step of a variant, on one batch."""
    default = DEFAULTS[network]
    settings = Settings(
        network,
        depth=depth,
        width=WIDTH,
        epochs=1,
        batch_size=batch_size,
        learning_rate=1e-6,  # so small that no network changes much meanwhile
        decay=default.decay,
        augmented=False,
        lam=0.1,
    )
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch_size, *CIFAR, generator=generator)
    y = torch.arange(batch_size) % 10
    data = Data("random", x, y, x, y)
    trainer = Trainer(VARIANTS[network][name], settings, data, 0, device)
    trainer.model.train()
    return lambda: trainer.step(prepare(trainer.x), trainer.y)


def measure(
    network: str,
    batch_size: int,
    depth: int,
    device: torch.device,
    rounds: int | None,
    budget: float,
) -> Record:
    """The steps of a network's variants, in seconds, and their ratios to Linked ReLU."""
    samplers = {}
    for name in TIMED[network]:
        step = make_step(network, name, batch_size, depth, device)
        for _ in range(3):  # compile and allocate
            step()
        samplers[name] = calibrate(partial(_sample, step, device))
    taken = list(interleave(list(samplers.values()), rounds, budget))
    figures = {
        name: figures_of([samples[i] for samples in taken], sampler.iterations)
        for i, (name, sampler) in enumerate(samplers.items())
    }
    reference = figures[REFERENCE]["median"]
    return {
        "network": network,
        "input": [batch_size, *CIFAR],
        "rounds": len(taken),
        "variants": {
            name: {
                "title": VARIANTS[network][name].title,
                "median": found["median"],
                "quartiles": found["quartiles"],
                "ratio": found["median"] / reference,
            }
            for name, found in figures.items()
        },
    }


def _sample(step: Callable[[], object], device: torch.device, count: int) -> float:
    def run() -> None:
        for _ in range(count):
            step()

    return seconds(run, device) / count


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper.linked_steps", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--network", action="append", choices=list(VARIANTS), help="may be repeated; default: both"
    )
    parser.add_argument("--batch-size", type=positive, metavar="N", help="default: 32; resnet50: 128")
    parser.add_argument("--depth", type=positive, default=DEPTH, metavar="N", help=f"default: {DEPTH}")
    parser.add_argument("--rounds", type=positive, metavar="N", help="default: as many as fit in --seconds")
    parser.add_argument(
        "--seconds", type=positive, default=120, metavar="S", help="per network; default: 120"
    )
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="on a CPU; default: 1")
    parser.add_argument("--device", metavar="NAME", help="default: cuda if available")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json", help="file of the results")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    return run_command("linked_steps", words, parse_arguments, run)


def run(arguments: argparse.Namespace, command: list[str]) -> Record:
    device = find_device(arguments.device)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)  # as in the training: gradients of the ReLU network vanish
    torch.backends.cudnn.benchmark = True
    record: Record = {
        "schema": SCHEMA,
        "machine": describe(device, command, keep_memory(device)),
        "networks": [],
    }
    for network in arguments.network or VARIANTS:
        batch_size = arguments.batch_size or DEFAULTS[network].batch_size
        with current(device):
            measured = measure(
                network, batch_size, arguments.depth, device, arguments.rounds, arguments.seconds
            )
        record["networks"].append(measured)
        write(arguments.output, record)
        for variant in measured["variants"].values():
            print(
                f"{network:9} {variant['title']:24} {1e3 * variant['median']:8.2f} ms {variant['ratio']:6.2f}"
            )
    return record


if __name__ == "__main__":
    sys.exit(main())
