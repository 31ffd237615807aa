"""The weights of one layer, drawn without being written."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from jumpstart_kernels.surgery.flow.layers import is_linear


class Columns(NamedTuple):
    """Neighboring inputs of a layer, all columns of its units included."""

    number: int
    paired: bool  # whether the second half are those of the twins of the first
    size: float  # the root mean square of what is read of them


class Reading(NamedTuple):
    """What a layer reads, and whether its own units are to be pairs."""

    columns: tuple[Columns, ...]
    mirrored: bool


def keeps_positions(layer: Any) -> bool:
    """Whether a layer has an output at every position of its input, so that it can pass all of them on."""
    if is_linear(layer):
        return True
    if layer.padding == "same":
        # An even kernel is in the middle of nothing; "same" pads it by one more behind than in front.
        return all(size % 2 or d == 1 for size, d in zip(layer.kernel_size, layer.dilation, strict=True))
    padding = (0,) * len(layer.kernel_size) if layer.padding == "valid" else layer.padding
    sizes = zip(layer.kernel_size, layer.stride, layer.dilation, padding, strict=True)
    # Where stride skips positions beside a kernel of 1, there is nothing else to read.
    return all(
        size == 1 or (stride == 1 and around >= size // 2 * dilation)
        for size, stride, dilation, around in sizes
    )


def draw_weight(layer: Any, reading: Reading, generator: torch.Generator | None) -> Tensor:
    """A looks-linear weight.

    With ``z`` for what is read (``x₊ − x₋`` of pairs, each divided by its size), units are ``V z``, and
    ``−V z`` in the second half. ``V`` has orthonormal rows, or, with more rows than columns, orthogonal
    columns of a norm of the root of their ratio, so that rows have norm 1 on average. That keeps the mean
    square of ``z`` from layer to layer: ``E (v·z)² = |v|² σ²`` of a row ``v``, for isotropic ``z``.

    Args:
        layer: ``nn.Linear``, or a convolution without groups.
        reading: what it reads.
        generator: whose device draws; None: the default one of the weight's device.

    Returns:
        The weight, as the layer's in shape, dtype and device; drawn in float32 or float64.
    """
    weight: Tensor = layer.weight
    dtype = weight.dtype if weight.dtype == torch.float64 else torch.float32
    device = weight.device if generator is None else generator.device
    outputs = weight.shape[0] // 2 if reading.mirrored else weight.shape[0]
    inputs = sum(each.number // 2 if each.paired else each.number for each in reading.columns)
    kernel = tuple(weight.shape[2:])
    taps = 1 if keeps_positions(layer) else math.prod(kernel)
    matrix = torch.empty(outputs, inputs * taps, dtype=dtype, device=device)
    with torch.no_grad():
        nn.init.orthogonal_(matrix, math.sqrt(max(1, outputs / (inputs * taps))), generator)
    if taps > 1:
        read = matrix.reshape(outputs, inputs, *kernel)
    else:
        read = matrix.new_zeros(outputs, inputs, *kernel)
        center: Any = (slice(None), slice(None), *((size - 1) // 2 for size in kernel))
        read[center] = matrix
    widths = [each.number // 2 if each.paired else each.number for each in reading.columns]
    pieces: list[Tensor] = []
    for each, piece in zip(reading.columns, read.split(widths, 1), strict=True):
        scaled = piece / each.size
        pieces += [scaled, -scaled] if each.paired else [scaled]
    rows = torch.cat(pieces, 1)
    return (torch.cat([rows, -rows]) if reading.mirrored else rows).to(weight)
