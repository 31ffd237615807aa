"""The command ``usage``: a model's units over a data set, as text, a page or an image."""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import jumpstart_kernels
from jumpstart_kernels.cli.errors import CommandError
from jumpstart_kernels.cli.inputs import (
    DATA_HELP,
    PICTURES,
    add_model,
    check_output,
    dimension,
    load_data,
    load_model_and_weights,
    positive,
    running,
)
from jumpstart_kernels.nn.recording import layers_of
from jumpstart_kernels.usage.report import UsageReport

DPI = 150


def add_usage(commands: argparse._SubParsersAction) -> None:
    text = "which units of a model are dead, linear or nonlinear over a data set"
    parser = commands.add_parser("usage", help=text, description=text)
    add_model(parser)
    parser.add_argument("--data", required=True, help=DATA_HELP)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help=f"also write a self-contained .html page, or an image: {', '.join(PICTURES)}",
    )
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=256,
        metavar="N",
        help="also the size of the random batch whose extrema and penalty --output shows; default: 256",
    )
    parser.add_argument(
        "--unit-dim",
        type=dimension,
        default="auto",
        metavar="D",
        help="dimension of the units in plain ReLUs; default: inferred from the preceding layer",
    )
    parser.add_argument(
        "--cosines",
        action="store_true",
        help="also the mean cosine between samples by layer: near 1, all inputs are mapped to one direction",
    )
    parser.add_argument(
        "--dormancy",
        action="store_true",
        help="also how many units are dormant: their mean output is at most 0.025 of their layer's",
    )
    parser.add_argument(
        "--effective-rank",
        action="store_true",
        help="also how many directions the outputs of each layer fill",
    )
    parser.set_defaults(run=usage)


def usage(arguments: argparse.Namespace) -> int:
    """Print the usage report of a model over a data set, and write the output if requested."""
    try:
        from jumpstart_kernels.usage.loader import unit_usage
    except ImportError as error:
        raise CommandError(error) from error
    if arguments.output is not None:
        check_output(arguments.output, (".html", *PICTURES))
    model = load_model_and_weights(arguments)
    data = load_data(arguments.data, model)
    report = running(
        f"{arguments.model} on data of shape {list(data.shape)}",
        lambda: unit_usage(
            model,
            data.split(arguments.batch_size),
            unit_dim=arguments.unit_dim,
            cosines=arguments.cosines,
            dormancy=arguments.dormancy,
            effective_rank=arguments.effective_rank,
            progress=sys.stderr.isatty(),
        ),
    )
    print(report)
    if arguments.output is not None:
        _write(arguments, model, data, report)
        print(f"\nwritten to {arguments.output}")
    return 0


def _write(arguments: argparse.Namespace, model: nn.Module, data: Tensor, report: UsageReport) -> None:
    from jumpstart_kernels.plots import overview, usage_page

    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))  # files may be sorted
    batch = data[order[: arguments.batch_size]]
    extrema = running(
        f"{arguments.model} on data of shape {list(batch.shape)}",
        lambda: jumpstart_kernels.layer_extrema(model, batch, unit_dim=arguments.unit_dim),
    )
    margins = {layer.margin for layer in layers_of(model)}
    margin = margins.pop() if len(margins) == 1 else 1.0
    note = ""
    if margins:  # several, so that none is the one to show
        known = ", ".join(f"{other:g}" for other in sorted(margins))
        note = f"the layers' margins are {known}: their extrema and penalty are shown for {margin:g}"
        print(f"\n{note}")
    path: Path = arguments.output
    try:
        if path.suffix.lower() == ".html":
            weights = f", weights of {arguments.weights}" if arguments.weights else ""
            page = usage_page(
                report,
                extrema,
                title=f"Unit usage of {arguments.model}",
                subtitle=f"{arguments.data}, {' × '.join(map(str, data.shape))}{weights}; "
                f"jumpstart_kernels {jumpstart_kernels.__version__}, torch {torch.__version__}"
                + (f"; {note}" if note else ""),
                margin=margin,
            )
            path.write_text(page, encoding="utf-8")
        else:
            overview(report, extrema, margin=margin).savefig(path, dpi=DPI)
    except OSError as error:
        raise CommandError(f"--output: cannot write {path}: {error}") from error
