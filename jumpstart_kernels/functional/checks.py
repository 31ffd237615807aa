"""What the arguments of the stateless API must be."""

import math
import numbers
from collections.abc import Collection

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
POINTS = ("sample", "position")
TIE_BREAKING = ("single", "average", "random")


def check_options(unit_dim: int, points: str, margin: float, tie_breaking: str) -> None:
    """Raise for options that are invalid for any input."""
    check_unit_dim(unit_dim)
    check_choice("points", points, POINTS)
    check_choice("tie_breaking", tie_breaking, TIE_BREAKING)
    check_margin(margin)


def check_unit_dim(unit_dim: int) -> None:
    """Raise for a dimension that is no int."""
    if isinstance(unit_dim, bool) or not isinstance(unit_dim, int):
        raise TypeError(f"unit_dim must be an int, got {type(unit_dim).__name__}")


def check_margin(margin: float) -> None:
    """Raise for a margin that is no finite number of at least 0."""
    if isinstance(margin, bool) or not isinstance(margin, (int, float)):
        raise TypeError(f"margin must be a number, got {type(margin).__name__}")
    if not (math.isfinite(margin) and margin >= 0):
        raise ValueError(f"margin must be finite and not negative, got {margin}")


def check_parameter(name: str, value: object) -> None:
    """Raise for an activation's own number that is none."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    try:
        float(value)
    except OverflowError:
        raise ValueError(f"{name} must be within the range of float64") from None


def check_choice(name: str, value: object, allowed: Collection[str]) -> None:
    """Raise for a value that is not among those allowed."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def check_input(x: Tensor, unit_dim: int, position_points: bool) -> int:
    """Raise for a tensor that the operator does not accept; return ``unit_dim`` as a nonnegative index."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}")
    if x.dtype not in DTYPES:
        raise TypeError(f"x must be float32, float64, float16 or bfloat16, got {x.dtype}")
    if x.layout is not torch.strided or x.is_nested:
        kind = "nested" if x.is_nested else x.layout
        raise TypeError(f"x must be a dense tensor (torch.strided), got {kind}")
    dim = x.dim()
    if dim == 0:
        raise ValueError("x must have a unit dimension, got a 0-dim tensor")
    if not -dim <= unit_dim < dim:
        raise ValueError(f"unit_dim must be in [{-dim}, {dim - 1}] for a {dim}-D x, got {unit_dim}")
    if unit_dim < 0:
        unit_dim += dim
    if unit_dim == 0 and not position_points:
        raise ValueError("unit_dim must not be 0 with points='sample': dimension 0 holds the samples")
    return unit_dim
