"""The command ``usage``: a model's units over a data set, as text, a page or an image."""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import jumpstart_kernels
from jumpstart_kernels.cli.errors import CommandError
from jumpstart_kernels.cli.inputs import (
    DATA_FILES,
    DATASETS,
    dimension,
    find_device,
    load_data,
    load_model,
    load_weights,
    positive,
    running,
)
from jumpstart_kernels.nn.recording import layers_of
from jumpstart_kernels.usage.report import UsageReport

PICTURES = (".png", ".svg", ".pdf")
DPI = 150


def add_usage(commands: argparse._SubParsersAction) -> None:
    text = "which units of a model are dead, linear or nonlinear over a data set"
    parser = commands.add_parser("usage", help=text, description=text)
    parser.add_argument(
        "--model",
        required=True,
        metavar="FILE.py:FUNCTION",
        help="a function without arguments that returns the nn.Module; also package.module:FUNCTION",
    )
    parser.add_argument("--weights", type=Path, metavar="FILE.pt", help="its state dict, from torch.save")
    parser.add_argument(
        "--data",
        required=True,
        help=f"{', '.join(DATASETS)} (from scikit-learn, standardized), or a file with one sample per row: "
        f"{', '.join(DATA_FILES)}",
    )
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
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: cuda if available")
    parser.set_defaults(run=usage)


def usage(arguments: argparse.Namespace) -> int:
    """Print the usage report of a model over a data set, and write the output if requested."""
    try:
        from jumpstart_kernels.usage.metric import unit_usage
    except ImportError as error:
        raise CommandError(error) from error
    if arguments.output is not None:
        _check_output(arguments.output)
    device = find_device(arguments.device)
    model = load_model(arguments.model)
    if arguments.weights is not None:
        load_weights(model, arguments.weights)
    data = load_data(arguments.data)
    floating = next((tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()), None)
    if floating is not None and data.is_floating_point():
        data = data.to(floating)
    report = running(
        f"{arguments.model} on data of shape {list(data.shape)}",
        lambda: unit_usage(
            model.to(device),
            data.split(arguments.batch_size),
            unit_dim=arguments.unit_dim,
            progress=sys.stderr.isatty(),
        ),
    )
    print(report)
    if arguments.output is not None:
        _write(arguments, model, data, report)
        print(f"\nwritten to {arguments.output}")
    return 0


def _check_output(path: Path) -> None:
    from jumpstart_kernels.plots import style

    if path.suffix.lower() not in (".html", *PICTURES):
        raise CommandError(f"--output must end in .html, {', '.join(PICTURES)}, got {str(path)!r}")
    if not path.absolute().parent.is_dir():
        raise CommandError(f"--output: there is no folder {path.parent}")
    try:
        style.need_matplotlib()
    except ImportError as error:
        raise CommandError(f"--output: {error}") from error


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
