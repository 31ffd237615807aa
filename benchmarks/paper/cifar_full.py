"""ResNet-50 in full on CIFAR-10, for a GPU: with BatchNorm and skip connections, and plain with Jumpstart.

    python -m benchmarks.paper.cifar_full --data cifar10_jpeg.npz --output paper_cifar_full.json

50,000 images, 64 channels in the stem, bfloat16. Learning rates and penalty weights are the best of the small
networks of ``benchmarks.paper.cifar``; AdamW's learning rate is divided by the factor of the channels (Yang
et al., arXiv 2203.03466, Table 3). Results are written at every evaluation; networks that are in the output
are not trained again, and none begins that would not end within ``--minutes``.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.models import BLOCKS
from benchmarks.paper import cifar
from benchmarks.paper.cifar_images import load_images
from benchmarks.paper.cifar_techniques import TECHNIQUES
from benchmarks.paper.cifar_training import Schedule, Training
from benchmarks.paper.sweep import SCHEMA, Record, continued, run_command, runs_of, write
from benchmarks.result_files import FOLDER
from jumpstart_kernels.bench.machine import describe
from jumpstart_kernels.cli.errors import CommandError
from jumpstart_kernels.cli.inputs import find_device, positive

EPOCHS, BATCH_SIZE, WIDTH, EVALUATIONS = 30, 256, 64, 10
IMAGES = cifar.Counts(50_000, 0, 10_000)


class Network(NamedTuple):
    """A technique, and how its channels grow from stage to stage."""

    technique: str
    growth: float = 2.0

    @property
    def name(self) -> str:
        """In the record."""
        return f"{self.technique} {self.growth:g}"


NETWORKS = [
    Network("looks_linear_jumpstart_muon"),
    Network("batch_norm_skips_muon"),
    Network("looks_linear_jumpstart_muon", 1.5),
    Network("jumpstart_adamw"),
    Network("tat_muon"),
    Network("batch_norm_skips_adamw"),
    Network("jumpstart_adamw", 1.5),
    Network("looks_linear_muon"),
    Network("plain_adamw"),
]
"""Those first that matter most."""


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper.cifar_full", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FILE.npz", help="CIFAR-10 as JPEG files")
    parser.add_argument(
        "--tuned",
        type=Path,
        default=FOLDER / "paper_cifar.json",
        metavar="FILE.json",
        help="results of benchmarks.paper.cifar; default: %(default)s",
    )
    parser.add_argument("--device", metavar="NAME", help="default: cuda if available")
    parser.add_argument("--epochs", type=positive, default=EPOCHS, metavar="N", help="default: %(default)s")
    parser.add_argument("--width", type=positive, default=WIDTH, metavar="N", help="default: %(default)s")
    parser.add_argument("--minutes", type=positive, default=9, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default: %(default)s")
    parser.add_argument("--small", action="store_true", help="small networks and few images, for tests")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json", help="file of the results")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    return run_command("cifar_full", words, parse_arguments, run)


def hyperparameters(tuned: Record, network: Network, width: int) -> tuple[float, float]:
    """Learning rate and λ.

    Raises:
        CommandError: the technique was not tuned.
    """
    runs = runs_of(tuned)
    if not cifar.ranked(runs, network.technique, tuning=False):
        raise CommandError(f"--tuned must have results of {network.technique}, which it has not")
    best = cifar.ranked(runs, network.technique, tuning=False)[0]
    factor = tuned["settings"]["schedule"]["width"] / width
    adamw = TECHNIQUES[network.technique].optimizer == "adamw"
    return best["learning_rate"] * (factor if adamw else 1.0), best["lam"]


def run(arguments: argparse.Namespace, command: list[str]) -> Record:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    begin, device = time.monotonic(), find_device(arguments.device)
    counts = cifar.SMALL_COUNTS if arguments.small else IMAGES
    batch = cifar.SMALL_SCHEDULE.batch_size if arguments.small else BATCH_SIZE
    tuned = json.loads(arguments.tuned.read_text())
    chosen = {network: hyperparameters(tuned, network, arguments.width) for network in NETWORKS}
    steps = arguments.epochs * (counts.train // batch)
    blocks = cifar.SMALL_SCHEDULE.blocks if arguments.small else BLOCKS
    settings = {
        "epochs": arguments.epochs,
        "batch_size": batch,
        "width": arguments.width,
        "blocks": blocks,
        "counts": counts._asdict(),
        "seed": arguments.seed,
        "device": str(device),
        "hyperparameters": {network.name: values for network, values in chosen.items()},
    }
    empty = {"schema": SCHEMA, "machine": describe(device, command), "settings": settings, "networks": {}}
    record = continued(arguments.output, empty)
    images = load_images(arguments.data, counts.train, counts.test)
    columns = (TextColumn("{task.description:44}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    longest = 0.0
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for network in NETWORKS:
            entry: dict[str, Any] = record["networks"].get(network.name, {})
            if entry.get("finished"):
                continue
            started = time.monotonic()
            if started - begin + longest > 60 * arguments.minutes:
                progress.console.print(f"{network.name} and what follows would not end in time")
                break
            entry = {
                "technique": TECHNIQUES[network.technique].described(),
                "accuracies": [],
                "finished": False,
            }
            record["networks"][network.name] = entry
            bar = progress.add_task(network.name, total=EVALUATIONS)

            def show(accuracy: float, entry: dict[str, Any] = entry, bar: Any = bar) -> None:
                entry["accuracies"].append(accuracy)
                write(arguments.output, record)
                progress.update(bar, advance=1)

            rate, lam = chosen[network]
            schedule = Schedule(steps, batch, EVALUATIONS, arguments.width, network.growth, blocks=blocks)
            technique = TECHNIQUES[network.technique]
            training = Training(technique, rate, lam, arguments.seed, schedule, images, device)
            entry |= training.run(diagnosed=True, report=show)
            entry |= {"schedule": asdict(schedule), "finished": True}
            write(arguments.output, record)
            longest = max(longest, time.monotonic() - started)
    return record


if __name__ == "__main__":
    sys.exit(main())
