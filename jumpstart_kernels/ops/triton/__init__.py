"""The Triton backend: CUDA tensors (ROCm too), and CPU tensors under ``TRITON_INTERPRET=1``.

It runs dense layouts without a copy: units contiguous in memory (rows.py: 2-D, channels_last, units last;
small.py if one program can process everything) and units before positions (planes.py: contiguous NCHW;
rows.py for ``points="position"``); linked activations without statistics, and their backward, in linked.py.
Empty tensors go to the reference. Triton is imported on first use, and is
optional.
"""

import functools
from importlib import import_module
from types import ModuleType

from torch import Tensor

from jumpstart_kernels.ops.arguments import (
    ForwardResult,
    Gradients,
    InputGradients,
    LinkedInputGradients,
    LinkedSaved,
    Options,
    Saved,
)

_HERE = "jumpstart_kernels.ops.triton"


@functools.cache
def _import_error() -> str | None:
    try:
        import_module("triton")
    except ImportError as error:
        return str(error)
    return None


@functools.cache
def _module(name: str) -> ModuleType:
    """One of the modules that need Triton."""
    return import_module(f"{_HERE}.{name}")


def jumpstart_activation_forward(x: Tensor, bias: Tensor | None, options: Options) -> ForwardResult:
    """As :func:`jumpstart_kernels.ops.reference.jumpstart_activation_forward`, for a dense ``x``."""
    return _module("launch_forward").jumpstart_activation_forward(x, bias, options)


def jumpstart_activation_backward(gradients: Gradients, saved: Saved, options: Options) -> InputGradients:
    """As :func:`jumpstart_kernels.ops.reference.jumpstart_activation_backward`, for a dense gradient."""
    return _module("launch_backward").jumpstart_activation_backward(gradients, saved, options)


def linked_activation_forward(x: Tensor, weight: Tensor | None, options: Options) -> ForwardResult:
    """As :func:`jumpstart_kernels.ops.reference.linked_activation_forward`, for a dense ``x``."""
    return _module("launch_linked").linked_activation_forward(x, weight, options)


def linked_activation_backward(
    gradients: Gradients, saved: LinkedSaved, options: Options
) -> LinkedInputGradients:
    """As :func:`jumpstart_kernels.ops.reference.linked_activation_backward`, for a dense gradient."""
    return _module("launch_linked").linked_activation_backward(gradients, saved, options)


def penalty(slack_sums: list[Tensor], weights: list[float], square_root: bool) -> Tensor:
    """As :func:`jumpstart_kernels.ops.reference.penalty`."""
    return _module("launch_penalty").penalty(slack_sums, weights, square_root)


def penalty_backward(grad: Tensor, value: Tensor | None, weights: list[float]) -> Tensor:
    """As :func:`jumpstart_kernels.ops.reference.penalty_backward`."""
    return _module("launch_penalty").penalty_backward(grad, value, weights)


def unavailable(device_type: str = "cuda") -> str | None:
    """Why this backend cannot run on a device type and what to do about it; None if it can."""
    if device_type not in ("cpu", "cuda"):
        return f"it has kernels for cuda (and for cpu in Triton's interpreter), not for {device_type}"
    error = _import_error()
    if error is not None:
        return f"Triton cannot be imported ({error}): on Linux, pip install 'triton>=3.6'"
    if device_type == "cpu" and not _module("launch").INTERPRETED:
        return "on the CPU Triton only has an interpreter: start the program with TRITON_INTERPRET=1"
    return None
