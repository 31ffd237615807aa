"""What each layer adds to the penalty, by term, from the slack sums already recorded."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from jumpstart_kernels.functional.checks import check_choice, check_margin
from jumpstart_kernels.nn import records
from jumpstart_kernels.nn.activation import LayerExtrema
from jumpstart_kernels.nn.recording import named_layers
from jumpstart_kernels.ops.slack import SUMS_SHAPE, SlackSum, slacks, sum_slacks
from jumpstart_kernels.penalties.reduction import check_penalty_options, penalty_weights

LINEAR_REDUCTIONS = ("balanced", "mean", "sum")
_LINEAR = [SlackSum.POSITIVE, SlackSum.NEGATIVE]


class PenaltyTerms(NamedTuple):
    """What one layer adds to the penalty: its dead (s⁺) and linear (s⁻) units and points."""

    unit_positive: float
    unit_negative: float
    point_positive: float
    point_negative: float


def penalty_by_layer(
    source: nn.Module | Mapping[str, LayerExtrema],
    *,
    reduction: str = "balanced",
    sign_balance: float = 0.5,
    margin: float = 1.0,
) -> dict[str, PenaltyTerms]:
    """The penalty by layer and term; the parts add up to the penalty.

    >>> output = model(x)
    >>> parts = jk.penalty_by_layer(model)  # does not consume the records
    >>> loss = criterion(output, y) + lam * jk.penalty(model)

    Args:
        source: a model between its forward and :func:`~jumpstart_kernels.penalty`, whose records are read but
            not consumed; or extrema by layer from :func:`~jumpstart_kernels.layer_extrema`.
        reduction: ``"balanced"``, ``"mean"`` or ``"sum"``, as in :func:`~jumpstart_kernels.penalty`; the
            others are not sums over layers.
        sign_balance: as in :func:`~jumpstart_kernels.penalty`.
        margin: for extrema; records use their layer's.

    Returns:
        Numbers by layer, in the order of the model, with one transfer from the device for all of them. Under
        data parallelism they are those of this rank's batch.

    Raises:
        TypeError: ``source``, ``sign_balance`` or ``margin`` has the wrong type.
        ValueError: an option has an invalid value.
        RuntimeError: there are no records, or no layers.
    """
    check_penalty_options(reduction, sign_balance, "full")
    check_choice("reduction", reduction, LINEAR_REDUCTIONS)
    check_margin(margin)
    if isinstance(source, nn.Module):
        sums, units, points = _recorded(source)
    elif isinstance(source, Mapping):
        sums, units, points = _of_extrema(source, margin)
    else:
        raise TypeError(f"source must be a torch.nn.Module or extrema by layer, got {type(source).__name__}")
    if not sums:
        raise RuntimeError(
            "source must have a layer with records, or extrema: run the model in training mode with grad "
            "enabled, and call penalty_by_layer before penalty takes the records"
        )
    weights = torch.tensor(
        penalty_weights(reduction, sign_balance, "full", units, points), dtype=torch.float64, device="cpu"
    )
    linear = weights.view(SUMS_SHAPE)[:, _LINEAR].flatten()  # of unit s⁺, s⁻, point s⁺, s⁻
    device = next(iter(sums.values())).device
    stacked = torch.stack([total[:, _LINEAR].flatten().to(device, torch.float64) for total in sums.values()])
    parts = stacked.cpu() * linear  # [layers, 4]
    return {name: PenaltyTerms(*part) for name, part in zip(sums, parts.tolist(), strict=True)}


def _recorded(model: nn.Module) -> tuple[dict[str, Tensor], int, int]:
    """Slack sums ``[2, 5]`` of each layer with records, and the counts of units and points."""
    sums: dict[str, Tensor] = {}
    units = points = 0
    for name, layer in named_layers(model):
        taken = list(records.unwind(layer._records))
        if taken:
            sums[name] = torch.stack([record.slack_sums.detach() for record in taken]).sum(0)
        for record in taken:
            units += record.units if record.points else 0
            points += record.points
    return sums, units, points


def _of_extrema(layers: Mapping[str, LayerExtrema], margin: float) -> tuple[dict[str, Tensor], int, int]:
    sums: dict[str, Tensor] = {}
    units = points = 0
    for name, layer in layers.items():
        if not isinstance(layer, LayerExtrema):
            raise TypeError(f"source must hold a LayerExtrema for each layer, got {type(layer).__name__}")
        maxima = torch.cat([layer.unit_max, layer.point_max.flatten()])
        minima = torch.cat([layer.unit_min, layer.point_min.flatten()])
        sums[name] = sum_slacks(slacks(torch.stack([maxima, minima]), margin), layer.unit_max.numel())
        if layer.point_max.numel():
            units += layer.unit_max.numel()
            points += layer.point_max.numel()
        else:
            sums[name] = torch.zeros_like(sums[name])  # extrema of nothing are infinite
    return sums, units, points
