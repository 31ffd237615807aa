"""The command line, ``python -m jumpstart_kernels``: ``info``, ``usage``, ``demo`` and ``bench``."""

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import torch

import jumpstart_kernels
from jumpstart_kernels import backends
from jumpstart_kernels.bench.options import add_bench
from jumpstart_kernels.cli_inputs import DATASETS, CommandError, positive
from jumpstart_kernels.cli_usage import add_usage
from jumpstart_kernels.kernels import native

EXTRAS = {  # package to what it is for
    "torchmetrics": "usage",
    "scikit-learn": "the data sets of demo and usage",
    "matplotlib": "the plots, the figure of demo and the pages of usage",
    "rich": "bench and the progress bars of demo",
    "lightning": "integrations.lightning",
    "transformers": "integrations.transformers",
    "tensorboard": "integrations.tensorboard",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on ``arguments``, by default the program's own; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m jumpstart_kernels",
        description="Jumpstart regularization for plain deep ReLU networks, at the cost of a ReLU.",
    )
    version = f"jumpstart_kernels {jumpstart_kernels.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(metavar="command", required=True)
    for add_command in (add_info, add_usage, add_demo, add_bench):
        add_command(commands)
    words = sys.argv[1:] if arguments is None else list(arguments)
    parsed = parser.parse_args(words, argparse.Namespace(words=words))
    try:
        return parsed.run(parsed)
    except CommandError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2


def add_info(commands: argparse._SubParsersAction) -> None:
    text = "versions, devices, backends, and why one is missing"
    commands.add_parser("info", help=text, description=text).set_defaults(run=info)


def info(arguments: argparse.Namespace) -> int:
    """Print what is here, what is missing, and how to get it."""
    for line in _info():
        print(line)
    return 0


def add_demo(commands: argparse._SubParsersAction) -> None:
    text = "train a deep, thin network without and with Jumpstart on real data"
    parser = commands.add_parser("demo", help=text, description=text)
    parser.add_argument(
        "--data",
        action="append",
        type=_datasets,
        metavar="NAME",
        help=f"one or more of {', '.join(DATASETS)}, by commas or repeated; default: all",
    )
    parser.add_argument("--epochs", type=positive, metavar="N", help="default: by data set")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument(
        "--output", type=Path, default=Path("demo.png"), metavar="FILE.png", help="the figure"
    )
    parser.set_defaults(run=demo)


def demo(arguments: argparse.Namespace) -> int:
    """Run the demo: a table, and a figure in ``arguments.output``."""
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


def _info() -> Iterator[str]:
    toolkits = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
    built_for = [f"with {name} {version}" for name, version in toolkits.items() if version]
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++", "cl"))), None)
    extension = native.extension()
    yield f"jumpstart_kernels  {jumpstart_kernels.__version__}"
    yield f"python             {platform.python_version()} on {platform.system()} {platform.machine()}"
    yield f"torch              {torch.__version__}, {built_for[0] if built_for else 'without CUDA'}"
    yield f"triton             {_version('triton') or 'not installed'}"
    yield f"C++ compiler       {compiler or 'not found: install g++ or clang++'}"
    yield f"nvcc               {shutil.which('nvcc') or 'not found'}"
    yield f"cpu                {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        memory = properties.total_memory / 2**30
        capability = f"{properties.major}.{properties.minor}"
        yield f"{f'cuda:{i}':<18} {properties.name}, capability {capability}, {memory:.0f} GiB"
    if extension is None:
        yield "native extension   not built"
    else:
        threads = (
            "threaded by OpenMP" if getattr(extension, "openmp", False) else "without OpenMP: one thread"
        )
        cuda = f"with CUDA {extension.cuda_version}" if native.has_cuda() else "without CUDA"
        yield f"native extension   {threads}, {cuda}"
        yield f"instruction set    {native.instruction_set()} of {', '.join(native.instruction_sets())}"
    for variable in ("JUMPSTART_BACKEND", "JUMPSTART_CPU"):
        if os.environ.get(variable):
            yield f"{variable:<18} {os.environ[variable]}"
    yield ""
    for device in ("cpu", "cuda"):
        for backend in backends.BACKENDS:
            yield f"{backend:<10} {device:<5} {_backend_state(backend, device)}"
    yield ""
    for package, purpose in EXTRAS.items():
        state = _version(package) or f"not installed: pip install {package}"
        yield f"{package:<13} {state} (for {purpose})"


def _backend_state(backend: str, device: str) -> str:
    if device == "cuda" and not torch.cuda.is_available():
        if torch.version.cuda is None and torch.version.hip is None:
            return "unavailable: torch is built without CUDA: install a CUDA build of torch"
        return "unavailable: torch sees no CUDA device: look at nvidia-smi and CUDA_VISIBLE_DEVICES"
    reason = backends.unavailable(backend, device)
    if reason is not None:
        return f"unavailable: {reason}"
    try:
        chosen = backends.select(torch.empty(0, device=device)) == backend
    except RuntimeError:  # JUMPSTART_BACKEND names one that is not available
        chosen = False
    return "available, in use" if chosen else "available"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _datasets(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in DATASETS]
    if unknown:
        raise argparse.ArgumentTypeError(f"must be of {', '.join(DATASETS)}, got {', '.join(unknown)!r}")
    return names
