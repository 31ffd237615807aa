"""A report over the last forwards of a model, whose layers may differ from one to the next."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from jumpstart_kernels.nn.activation import LayerExtrema
from jumpstart_kernels.usage.assembly import LayerTotals, assemble_report
from jumpstart_kernels.usage.collecting import Extras, LayersSeen
from jumpstart_kernels.usage.cosines import mean_over_batches
from jumpstart_kernels.usage.outputs import add_outputs
from jumpstart_kernels.usage.report import UNMATCHED, UsageReport
from jumpstart_kernels.usage.updates import point_statuses

CPU = torch.device("cpu")


class Window:
    """The last forwards: ``length`` of them, or as many more as hold ``samples``.

    Args:
        length: at least 1.
        samples: for which more are kept.
    """

    def __init__(self, length: int, samples: int) -> None:
        self._length, self._samples = length, samples
        self._forwards: deque[tuple[LayersSeen, int]] = deque()
        self.total = 0
        """Samples in it."""

    def __iter__(self) -> Iterator[LayersSeen]:
        return (seen for seen, _ in self._forwards)

    def __len__(self) -> int:
        return len(self._forwards)

    @property
    def full(self) -> bool:
        """Whether it has as many forwards and samples as it should."""
        return len(self) >= self._length and self.total >= self._samples

    def append(self, seen: LayersSeen, samples: int) -> None:
        """Add a forward, and drop those that are too old."""
        self._forwards.append((seen, samples))
        self.total += samples
        while len(self) > self._length and self.total - self._forwards[0][1] >= self._samples:
            self.total -= self._forwards.popleft()[1]

    def clear(self) -> None:
        self._forwards.clear()
        self.total = 0


def samples_in(seen: LayersSeen) -> int:
    """How many samples a forward had; 0 without a layer, and where nothing was computed."""
    points = (layer.point_max for layer in seen.extrema.values())
    return max((len(each) for each in points if not each.is_meta), default=0)


def window_report(forwards: Sequence[LayersSeen], extras: Extras, points: bool = True) -> UsageReport:
    """The report over several forwards, at least one of which has a layer, on the CPU.

    A layer that ran in some of them is judged by these. If its number of units has changed, those with the
    last number count. It is in the ratios over points if it ran in all.

    Args:
        forwards: oldest first, collected with these ``extras``.
        extras: what the report has beside statuses.
        points: whether it has those of points.
    """
    widths = {name: len(layer.unit_max) for seen in forwards for name, layer in seen.extrema.items()}
    layers = {name: _totals(name, width, forwards) for name, width in widths.items()}
    if not points:
        none = torch.zeros((0, len(layers)), dtype=torch.int8)
        return assemble_report(layers, none, [[0, 0, 0]] * len(layers), extras)
    status, unmatched = zip(*(_points(seen, list(layers)) for seen in forwards if seen.extrema), strict=True)
    return assemble_report(layers, torch.cat(status), torch.stack(unmatched).sum(0).tolist(), extras)


def _totals(name: str, width: int, forwards: Iterable[LayersSeen]) -> LayerTotals:
    """What is known of the units of a layer."""
    ran = [seen for seen in forwards if name in seen.extrema and len(seen.extrema[name].unit_max) == width]
    extrema = [seen.extrema[name] for seen in ran]
    totals = LayerTotals(_largest(e.unit_max for e in extrema), _smallest(e.unit_min for e in extrema))
    slopes = [seen.slopes[name] for seen in ran if seen.slopes and name in seen.slopes]
    outputs = [seen.outputs[name] for seen in ran if seen.outputs is not None and name in seen.outputs]
    cosines = [seen.cosines[name] for seen in ran if seen.cosines is not None and name in seen.cosines]
    if slopes:
        sides = _largest(each.unit_max for each in slopes), _smallest(each.unit_min for each in slopes)
        totals = totals._replace(slope_extrema=sides)
    if outputs:
        totals = totals._replace(outputs=add_outputs(outputs))
    if cosines:
        means, pairs = (torch.stack(side)[:, None] for side in zip(*cosines, strict=True))
        totals = totals._replace(cosine=mean_over_batches(means, pairs)[0])
    return totals


def _points(seen: LayersSeen, names: list[str]) -> tuple[Tensor, Tensor]:
    """Status ``[points, layers]`` and further counts ``[layers, 3]`` of a forward, for these layers."""
    slopes = [(seen.slopes or {}).get(name) for name in seen.extrema]
    status, unmatched = point_statuses(list(seen.extrema.values()), slopes, CPU)
    columns = [names.index(name) for name in seen.extrema]
    all_status = torch.full((len(status), len(names)), UNMATCHED, dtype=torch.int8)
    all_unmatched = torch.zeros((len(names), 3), dtype=torch.int64)
    all_status[:, columns], all_unmatched[columns] = status, unmatched
    return all_status, all_unmatched


def _largest(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).amax(0)


def _smallest(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).amin(0)


def without_positions(seen: LayersSeen) -> LayersSeen:
    """With points reduced to samples, which is all that a report needs and less to keep."""
    extrema = {
        name: LayerExtrema(layer.unit_max, layer.unit_min, *layer.per_sample())
        for name, layer in seen.extrema.items()
    }
    return seen._replace(extrema=extrema)


def on_cpu(forwards: list[LayersSeen]) -> list[LayersSeen]:
    """The same with all tensors on the CPU, in one transfer for each device and dtype."""
    if all(layer.unit_max.device == CPU for seen in forwards for layer in seen.extrema.values()):
        return forwards
    leaves, spec = pytree.tree_flatten(forwards)
    groups: dict[Any, list[int]] = {}
    for i, leaf in enumerate(leaves):
        if not isinstance(leaf, Tensor):
            continue
        groups.setdefault((leaf.device, leaf.dtype), []).append(i)
    for group in groups.values():
        flat = torch.cat([leaves[i].flatten() for i in group]).cpu()
        for i, piece in zip(group, flat.split([leaves[i].numel() for i in group]), strict=True):
            leaves[i] = piece.view(leaves[i].shape)
    return pytree.tree_unflatten(leaves, spec)
