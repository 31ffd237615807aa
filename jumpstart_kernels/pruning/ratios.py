"""How many weights each layer keeps at a sparsity."""

import math
from collections.abc import Callable, Sequence

Shape = Sequence[int]


def quotas_by_size(shapes: Sequence[Shape], kept: int) -> list[float]:
    """The same share of each layer."""
    sizes = [math.prod(shape) for shape in shapes]
    return [kept * size / sum(sizes) for size in sizes]


def quotas_by_erk(shapes: Sequence[Shape], kept: int) -> list[float]:
    """Shares by the Erdős-Rényi-Kernel rule of Evci et al. (arXiv 1911.11134), as fractional counts.

    A layer's density is proportional to the sum of its weight's dimensions over their product. A layer that
    would have to be more than dense is dense, and the others share the rest.
    """
    sizes = [math.prod(shape) for shape in shapes]
    dense: set[int] = set()
    while True:
        rest = kept - sum(sizes[layer] for layer in dense)
        others = [layer for layer in range(len(shapes)) if layer not in dense]
        factor = rest / sum(sum(shapes[layer]) for layer in others) if others else 0.0
        full = [layer for layer in others if factor * sum(shapes[layer]) > sizes[layer]]
        if not full:
            return [
                sizes[layer] if layer in dense else factor * sum(shape) for layer, shape in enumerate(shapes)
            ]
        dense.update(full)


QUOTAS: dict[str, Callable[[Sequence[Shape], int], list[float]]] = {
    "layer": quotas_by_size,
    "erk": quotas_by_erk,
}
RATIOS = ("global", *QUOTAS)


def count_kept(sizes: Sequence[int], sparsity: float) -> int:
    """How many of all weights are kept.

    Raises:
        ValueError: fewer than one a layer.
    """
    kept = sum(sizes) - round(sparsity * sum(sizes))
    if kept < len(sizes):
        raise ValueError(
            f"sparsity {sparsity:g} must leave a weight in each of {len(sizes)} layers, "
            f"it leaves {kept} of {sum(sizes):,} in all"
        )
    return kept


def split_kept(shapes: Sequence[Shape], kept: int, ratios: str) -> list[int]:
    """How many weights each layer keeps: the quota of its ``ratios``, rounded so that the sum is ``kept``.

    Every layer keeps at least one. What rounding leaves over goes to the layers furthest below their quota,
    of these to the first.
    """
    sizes = [math.prod(shape) for shape in shapes]
    quotas = QUOTAS[ratios](shapes, kept)
    counts = [min(size, max(1, math.floor(quota + 1e-9))) for quota, size in zip(quotas, sizes, strict=True)]
    while difference := kept - sum(counts):
        step = 1 if difference > 0 else -1
        possible = [
            layer
            for layer, count in enumerate(counts)
            if (count < sizes[layer] if step > 0 else count > 1)  # there is one, since kept is in between
        ]
        furthest = max(possible, key=lambda layer: step * (quotas[layer] - counts[layer]))
        counts[furthest] += step
    return counts
