"""How much two correct results may differ.

With u the unit roundoff, a sum of n terms is off by about √n·u of its largest partial sum, whatever its
order. A value or gradient has gone through ``depth`` layers, each a sum like that of at most n terms and each
amplified at most by the slope of the norms in it; 2 more for the spread. A 16-bit result of a matrix product
is rounded once, its sum is float32. All is relative to the largest output, penalty or gradient of the case,
since a small one may be the difference of large ones: outputs and penalties of the largest pre-activation,
too, if pre-activations are rounded otherwise than those of the definition.
"""

import math
from typing import NamedTuple

import torch

from fuzz.cases import Results
from fuzz.fragments import Fragment

SAFETY = 2
TINY = 1e-300
MAX_AMPLIFICATION = 1e4  # beyond it a case says nothing


def tolerance(fragment: Fragment, elements: int, dtype: torch.dtype, amplification: float = 1.0) -> float:
    """Relative to the largest value of its kind. ``elements`` is n."""
    depth = 2 + sum(1 for _ in fragment.every_layer())
    roundoff = torch.finfo(dtype).eps / 2
    terms = 1 if dtype.itemsize == 2 else elements
    return SAFETY * depth * math.sqrt(terms) * roundoff * amplification


class Bounds(NamedTuple):
    """Bounds by kind of result, relative to the largest of that kind."""

    output: float
    penalty: float
    gradient: float
    pre_activations: float = 1.0  # the least that the error of an output or penalty is relative to


def mismatch(
    actual: Results, expected: Results, bounds: Bounds, gradients: bool = True
) -> tuple[str | None, float]:
    """What differs by more than its bound, and the largest difference in units of its bound."""
    worst, message = 0.0, None
    if actual.keys() != expected.keys():
        return f"results are of {sorted(actual)}, not of {sorted(expected)}", math.inf
    for kind in ("output", "penalty", "gradient")[: 3 if gradients else 2]:
        bound, least = getattr(bounds, kind), TINY if kind == "gradient" else bounds.pre_activations
        names = [name for name in expected if name.startswith(kind)]
        magnitude = max((largest(expected[name]) for name in names), default=0.0)
        for name in names:
            mine, right = actual[name], expected[name]
            if mine.shape != right.shape:
                return f"{name} is of shape {tuple(mine.shape)}, not {tuple(right.shape)}", math.inf
            error = largest(mine.double() - right.double()) / max(magnitude, least)
            if error != error or error > bound:  # NaN too
                message = message or f"{name} is off by {error:.3g} of the largest, more than {bound:.3g}"
            worst = max(worst, error / max(bound, TINY))
    return message, worst


def largest(tensor: torch.Tensor) -> float:
    return tensor.abs().max().item() if tensor.numel() else 0.0
