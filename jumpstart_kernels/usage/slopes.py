"""Units of smooth activations: dead where the activation is flat, linear where its slope does not change.

The sign of a pre-activation tells whether a ReLU is flat there or linear. For GELU, SiLU, tanh and their
like the derivative tells it: a unit all of whose values lie where that is nearly 0 is saturated, and learns
no more than a dead ReLU does.
"""

from typing import Any

import torch
from torch import Tensor, nn

from jumpstart_kernels.nn.activation import LayerExtrema, as_batch
from jumpstart_kernels.usage.report import DEAD, LINEAR, NONLINEAR
from jumpstart_kernels.usage.watching import Watch, extrema_of

TOLERANCE = 0.01
"""A slope of at most this magnitude counts as 0; slopes no further apart than this, as equal."""


class SlopeWatch(Watch[LayerExtrema]):
    """Collects the extrema of an activation's derivative at every call of a model's smooth activations.

    Args:
        model: as in :class:`~jumpstart_kernels.usage.watching.Watch`, like the other options.
        layers: names of activations for which :func:`~jumpstart_kernels.usage.activations.has_slopes`.
    """

    def _see(self, name: str, module: nn.Module, x: Tensor) -> LayerExtrema:
        return extrema_of(*as_batch(slopes(module, x), self._unit_dims[name], "sample", self._derived))


def slopes(module: Any, x: Tensor) -> Tensor:
    """The derivative of an element-wise activation at every value of ``x``, in its shape and dtype."""
    # Hooks for saved tensors, as those of checkpointing, would count tensors that are none of the model's.
    kept = torch.autograd.graph.saved_tensors_hooks(_unchanged, _unchanged)
    with torch.inference_mode(False), torch.enable_grad(), kept:
        x = x.detach().clone().requires_grad_()
        total = type(module).forward(module, x.clone()).sum()  # which it may overwrite
        return torch.autograd.grad(total, x)[0]


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


def slope_status(maxima: Tensor, minima: Tensor) -> Tensor:
    """The status of units or points from the extrema of their slopes, int8; NaN makes them nonlinear."""
    status = torch.full_like(maxima, NONLINEAR, dtype=torch.int8)
    status.masked_fill_(maxima - minima <= TOLERANCE, LINEAR)
    return status.masked_fill_((maxima <= TOLERANCE) & (minima >= -TOLERANCE), DEAD)
