"""Loads what the command line names: a model, its weights, data, a device."""

import argparse
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jumpstart_kernels.cli.errors import CommandError

DATASETS = ("wine", "breast_cancer", "digits")
PICTURES = (".png", ".svg", ".pdf")
DATA_FILES = (".npy", ".npz", ".csv", ".pt")
DATA_HELP = (
    f"{', '.join(DATASETS)} (from scikit-learn, standardized), or a file with one sample per row: "
    f"{', '.join(DATA_FILES)}"
)


def positive(text: str) -> int:
    """A positive integer, for argparse."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def not_negative(text: str) -> int:
    """An integer from 0, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be an integer from 0, got {text!r}")
    return int(text)


def dimension(text: str) -> int | str:
    """A dimension, or ``"auto"``, for argparse."""
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer or auto, got {text!r}") from None


def find_device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise CommandError(f"--device {name}: {error}") from error
    return device


def add_model(parser: argparse.ArgumentParser) -> None:
    """The arguments that name a model, its weights and its device."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="FILE.py:FUNCTION",
        help="a function without arguments that returns the nn.Module; also package.module:FUNCTION",
    )
    parser.add_argument("--weights", type=Path, metavar="FILE.pt", help="its state dict, from torch.save")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: cuda if available")


def load_model_and_weights(arguments: argparse.Namespace) -> nn.Module:
    """The model that the arguments of :func:`add_model` name, on its device."""
    device = find_device(arguments.device)
    model = load_model(arguments.model)
    if arguments.weights is not None:
        load_weights(model, arguments.weights)
    return model.to(device)


def load_model(place: str) -> nn.Module:
    source, _, function = place.rpartition(":")
    if not source or not function:
        raise CommandError(f"--model must be FILE.py:FUNCTION or package.module:FUNCTION, got {place!r}")
    if source.endswith(".py") and not Path(source).is_file():
        raise CommandError(f"--model: there is no file {source}")
    module = running(f"--model {source}", lambda: _import(source))
    make_model = getattr(module, function, None)
    if not callable(make_model):
        raise CommandError(f"--model: {source} has no function {function!r}")
    model = running(f"--model {place}", make_model)
    if not isinstance(model, nn.Module):
        raise CommandError(f"--model: {place} must return an nn.Module, got {type(model).__name__}")
    return model


def _import(source: str) -> Any:
    """The module of a file or name, with its folder on the import path, as when Python runs it."""
    file = source.endswith(".py")
    sys.path.insert(0, str(Path(source).absolute().parent) if file else str(Path.cwd()))
    if not file:
        return importlib.import_module(source)
    name = f"{Path(source).stem} of --model"  # a name that shadows no other module
    spec = importlib.util.spec_from_file_location(name, source)
    assert spec is not None and spec.loader is not None  # a .py file has both
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_output(path: Path, kinds: tuple[str, ...], option: str = "--output") -> None:
    """Raise before any work is done if a file cannot be written, or needs matplotlib, which is missing."""
    if path.suffix.lower() not in kinds:
        raise CommandError(f"{option} must end in {', '.join(kinds)}, got {str(path)!r}")
    if not path.absolute().parent.is_dir():
        raise CommandError(f"{option}: there is no folder {path.parent}")
    if path.suffix.lower() in (".html", *PICTURES):
        from jumpstart_kernels.plots import style

        try:
            style.need_matplotlib()
        except ImportError as error:
            raise CommandError(f"{option}: {error}") from error


def running(what: str, run: Callable[[], Any]) -> Any:
    """Run user code; an exception becomes a one-line error with its location."""
    try:
        return run()
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = [frame for frame in frames if not frame.filename.startswith("<frozen")][-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        raise CommandError(f"{what}: {type(error).__name__}: {error} ({where})") from error


def load_weights(model: nn.Module, path: Path) -> None:
    weights = _read(path, lambda: torch.load(path, map_location="cpu", weights_only=True))
    if not isinstance(weights, dict):
        raise CommandError(f"--weights: {path} must hold a state dict, got {type(weights).__name__}")
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        raise CommandError(f"--weights: {path} does not fit the model: {error}") from error


def load_data(name: str, model: nn.Module, option: str = "--data") -> Tensor:
    """The samples ``[N, ...]`` of a data set or file, in the dtype of a model's parameters."""
    data = _load_samples(name, option)
    floating = next((tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()), None)
    return data.to(floating) if floating is not None and data.is_floating_point() else data


def _load_samples(name: str, option: str) -> Tensor:
    path = Path(name)
    if name in DATASETS:
        data = _load_dataset(name)
    elif path.suffix not in DATA_FILES:
        raise CommandError(
            f"{option} must be {', '.join(DATASETS)}, or a file of {', '.join(DATA_FILES)}, got {name!r}"
        )
    else:
        data = _read(path, lambda: _read_data(path))
    if not isinstance(data, Tensor) or data.dim() < 2 or len(data) == 0:
        got = list(data.shape) if isinstance(data, Tensor) else type(data).__name__
        raise CommandError(
            f"{option}: {name} must hold an array with at least one sample, [N, ...], got {got}"
        )
    return data


def _load_dataset(name: str) -> Tensor:
    try:
        from sklearn import datasets
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise CommandError(f"--data {name} needs scikit-learn: pip install scikit-learn") from error
    data, _ = getattr(datasets, f"load_{name}")(return_X_y=True)
    return torch.from_numpy(StandardScaler().fit_transform(data))


def _read_data(path: Path) -> Any:
    if path.suffix == ".pt":
        data = torch.load(path, map_location="cpu", weights_only=True)
        return data[0] if isinstance(data, (tuple, list)) and data else data
    import numpy

    if path.suffix == ".csv":
        with path.open() as file:
            header = not all(map(_is_number, file.readline().split(",")))
        return torch.from_numpy(numpy.loadtxt(path, delimiter=",", skiprows=int(header), ndmin=2))
    data = numpy.load(path, allow_pickle=False)
    if path.suffix == ".npz":
        if len(data.files) != 1 and "x" not in data.files:
            raise ValueError(f"it must hold one array, or one named x, got {', '.join(data.files) or 'none'}")
        data = data[data.files[0] if len(data.files) == 1 else "x"]
    return torch.from_numpy(data)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read(path: Path, read: Callable[[], Any]) -> Any:
    """Read a user's file; any failure becomes a one-line error."""
    if not path.is_file():
        raise CommandError(f"there is no file {path}")
    try:
        return read()
    except Exception as error:
        raise CommandError(f"cannot read {path}: {error}") from error
