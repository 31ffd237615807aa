"""The least-squares repair: what is left of a layer's inputs stands in for what is gone."""

from typing import NamedTuple

import torch
from torch import Tensor

from jumpstart_kernels.pruning.capture import Products

RIDGE = 1e-6
"""Times the square of each channel: keeps the coefficients of channels that nearly depend on each other
small."""
LEAST_SQUARE = 1e-3  # of the mean one: a channel that is hardly ever there gets no large coefficient either
REFINEMENTS = 10  # solutions, each of what the last one missed: what is determined is exact but for rounding


class Map(NamedTuple):
    """The channels of the given model from those that are left: ``target ≈ a @ matrix + constant``."""

    matrix: Tensor  # [left, channels of the given model], float64
    constant: Tensor  # [channels of the given model], float64


def fit(products: Products, left: Tensor, same: Tensor, constant: bool) -> Map:
    """The map of least squares, close to the one by which every channel that is left stays what it is.

    Args:
        products: of the channels before the removal.
        left: which of these are left, indices ``[left]``.
        same: ``[left, targets]``, 1 where a channel is the very target, else 0.
        constant: whether a constant may be added.
    """
    assert products.own is not None and products.with_target is not None
    with_one = torch.cat([left, left.new_tensor([len(products.own) - 1])]) if constant else left
    own = products.own[with_one][:, with_one]
    start = same.to(own.dtype)
    if constant:
        start = torch.cat([start, start.new_zeros(1, start.shape[1])])
    scale = own.diagonal()[: len(left)].mean() if len(left) else own.new_tensor(float(products.rows))
    least = (scale * LEAST_SQUARE).clamp(min=_least_scale(own))
    ridge = own.diagonal().clamp(min=least) * RIDGE
    factors, pivots = torch.linalg.lu_factor(own + ridge.diag())
    matrix = start
    for _ in range(REFINEMENTS):
        missed = products.with_target[with_one] - own @ matrix
        matrix = matrix + torch.linalg.lu_solve(factors, pivots, missed)
    if constant:
        return Map(matrix[:-1], matrix[-1])
    return Map(matrix, matrix.new_zeros(matrix.shape[1]))


def _least_scale(own: Tensor) -> float:
    """Where all channels are 0, the ridge is still a normal number, which is not flushed to 0."""
    return torch.finfo(own.dtype).tiny / RIDGE


def unexplained(products: Products, constant: bool, left: Tensor) -> Tensor:
    """Of every channel that is left, the mean square that the others leave unexplained, ``[left]``."""
    assert products.own is not None
    with_one = torch.cat([left, left.new_tensor([len(products.own) - 1])]) if constant else left
    own = products.own[with_one][:, with_one]
    scale = own.diagonal()[: len(left)].mean().clamp(min=_least_scale(own))
    ridge = torch.full_like(own.diagonal(), RIDGE) * scale
    inverse = torch.linalg.inv(own + ridge.diag()).diagonal()[: len(left)]
    return (1 / inverse / products.rows).clamp(min=0)
