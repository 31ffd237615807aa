"""What is known of the units of a tensor: whether they come in pairs, and how large they are."""

import math
from typing import Any, NamedTuple

from torch import Tensor, nn

from jumpstart_kernels.initialization.effects import (
    BREAK,
    JOIN,
    KEEP,
    RECTIFY,
    SCALE,
    Effect,
)
from jumpstart_kernels.surgery.flow.units import Value

# Kinds of units. Those of a pair are x₊ and x₋, in the first and in the second half of neighboring units.
SIGNED = "signed"  # no pairs
RECTIFIED = "rectified"  # no pairs, and behind a ReLU
MIRRORED = "mirrored"  # x₋ = −x₊
SPLIT = "split"  # x₊ − x₋ is linear in the model's input, and neither is negative
LINEAR = "linear"  # x₊ − x₋ is linear
ODD = "odd"  # with the sign of the model's input x₊ and x₋ change places

PAIRED = (MIRRORED, SPLIT, LINEAR, ODD)


class Units(NamedTuple):
    """Neighboring units of the same origin."""

    kind: str
    size: float = 1.0
    """The root mean square of the signal, as a ratio to that of what the first layers read.

    Of MIRRORED that of ``x₊``, of other pairs that of ``x₊ − x₋``, of units without pairs their own.
    """

    @property
    def is_paired(self) -> bool:
        """Whether a layer should read ``x₊ − x₋``."""
        return self.kind in PAIRED

    @property
    def size_read(self) -> float:
        """The root mean square of what a layer reads: of ``x₊ − x₋``, or of a unit without a pair."""
        return 2 * self.size if self.kind == MIRRORED else self.size


def after(effect: Effect, units: Units) -> Units:
    """Units behind a call of one operand."""
    kind, size = units
    if effect.kind == KEEP:
        return units
    if effect.kind == SCALE:
        return Units(kind, size * effect.number)
    if effect.kind in (BREAK, JOIN):  # a JOIN of one operand
        return Units(SIGNED)
    if not units.is_paired:
        if effect.kind != RECTIFY or kind == RECTIFIED:
            return units
        slope = effect.number - 1
        return Units(RECTIFIED, size * math.sqrt((1 + slope**2) / 2))
    if effect.kind != RECTIFY:
        return Units(ODD, size)
    if kind == MIRRORED:
        return Units(SPLIT if effect.nonnegative else LINEAR, size * effect.number)
    # A leaky ReLU, too, leaves what is not negative as it is.
    return units if kind == SPLIT and effect.nonnegative else Units(ODD, size)


def added(operands: list[Units], subtracted: bool, factor: float = 1.0) -> Units:
    """The sum of units in the same place, taken to be independent; the second ones times ``factor``."""
    size = math.hypot(operands[0].size, *(units.size * factor for units in operands[1:]))
    kinds = {units.kind for units in operands}
    if len(kinds) == 1 and not (subtracted and kinds & {SPLIT, RECTIFIED}):
        return Units(kinds.pop(), size)
    if kinds <= {SIGNED, RECTIFIED}:
        return Units(SIGNED, size)
    if kinds <= {MIRRORED, SPLIT, LINEAR}:
        return Units(LINEAR, size)
    return Units(ODD, size) if kinds <= set(PAIRED) else Units(SIGNED)


def put_together(operands: list[Units]) -> Units:
    """Units in the same place of tensors that are concatenated in another dimension."""
    return operands[0] if len(set(operands)) == 1 else added(operands, False)


def after_norm(norm: Any, value: Value, units: tuple[Units, ...]) -> tuple[Units, ...]:
    """Units behind a norm, which makes their size 1."""
    found, start = [], 0
    for run, each in zip(value.runs, units, strict=True):
        found.append(_after_norm(norm, slice(start, start + run.size), each, value.total))
        start += run.size
    return tuple(found)


def _after_norm(norm: Any, place: slice, units: Units, total: int) -> Units:
    if not units.is_paired or not _treats_pairs_alike(norm, place, total):
        return Units(SIGNED)
    # Statistics of a mirrored unit are those of its twin, with the opposite mean.
    return Units(units.kind if units.kind == MIRRORED else ODD)


def _treats_pairs_alike(norm: Any, place: slice, total: int) -> bool:
    half = (place.stop - place.start) // 2
    if isinstance(norm, nn.GroupNorm) and norm.num_groups > 1:
        group = norm.num_channels // norm.num_groups
        if half % group or place.start % group:
            return False
    elif isinstance(norm, nn.GroupNorm) and 2 * half != total:
        return False
    weight, bias = norm._parameters.get("weight"), norm._parameters.get("bias")
    return _is_alike(weight, place, half, 1) and _is_alike(bias, place, half, -1)


def has_unlike_statistics(norm: Any, units: tuple[Units, ...], value: Value) -> bool:
    """Whether in evaluation a batch norm would shift or scale the units of a pair by different numbers."""
    start = 0
    for run, each in zip(value.runs, units, strict=True):
        place, half = slice(start, start + run.size), run.size // 2
        start += run.size
        buffers = norm._buffers.get("running_mean"), norm._buffers.get("running_var")
        if each.is_paired and not all(
            _is_alike(buffer, place, half, sign) for buffer, sign in zip(buffers, (-1, 1), strict=True)
        ):
            return True
    return False


def _is_alike(tensor: Tensor | None, place: slice, half: int, sign: int) -> bool:
    if tensor is None:
        return True
    first, second = tensor.detach()[place].split(half)
    return bool((first == sign * second).all())
