"""Layers made wider in place: new parameters in the same objects, old weights at the units of before."""

from typing import Any

import torch
from torch import Tensor, nn

from jumpstart_kernels.surgery.flow.layers import (
    is_linear,
    is_transposed,
    kind_of,
    norm_dims,
    units_of_norm,
)
from jumpstart_kernels.surgery.flow.units import Part, parts_of
from jumpstart_kernels.surgery.linking.plan import Widening


class _Regrouped(nn.Module):
    """A convolution with groups behind linked units, of which it brings those of a group together."""

    groups: int
    _parts: tuple[Part, ...]

    def forward(self, input: Tensor) -> Tensor:
        """Of ``[N, C + E, *]`` with ``C`` units of the plain model and ``E`` extra ones, in any order."""
        dim = -len(self.kernel_size) - 1  # type: ignore[arg-type]
        pieces = input.split([size for size, _ in self._parts], dim)
        plain = [piece for piece, (_, is_plain) in zip(pieces, self._parts, strict=True) if is_plain]
        extra = [piece for piece, (_, is_plain) in zip(pieces, self._parts, strict=True) if not is_plain]
        ordered = input if len(pieces) == 2 and self._parts[0][1] else torch.cat([*plain, *extra], dim)
        units = sum(size for size, is_plain in self._parts if is_plain)
        # [copies, groups, units of a group] to [groups, copies, units of a group].
        copies = ordered.unflatten(dim, (-1, self.groups, units // self.groups))
        return super().forward(copies.transpose(dim - 2, dim - 1).flatten(dim - 2, dim))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, regrouped"


class RegroupedConv1d(_Regrouped, nn.Conv1d):
    """``nn.Conv1d`` with groups, behind linked units."""


class RegroupedConv2d(_Regrouped, nn.Conv2d):
    """``nn.Conv2d`` with groups, behind linked units."""


class RegroupedConv3d(_Regrouped, nn.Conv3d):
    """``nn.Conv3d`` with groups, behind linked units."""


_REGROUPED: dict[type[nn.Module], type[_Regrouped]] = {
    nn.Conv1d: RegroupedConv1d,
    nn.Conv2d: RegroupedConv2d,
    nn.Conv3d: RegroupedConv3d,
}


def widen(widening: Widening, equivalent: bool) -> None:
    """Give a layer its units: new columns zero, or everything drawn anew.

    Args:
        widening: the layer.
        equivalent: whether the layer computes what it did, and ignores its new units.
    """
    layer: Any = widening.layer
    parts = parts_of(widening.value.runs, lambda run: run.size, widening.factor)
    if norm_dims(layer) is not None:
        _widen_norm(layer, parts)
    elif is_linear(layer):
        layer.weight = _spread(layer.weight, 1, parts)
        layer.in_features = _total(parts)
    else:
        if layer.groups > 1:
            layer.weight = _spread(layer.weight, 1, _of_a_group(parts, layer.groups))
            regrouped: Any = _REGROUPED[kind_of(layer)]
            layer._parts, layer.__class__ = parts, regrouped
        else:
            layer.weight = _spread(layer.weight, 0 if is_transposed(layer) else 1, parts)
        layer.in_channels = _total(parts)
    if not equivalent and (norm_dims(layer) is None or layer._parameters.get("weight") is not None):
        layer.reset_parameters()


def resize(layer: Any, parts: tuple[Part, ...] | None, outputs: int | None) -> None:
    """Give a layer its units and outputs, and draw it anew if these are others than before.

    Args:
        layer: a layer with weights, or a norm.
        parts: its units; None if they stay.
        outputs: their number; None for a norm.
    """
    if parts is None:
        parts = ((layer.in_features if is_linear(layer) else layer.in_channels, True),)
    total, plain = _total(parts), sum(size for size, is_plain in parts if is_plain)
    if outputs is None:
        if total == units_of_norm(layer):
            return
        _set_units(layer, total)
        sizes: dict[str, tuple[int, ...]] = dict.fromkeys(
            ("weight", "bias", "running_mean", "running_var"), (total,)
        )
    elif is_linear(layer):
        if (total, outputs) == (layer.in_features, layer.out_features):
            return
        layer.in_features, layer.out_features = total, outputs
        sizes = {"weight": (outputs, total), "bias": (outputs,)}
    else:
        if (total, outputs) == (layer.in_channels, layer.out_channels):
            return
        depthwise = layer.groups > 1 and layer.groups == layer.in_channels
        layer.in_channels, layer.out_channels = total, outputs
        layer.groups = plain if depthwise else layer.groups
        if layer.groups > 1 and total > plain:
            regrouped: Any = _REGROUPED[kind_of(layer)]
            layer._parts, layer.__class__ = parts, regrouped
        outer, inner = (total, outputs) if is_transposed(layer) else (outputs, total)
        sizes = {"weight": (outer, inner // layer.groups, *layer.kernel_size), "bias": (outputs,)}
    for name, size in sizes.items():
        old = layer._parameters.get(name)
        if old is not None:
            setattr(layer, name, nn.Parameter(old.detach().new_empty(size), old.requires_grad))
        elif layer._buffers.get(name) is not None:
            layer._buffers[name] = layer._buffers[name].new_empty(size)
    layer.reset_parameters()


def _widen_norm(norm: Any, parts: tuple[Part, ...]) -> None:
    """New units start as in a new layer."""
    for name, start in (("weight", 1.0), ("bias", 0.0)):
        if norm._parameters.get(name) is not None:
            setattr(norm, name, _spread(getattr(norm, name), 0, parts, start))
    for name, start in (("running_mean", 0.0), ("running_var", 1.0)):
        if norm._buffers.get(name) is not None:
            norm._buffers[name] = _spread_values(norm._buffers[name], 0, parts, start)
    _set_units(norm, _total(parts))


def _set_units(norm: Any, units: int) -> None:
    """Groups of a norm keep their size."""
    if isinstance(norm, nn.GroupNorm):
        norm.num_groups = norm.num_groups * units // norm.num_channels
        norm.num_channels = units
    else:
        norm.num_features = units


def _spread(old: nn.Parameter, dim: int, parts: tuple[Part, ...], start: float = 0.0) -> nn.Parameter:
    """A parameter of more columns, the old ones where the units of the plain model are."""
    return nn.Parameter(_spread_values(old.detach(), dim, parts, start), old.requires_grad)


def _spread_values(old: Tensor, dim: int, parts: tuple[Part, ...], start: float) -> Tensor:
    shape = list(old.shape)
    shape[dim] = _total(parts)
    new = old.new_full(shape, start)
    if old.dim() == 4 and not old.is_contiguous():
        new = new.contiguous(memory_format=torch.channels_last)
    position = taken = 0
    for size, plain in parts:
        if plain:
            new.narrow(dim, position, size).copy_(old.narrow(dim, taken, size))
            taken += size
        position += size
    return new


def _of_a_group(parts: tuple[Part, ...], groups: int) -> tuple[Part, ...]:
    """The units of one group: those of the plain model, then the extra ones."""
    plain = sum(size for size, is_plain in parts if is_plain)
    return (plain // groups, True), ((_total(parts) - plain) // groups, False)


def _total(parts: tuple[Part, ...]) -> int:
    return sum(size for size, _ in parts)
