"""The penalty as one writes it in PyTorch: a peer in the benchmarks, and in float64 what others must compute.

``tests/fuzz/definition.py`` is written apart from this one, for the tests.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def shared_extrema(x: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Extrema over all dims but ``kept``; those that tie share the gradient."""
    dims = [dim for dim in range(x.dim()) if dim != kept]
    return x.amax(dims), x.amin(dims)


def first_extrema(x: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """The same; the first in row-major order gets the gradient."""
    rows = x.movedim(kept, 0).flatten(1)
    return rows.max(1).values, rows.min(1).values


def nested_extrema(x: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """The same; the first along the other of the dims 0 and 1 of what is first behind them."""
    maxima, minima = x.max(1 - kept).values, x.min(1 - kept).values
    maxima, minima = maxima.reshape(len(maxima), -1), minima.reshape(len(minima), -1)
    return maxima.max(1).values, minima.min(1).values


def penalty(
    layers: Sequence[Tensor], extrema: Callable[[Tensor, int], tuple[Tensor, Tensor]] = first_extrema
) -> Tensor:
    """The balanced penalty of pre-activations ``[N, C, *]`` of all layers.

    Both signs count by halves: the mean over all units plus the mean over all points.
    """
    means = []
    for kept in (1, 0):  # units, points
        slacks = []
        for x in layers:
            maxima, minima = extrema(x, kept)
            slacks.append((F.relu(1 - maxima) + F.relu(1 + minima)) / 2)
        means.append(torch.cat(slacks).mean())
    return means[0] + means[1]
