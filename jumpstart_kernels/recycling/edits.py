"""What recycling writes: all of it is known before the first write."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from jumpstart_kernels.recycling.choice import Choice
from jumpstart_kernels.recycling.constants import Known
from jumpstart_kernels.recycling.fresh import Initialize, fresh_layer
from jumpstart_kernels.recycling.ways import Read, Way, Ways
from jumpstart_kernels.surgery.flow.layers import is_transposed, norm_dims, shows_border
from jumpstart_kernels.surgery.flow.nodes import called_module

UNCHANGED, ON_AVERAGE, CHANGED = range(3)
"""What becomes of the output for the units recycled: nothing; its mean is as before; neither."""


class Edit(NamedTuple):
    """New values for some rows of a tensor, along any of its dimensions."""

    tensor: Tensor
    dim: int
    at: Tensor
    values: Tensor


class Region(NamedTuple):
    """Rows or columns of a parameter that start anew."""

    name: str
    parameter: nn.Parameter
    dim: int
    at: Tensor


class Edits:
    """The edits of a model.

    Args:
        model: the model itself.
        ways: of its units.
        choice: which are recycled.
        keep_mean: whether the layers that read them get their mean output as a bias.
        initialize: see :func:`fresh_layer`.
    """

    def __init__(
        self, model: nn.Module, ways: Ways, choice: Choice, keep_mean: bool, initialize: Initialize | None
    ) -> None:
        self._model = model
        self._ways = ways
        self._keep_mean = keep_mean
        self.effects: dict[nn.Module, Tensor] = {}
        """By layer: of its recycled units what becomes of the output."""
        self.regions: list[Region] = []
        self._columns: list[Edit] = []
        self._shifts: dict[int, tuple[Tensor, Tensor]] = {}  # what is added to tensors, float64
        self._rows: list[Edit] = []
        for layer, units in choice.units.items():
            way = ways.ways[layer]
            self.effects[layer] = torch.full((len(units),), UNCHANGED)
            for name, read in way.readers.items():
                self._release(layer, units, name, read, choice.mean_at(read))
            self._renew(layer, way, units, initialize)

    @property
    def edits(self) -> list[Edit]:
        """In the order in which they are made: fresh rows have fresh weights in columns of recycled units."""
        shifts = [
            Edit(tensor, 0, _all_of(tensor), (_on_cpu(tensor) + shift).to(tensor.device, tensor.dtype))
            for tensor, shift in self._shifts.values()
        ]
        return [*self._columns, *shifts, *self._rows]

    def _release(self, layer: nn.Module, units: Tensor, name: str, read: Read, known: Known | None) -> None:
        """Zero what a layer has for these units, and give it their mean as a bias."""
        reader: Any = self._model.get_submodule(name)
        channels = torch.cat([units + offset for offset in read.offsets])
        columns = (channels[:, None] * read.factor + torch.arange(read.factor)).flatten()
        weight, dim = reader.weight, 0 if is_transposed(reader) else 1
        columns = columns.to(weight.device)
        values = torch.zeros_like(weight.detach().index_select(dim, columns))
        self._columns.append(Edit(weight, dim, columns, values))
        self.regions.append(Region(f"{name}.weight", weight, dim, columns))
        missing = torch.full((len(channels),), torch.nan, dtype=torch.float64)
        mean = missing if known is None else known.mean[channels]
        silent = mean.isnan() & False if known is None else known.silent[channels]
        effect = torch.where(silent, UNCHANGED, ON_AVERAGE)
        target = self._takes_mean(reader, read) if self._keep_mean else None
        if target is None:
            effect = torch.where(silent & (mean == 0), effect, CHANGED)
        else:
            tensor, sign = target
            given = _on_cpu(weight.index_select(dim, columns)).movedim(dim, 0)
            given = given.unflatten(0, (-1, read.factor))  # [channels, factor, outputs, *]
            sums = given.sum([1, *range(3, given.dim())])  # [channels, outputs]
            shift = sign * (mean @ sums)
            before = self._shifts.get(id(tensor), (tensor, torch.zeros_like(shift)))[1]
            self._shifts[id(tensor)] = (tensor, before + shift)
            if shows_border(reader):
                effect = torch.where(mean == 0, effect, CHANGED)
        worst = effect.view(len(read.offsets), -1).amax(0)
        self.effects[layer] = torch.maximum(self.effects[layer], worst)

    def _takes_mean(self, reader: Any, read: Read) -> tuple[Tensor, int] | None:
        """What a constant in the output of a layer can be added to, with the sign; None if nothing can."""
        if is_transposed(reader):
            return None
        if reader.bias is not None:
            return (reader.bias, 1) if reader.bias.requires_grad else None
        norm = called_module(self._model, next(iter(read.node.users)))
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm_dims(norm) is None:
            return None
        if norm.running_mean is None or len(norm.running_mean) != len(reader.weight):
            return None
        return (norm.running_mean, -1) if self._is_only_pair(reader, norm) else None

    def _is_only_pair(self, layer: nn.Module, norm: nn.Module) -> bool:
        """Whether in every trace a layer is read by a norm alone, which reads nothing else."""
        for flow in self._ways.flows:
            users = []
            for node in flow.graph.nodes:
                if called_module(self._model, node) is layer:
                    users += [called_module(self._model, user) for user in node.users]
            if flow.calls[norm] != len(users) or any(user is not norm for user in users):
                return False
        return True

    def _renew(self, layer: Any, way: Way, units: Tensor, initialize: Initialize | None) -> None:
        """Fresh weights in front of these units, and norms as new."""
        weight, bias = fresh_layer(layer, initialize)
        self._start(f"{way.layer}.weight", layer.weight, int(is_transposed(layer)), units, weight)
        if bias is not None:
            self._start(f"{way.layer}.bias", layer.bias, 0, units, bias)
        for name, offsets in way.norms.items():
            norm: Any = self._model.get_submodule(name)
            channels = torch.cat([units + offset for offset in offsets])
            new = {"weight": 1.0, "running_var": 1.0, "bias": 0.0, "running_mean": 0.0}
            for each, value in new.items():
                tensor = getattr(norm, each, None)
                if tensor is not None:
                    full = torch.full(tensor.shape, value)
                    self._start(f"{name}.{each}", tensor, 0, channels, full)

    def _start(self, name: str, tensor: Any, dim: int, index: Tensor, new: Tensor) -> None:
        values = new.index_select(dim, index).to(tensor.device, tensor.dtype)
        self._rows.append(Edit(tensor, dim, index.to(tensor.device), values))
        if isinstance(tensor, nn.Parameter):
            self.regions.append(Region(name, tensor, dim, index.to(tensor.device)))


def parameters_of(model: nn.Module, way: Way) -> dict[str, nn.Parameter]:
    """All that has to be trained for a unit to be of use again, by name."""
    names = [f"{way.layer}.weight", f"{way.layer}.bias"]
    names += [f"{name}.weight" for name in way.readers]
    names += [f"{name}.{each}" for name in way.norms for each in ("weight", "bias")]
    found = {}
    for name in names:
        path, _, attribute = name.rpartition(".")
        parameter = getattr(model.get_submodule(path), attribute, None)
        if isinstance(parameter, nn.Parameter):
            found[name] = parameter
    return found


def _on_cpu(tensor: Tensor) -> Tensor:
    """In float64, which not every device has."""
    return tensor.detach().cpu().double()


def _all_of(tensor: Tensor) -> Tensor:
    return torch.arange(len(tensor), device=tensor.device)
