"""The tie rules that are not ``"single"``, in plain PyTorch for every backend.

Both need all the elements that hold an extremum, so they read the pre-activation again and keep shares of its
size for the backward: right anywhere, but neither free nor fused.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from jumpstart_kernels.kernels.layout import point_rows, statistics_dtype, unit_rows


def tied_extrema(x: Tensor, unit_dim: int, position_points: bool, tie_breaking: str) -> Tensor:
    """``[2, C + P]`` maxima and minima of the units and points, differentiable under the given tie rule.

    Args:
        tie_breaking: ``"average"`` shares an extremum's gradient evenly among the tied; ``"random"`` gives
            it to one of them, drawn from PyTorch's generator of the device (``torch.manual_seed``).
    """
    by_unit, by_point = unit_rows(x, unit_dim), point_rows(x, unit_dim, position_points)
    if x.numel() == 0:
        empty = x.new_tensor([[-torch.inf], [torch.inf]])
        return empty.repeat(1, by_unit.shape[0] + by_point.shape[0]).to(statistics_dtype(x.dtype))
    share = {"average": _evenly, "random": _to_one}[tie_breaking]
    maxima = [_PassGradient.apply(rows, rows.detach().amax(1), share) for rows in (by_unit, by_point)]
    minima = [_PassGradient.apply(rows, rows.detach().amin(1), share) for rows in (by_unit, by_point)]
    return torch.stack([torch.cat(maxima), torch.cat(minima)]).to(statistics_dtype(x.dtype))


def _evenly(tied: Tensor) -> Tensor:
    # Divided by an integer these would be float32, which float64 would show.
    return tied / tied.sum(1, keepdim=True, dtype=torch.float64)


def _to_one(tied: Tensor) -> Tensor:
    draw = torch.rand(tied.shape, device=tied.device).masked_fill(~tied, -1)
    return torch.zeros_like(draw).scatter(1, draw.argmax(1, keepdim=True), 1.0)


class _PassGradient(torch.autograd.Function):
    """The extremum of each row, whose gradient the elements get that hold it, in shares."""

    @staticmethod
    def forward(ctx, rows: Tensor, extremum: Tensor, share: Callable[[Tensor], Tensor]) -> Tensor:
        value = extremum[:, None]
        tied = (rows == value) | (rows.isnan() & value.isnan())
        ctx.save_for_backward(share(tied).to(rows.dtype))
        return extremum.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (shares,) = ctx.saved_tensors
        return grad[:, None] * shares, None, None
