"""The authors' published code, measured from a checkout that the user provides."""

import contextlib
import importlib.util
import io
from pathlib import Path
from typing import Any

from torch import nn

REPOSITORY = "blauigris/jumpstart"
_FILE = Path("jumpstart", "jumpstart.py")
_CLASS = "JumpstartRegularization"


def load_regularization(checkout: Path) -> Any:
    """The class that computes the authors' penalty.

    Args:
        checkout: a clone of the repository ``REPOSITORY``.

    Raises:
        ValueError: ``checkout`` has no such class, or its file does not run.
    """
    file = checkout / _FILE
    if not file.is_file():
        raise ValueError(f"must be a checkout of {REPOSITORY}, with a file {_FILE}, got {str(checkout)!r}")
    spec = importlib.util.spec_from_file_location("authors_jumpstart", file)
    assert spec is not None and spec.loader is not None  # a .py file has both
    module = importlib.util.module_from_spec(spec)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{file} does not run: {type(error).__name__}: {error}") from error
    if not hasattr(module, _CLASS):
        raise ValueError(f"must be a checkout of {REPOSITORY}: {file} has no class {_CLASS}")
    return getattr(module, _CLASS)


def attach(regularization: Any, model: nn.Module | None = None) -> Any:
    """An instance attached to a model's layers, or to none: its ``hook`` then takes pre-activations.

    Its ``loss`` is the penalty of the last forward, with the same defaults as ours: both signs weighted by
    half, mean over units plus mean over points.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # it prints to stdout
        return regularization() if model is None else regularization(model)
