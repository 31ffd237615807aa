"""Calling a model with the batches that loaders yield."""

import sys
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


def call_with_batch(model: nn.Module, batch: Any, device: torch.device, argument: str) -> Any:
    """Call ``model`` with a batch moved to ``device``.

    Args:
        batch: a tensor or NumPy array; a mapping of them, passed as keyword arguments; or a tuple or list
            whose first item is one of these. Floating-point arrays are cast to the dtype of the parameters.
        argument: name of the batch in errors.

    Raises:
        TypeError: the batch has another type.
    """
    x = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    dtypes = (tensor.dtype for tensor in chain(model.parameters(), model.buffers()))
    dtype = next((dtype for dtype in dtypes if dtype.is_floating_point), torch.get_default_dtype())
    if isinstance(x, Mapping) and x and all(isinstance(name, str) for name in x):
        return model(**{name: _moved(value, device, dtype) for name, value in x.items()})
    x = _moved(x, device, dtype)
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{argument} must be a tensor, an array, a dict of them by the model's argument names, or a "
            f"tuple whose first item is one of these, got {type(batch).__name__}: for other batches call the "
            "model inside `with UnitUsage().watch(model):`"
        )
    return model(x)


def _moved(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A tensor or array as a tensor on the device; anything else unchanged."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray) and value.dtype.kind in "biufc":
        native = value.dtype.newbyteorder("=")
        value = torch.as_tensor(numpy.ascontiguousarray(value, dtype=native))  # strides that torch supports
        value = value.to(dtype) if value.is_floating_point() else value
    return value.to(device) if isinstance(value, Tensor) else value


def track(loader: Iterable[Any], description: str) -> Iterable[Any]:
    """The batches of a loader, with a progress bar if ``rich`` is installed."""
    if find_spec("rich") is None:
        return loader
    from rich import progress

    return progress.track(loader, description=description)
