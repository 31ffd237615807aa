"""The extrema in plain PyTorch operations, for cases that the fused operator does not cover.

These are ``torch.func``, forward-mode differentiation, and the tie rules that need all tied elements, which
read the pre-activation again and save weights of its size for the backward. Correct everywhere, but not
fused.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from jumpstart_kernels.ops.layout import point_rows, statistics_dtype, unit_rows


def is_transformed() -> bool:
    """Whether ``torch.func`` or forward-mode differentiation, which the operator lacks, is active."""
    if torch._C._are_functorch_transforms_active():
        return True
    # A compiler supports torch.func, but no other forward mode.
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


def composite_extrema(x: Tensor, unit_dim: int, position_points: bool, tie_breaking: str) -> Tensor:
    """``[2, C + P]`` maxima and minima of units and points, differentiable with the given tie rule.

    Args:
        tie_breaking: ``"single"`` gives an extremum's gradient to the first tied element in row-major order;
            ``"average"`` shares it evenly among them; ``"random"`` gives it to one of them, drawn from the
            device's PyTorch generator (``torch.manual_seed``).
    """
    by_unit, by_point = unit_rows(x, unit_dim), point_rows(x, unit_dim, position_points)
    if x.numel() == 0:
        empty = x.new_tensor([[-torch.inf], [torch.inf]])
        return empty.repeat(1, by_unit.shape[0] + by_point.shape[0]).to(statistics_dtype(x.dtype))
    if tie_breaking == "single":
        maxima = [rows.max(1).values for rows in (by_unit, by_point)]
        minima = [rows.min(1).values for rows in (by_unit, by_point)]
    else:
        share = {"average": _evenly, "random": _to_one}[tie_breaking]
        maxima = [_share_gradient(rows, rows.detach().amax(1), share) for rows in (by_unit, by_point)]
        minima = [_share_gradient(rows, rows.detach().amin(1), share) for rows in (by_unit, by_point)]
    return torch.stack([torch.cat(maxima), torch.cat(minima)]).to(statistics_dtype(x.dtype))


def _evenly(tied: Tensor) -> Tensor:
    # Dividing by an integer would give float32, too imprecise for float64.
    return tied / tied.sum(1, keepdim=True, dtype=torch.float64)


def _to_one(tied: Tensor) -> Tensor:
    draw = torch.rand_like(tied, dtype=torch.float32).masked_fill(~tied, -1)
    return torch.zeros_like(draw).scatter(1, draw.argmax(1, keepdim=True), 1.0)


def _share_gradient(rows: Tensor, extremum: Tensor, share: Callable[[Tensor], Tensor]) -> Tensor:
    """The extremum of each row, with its gradient shared among the elements of the row."""
    value = extremum[:, None]
    tied = (rows == value) | (rows.isnan() & value.isnan())
    shares = share(tied).to(rows.dtype)
    shared = (torch.where(shares > 0, rows, 0.0) * shares).sum(1)  # the extremum up to rounding
    return torch.where(extremum.isfinite(), extremum + (shared - shared.detach()), shared)
