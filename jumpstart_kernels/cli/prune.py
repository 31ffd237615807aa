"""The command ``prune``: a model's redundant units removed, saved and drawn."""

import argparse
import sys
from pathlib import Path
from typing import Any

from jumpstart_kernels.cli.errors import CommandError
from jumpstart_kernels.cli.inputs import (
    DATA_HELP,
    PICTURES,
    add_model,
    check_output,
    load_data,
    load_model_and_weights,
    not_negative,
    positive,
    running,
)
from jumpstart_kernels.pruning import permutation_prune

DPI = 150


def add_prune(commands: argparse._SubParsersAction) -> None:
    text = "remove the units of a model that order the data as others do, while its decisions stay"
    parser = commands.add_parser("prune", help=text, description=text)
    add_model(parser)
    parser.add_argument("--data", required=True, help=f"on which decisions stay: {DATA_HELP}")
    parser.add_argument("--unseen", metavar="DATA", help="other data, on which flips are counted")
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        default=0.0,
        metavar="T",
        help="by how much the rank correlation of two units may be less than 1, up to 2; default: 0",
    )
    parser.add_argument(
        "--max-flips", type=not_negative, default=0, metavar="N", help="decisions that may change; default: 0"
    )
    parser.add_argument("--batch-size", type=positive, default=256, metavar="N", help="default: 256")
    parser.add_argument(
        "--output", type=Path, metavar="FILE.pt", help="write state dict and widths, for load_pruned"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help=f"draw the units of each layer: {', '.join(PICTURES)}"
    )
    parser.set_defaults(run=prune)


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 2:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 2, got {text!r}")
    return value


def prune(arguments: argparse.Namespace) -> int:
    """Print the report of a pruning, and write the smaller model and the picture if requested."""
    if arguments.output is not None:
        check_output(arguments.output, (".pt",))
    if arguments.plot is not None:
        check_output(arguments.plot, PICTURES, "--plot")
    model = load_model_and_weights(arguments)
    data = load_data(arguments.data, model)
    unseen = None if arguments.unseen is None else load_data(arguments.unseen, model, "--unseen")
    result = running(
        f"{arguments.model} on data of shape {list(data.shape)}",
        lambda: permutation_prune(
            model,
            data.split(arguments.batch_size),
            tolerance=arguments.tolerance,
            max_flips=arguments.max_flips,
            unseen=None if unseen is None else unseen.split(arguments.batch_size),
            progress=sys.stderr.isatty(),
        ),
    )
    print(result.report)
    written = []
    try:
        if arguments.output is not None:
            result.save(arguments.output)
            written.append(arguments.output)
        if arguments.plot is not None:
            from jumpstart_kernels.plots import pruned_units

            figure: Any = pruned_units(result.report).figure
            figure.savefig(arguments.plot, dpi=DPI)
            written.append(arguments.plot)
    except (OSError, RuntimeError) as error:
        raise CommandError(f"cannot write: {error}") from error
    if written:
        print(f"\nwritten to {', '.join(map(str, written))}")
    return 0
