"""What is known of a tensor's units on the way through a model, some of whose activations are linked.

Behind a linked activation a tensor has the units that the plain model has there, and extra ones, ``g(−z)``.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

Part = tuple[int, bool]
"""How many units in a row, and whether the plain model has them."""


class Run(NamedTuple):
    """Neighboring units of the same origin."""

    size: int
    plain: bool  # whether the plain model has them; else they are g(−z)
    sources: frozenset[Any]  # the linked activations but for which they would not be there
    width: nn.Module | None  # the layer whose number of outputs is their number


class Value(NamedTuple):
    """The units of a tensor in a trace."""

    dim: int  # counted from the end
    runs: tuple[Run, ...]
    scaled: bool = False  # whether flattening has made every unit the same unknown number of columns
    matrix: bool = False  # whether the tensor is known to be two-dimensional

    @property
    def total(self) -> int:
        """How many there are."""
        return sum(run.size for run in self.runs)

    @property
    def plain_total(self) -> int:
        """How many the plain model has."""
        return sum(run.size for run in self.runs if run.plain)

    @property
    def sources(self) -> frozenset[Any]:
        """The linked activations from which it has extra units; none if it is as in the plain model."""
        return frozenset[Any]().union(*(run.sources for run in self.runs if not run.plain))

    @property
    def widths(self) -> set[nn.Module | None]:
        """The layers that determine how many there are."""
        return {run.width for run in self.runs}

    @property
    def layout(self) -> tuple[Any, ...]:
        """What two values must have in common to be added."""
        return self.dim, tuple(run[:2] for run in self.runs), self.scaled

    def narrowed(self) -> "Value":
        """Without the extra units."""
        return self._replace(runs=tuple(run for run in self.runs if run.plain))

    def linked(self, source: Any) -> "Value":
        """Behind a linked activation."""
        extra = (run._replace(plain=False, sources=run.sources | {source}) for run in self.runs)
        return self._replace(runs=(*self.runs, *extra))


def parts_of(runs: Iterable[Run], size_of: Callable[[Run], int], factor: int = 1) -> tuple[Part, ...]:
    """Runs as sizes alone, each times ``factor``, neighbors of a kind in one."""
    parts: list[Part] = []
    for run in runs:
        size = size_of(run) * factor
        if parts and parts[-1][1] == run.plain:
            size += parts.pop()[0]
        parts.append((size, run.plain))
    return tuple(parts)


def plain_units(x: Tensor, dim: int, parts: tuple[Part, ...], scaled: bool) -> Tensor:
    """The units of ``x`` that the plain model has: a view where they are in one piece.

    Args:
        x: with units in dimension ``dim``.
        dim: counted from the end.
        parts: of the units, or, after flattening, in proportion to their columns.
        scaled: whether each unit has several columns.

    Raises:
        RuntimeError: ``x`` has another number of units.
    """
    if isinstance(x, fx.Proxy):  # a leaf for torch.fx
        node: Any = x.tracer.create_proxy("call_function", plain_units, (x, dim, parts, scaled), {})
        return node
    units = sum(size for size, _ in parts)
    factor = x.shape[dim] // units
    if x.shape[dim] != units * (factor if scaled else 1):
        raise RuntimeError(
            f"link_relu has found {units} units in dimension {dim} of a tensor that has {x.shape[dim]}: "
            "it takes inputs to be batches, unless its example_inputs show that they are not"
        )
    pieces, start = [], 0
    for size, plain in parts:
        if plain:
            pieces.append(x.narrow(dim, start * factor, size * factor))
        start += size
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)
