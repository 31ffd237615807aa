"""The command ``demo``: a network that trains only with Jumpstart."""

import argparse
import importlib
from itertools import chain
from pathlib import Path

from jumpstart_kernels.cli.errors import CommandError
from jumpstart_kernels.cli.inputs import DATASETS, positive


def add_demo(commands: argparse._SubParsersAction) -> None:
    text = "train a deep, thin network with and without Jumpstart on real data"
    parser = commands.add_parser("demo", help=text, description=text)
    parser.add_argument(
        "--data",
        action="append",
        type=_datasets,
        metavar="NAME",
        help=f"one or more of {', '.join(DATASETS)}, comma-separated or repeated; default: all",
    )
    parser.add_argument("--epochs", type=positive, metavar="N", help="default: by data set")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument(
        "--output", type=Path, default=Path("demo.png"), metavar="FILE.png", help="the figure"
    )
    parser.set_defaults(run=demo)


def demo(arguments: argparse.Namespace) -> int:
    """Run the demo: print a table and write a figure to ``arguments.output``."""
    if not arguments.output.absolute().parent.is_dir():
        raise CommandError(f"--output: there is no folder {arguments.output.parent}")
    try:
        module = importlib.import_module("jumpstart_kernels.demo")
    except ImportError as error:
        raise CommandError(f"{error}: pip install jumpstart_kernels[demo]") from error
    datasets = list(dict.fromkeys(chain.from_iterable(arguments.data or [DATASETS])))
    try:
        return module.run(
            datasets=datasets, epochs=arguments.epochs, seed=arguments.seed, output=arguments.output
        )
    except ValueError as error:
        raise CommandError(error) from error


def _datasets(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in DATASETS]
    if unknown:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(DATASETS)}, got {', '.join(unknown)!r}")
    return names
