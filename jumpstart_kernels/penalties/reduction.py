"""The Jumpstart penalty: the slack of all layers, reduced to one number to add to the loss."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from jumpstart_kernels.functional.checks import check_choice
from jumpstart_kernels.nn import records
from jumpstart_kernels.nn.activation import JumpstartActivation
from jumpstart_kernels.nn.recording import check_module, layers_of, name_of
from jumpstart_kernels.ops import PENALTY_OVERLOADS, native
from jumpstart_kernels.ops.arguments import Record, are_alike
from jumpstart_kernels.ops.backends import BACKENDS, select
from jumpstart_kernels.ops.composite import is_transformed
from jumpstart_kernels.ops.reference import penalty as reference_penalty
from jumpstart_kernels.ops.slack import SlackSum
from jumpstart_kernels.penalties.across_ranks import across_ranks, check_process_group, scale_gradient

if TYPE_CHECKING:
    from torch.distributed import DeviceMesh, ProcessGroup

REDUCTIONS = ("balanced", "mean", "sum", "norm", "squared")

_SLACK_SUMS = tuple(SlackSum)  # torch 2.11 traces this, not the enumeration

# Which slacks count: (unit s⁺, unit s⁻), (point s⁺, point s⁻).
TERMS = {
    "full": ((True, True), (True, True)),
    "unit": ((True, True), (False, False)),
    "point": ((False, False), (True, True)),
    "unit_positive": ((True, False), (False, False)),
    "point_positive": ((False, False), (True, False)),
    "positive": ((True, False), (True, False)),
    "all_but_unit_positive": ((False, True), (True, True)),
    "all_but_unit_negative": ((True, False), (True, True)),
    "all_but_point_positive": ((True, True), (False, True)),
    "all_but_point_negative": ((True, True), (True, False)),
}


def penalty(
    model: nn.Module,
    *,
    reduction: str = "balanced",
    sign_balance: float = 0.5,
    terms: str = "full",
    process_group: "ProcessGroup | DeviceMesh | None" = None,
) -> Tensor:
    """The Jumpstart penalty of the forwards since the last call, to add to the loss.

    With ``U = b·s⁺ + (1−b)·s⁻`` for each unit and likewise ``P`` for each point, over all layers: Eqs. 3-8 of
    Riera Molina et al., *Unit-Centric Regularization for Efficient Deep Neural Networks*, IEEE Access 13,
    2025.

    Args:
        model: a model with :class:`~jumpstart_kernels.JumpstartReLU` layers, or a wrapper of one (DDP, FSDP,
            ``torch.compile``).
        reduction: ``"balanced"``, mean of U plus mean of P; ``"mean"``, mean of both together; ``"sum"``;
            ``"norm"``, Euclidean norm; ``"squared"``, sum of squares.
        sign_balance: ``b`` in [0, 1], the weight of dead against linear.
        terms: ``"full"``, ``"unit"``, ``"point"``, ``"unit_positive"``, ``"point_positive"``, ``"positive"``,
            ``"all_but_unit_positive"``, ``"all_but_unit_negative"``, ``"all_but_point_positive"`` or
            ``"all_but_point_negative"``. An excluded slack is zero; units or points without any slack left
            are not counted.
        process_group: the data-parallel ranks, as a process group or a one-dimensional mesh. The penalty is
            then that of the global batch: a unit is dead if it is dead on every rank. Every rank gets the
            same value, and the number of ranks times its own part of the gradient, so that the average over
            ranks, as DDP and FSDP take it, is the gradient. Every rank must call it, for the same layers;
            each call is one collective (two in float64). By default each rank penalizes its own part of the
            batch.

    Returns:
        A 0-dim tensor, float32 (float64 if a layer ran in float64). The records are consumed, so that each
        forward counts once.

    Raises:
        TypeError: ``model``, ``sign_balance`` or ``process_group`` has the wrong type.
        ValueError: ``reduction`` or ``terms`` is unknown; ``sign_balance`` is outside [0, 1]; this process is
            not in ``process_group``, or that is a mesh with several dimensions.
        RuntimeError: nothing was recorded; a layer ran inside a reentrant checkpoint, out of reach of the
            penalty; the ranks recorded different layers.
    """
    check_module(model)
    check_penalty_options(reduction, sign_balance, terms)
    group = None if process_group is None else check_process_group(process_group)
    layers = layers_of(model)
    unreachable = [layer for layer in layers if layer._unreachable]
    taken, counts = records.take(layers)
    if unreachable:
        raise RuntimeError(records.unreachable([name_of(model, layer) for layer in unreachable]))
    if not taken:
        raise RuntimeError(_nothing_recorded(layers))
    if group is None or group.size() == 1:
        value = reduce_records(taken, reduction, sign_balance, terms)
    else:
        value = reduce_records_across(taken, group, reduction, sign_balance, terms)
    records.forget_recomputed(value, layers, counts, model, name_of)
    return value


def check_penalty_options(reduction: str, sign_balance: float, terms: str) -> None:
    """Raise for options that are invalid for any record."""
    check_choice("reduction", reduction, REDUCTIONS)
    check_choice("terms", terms, TERMS)
    if isinstance(sign_balance, bool) or not isinstance(sign_balance, (int, float)):
        raise TypeError(f"sign_balance must be a number, got {type(sign_balance).__name__}")
    if not 0 <= sign_balance <= 1:
        raise ValueError(f"sign_balance must be in [0, 1], got {sign_balance}")


def reduce_records(taken: Sequence[Record], reduction: str, sign_balance: float, terms: str) -> Tensor:
    """The penalty of records, from their slack sums only."""
    points = sum([record.points for record in taken])
    units = sum([record.units for record in taken if record.points])
    square_root = reduction == "norm"
    # A compiler gains nothing from the operator: it fuses the reference.
    if torch.compiler.is_compiling() or is_transformed():
        weights = penalty_weights(reduction, sign_balance, terms, units, points)
        return reference_penalty(_alike([record.slack_sums for record in taken]), weights, square_root)
    weights = _cached_weights(reduction, sign_balance, terms, units, points)
    value = native.penalty(taken, weights, square_root)  # None unless all records are the extension's
    if value is not None:
        return value
    slack_sums = _alike([record.slack_sums for record in taken])
    backend = select(slack_sums[0])
    overload, shortcuts = PENALTY_OVERLOADS.get(backend), BACKENDS[backend].shortcuts
    if overload is None:
        return reference_penalty(slack_sums, weights, square_root)
    value = None if shortcuts is None else shortcuts.penalty(taken, weights, square_root)
    return overload(slack_sums, weights, square_root) if value is None else value


def reduce_records_across(
    taken: Sequence[Record], group: "ProcessGroup", reduction: str, sign_balance: float, terms: str
) -> Tensor:
    """The penalty of all ranks' records, as :func:`penalty` defines it for a group."""
    extrema = _alike([record.extrema for record in taken])
    slack_sums = _alike([record.slack_sums for record in taken])
    sums, counts, ranks = across_ranks(taken, extrema, slack_sums, group)  # [2, 5], [2]
    if reduction == "balanced":
        sums = sums / counts.clamp(min=1)[:, None]
    elif reduction == "mean":
        kept = [axis for axis in (0, 1) if any(TERMS[terms][axis])]
        sums = sums / torch.stack([counts[axis] for axis in kept]).sum().clamp(min=1)
    weights = penalty_coefficients(reduction, sign_balance, terms)
    return scale_gradient(reference_penalty([sums], weights, reduction == "norm"), ranks)


def penalty_coefficients(reduction: str, sign_balance: float, terms: str) -> list[float]:
    """Weights of the ``[2, 5]`` slack sums in the penalty, before any division by counts.

    For ``"norm"`` in its square.
    """
    coefficients: list[float] = []
    for keep_positive, keep_negative in TERMS[terms]:
        positive, negative = sign_balance * keep_positive, (1 - sign_balance) * keep_negative
        if reduction in ("norm", "squared"):  # of positive·s⁺ + negative·s⁻
            of_axis = {
                SlackSum.POSITIVE_SQUARED: positive**2,
                SlackSum.NEGATIVE_SQUARED: negative**2,
                SlackSum.PRODUCT: 2 * positive * negative,
            }
        else:
            of_axis = {SlackSum.POSITIVE: positive, SlackSum.NEGATIVE: negative}
        coefficients += [of_axis.get(each, 0.0) for each in _SLACK_SUMS]
    return coefficients


def penalty_weights(reduction: str, sign_balance: float, terms: str, units: int, points: int) -> list[float]:
    """Weights of the slack sums in the penalty of so many units and points; for ``"norm"`` in its square."""
    counts = (units, points)
    kept = [any(TERMS[terms][axis]) and counts[axis] > 0 for axis in (0, 1)]
    total = sum(count for count, keep in zip(counts, kept, strict=True) if keep)
    coefficients = penalty_coefficients(reduction, sign_balance, terms)
    weights: list[float] = []
    for axis in (0, 1):
        divisor = {"balanced": counts[axis], "mean": total}.get(reduction, 1)
        of_axis = coefficients[len(SlackSum) * axis :][: len(SlackSum)]
        weights += [c / divisor if kept[axis] else 0.0 for c in of_axis]
    return weights


_cached_weights = functools.lru_cache(penalty_weights)


def _alike(tensors: list[Tensor]) -> list[Tensor]:
    """Cast to the widest dtype and to the device of the first."""
    if are_alike(tensors):
        return tensors
    dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    return [tensor.to(tensors[0].device, dtype) for tensor in tensors]


def _nothing_recorded(layers: list[JumpstartActivation]) -> str:
    if not layers:
        return (
            "the model has no JumpstartReLU layer: call model = jumpstart_kernels.replace_relu(model) first, "
            "with activations=... for others than ReLU"
        )
    if all(layer._inject is not None for layer in layers):
        return (
            "every JumpstartReLU layer of the model injects its penalty in backward (inject_penalty): "
            "there is nothing to add to the loss"
        )
    return (
        "no JumpstartReLU layer of the model has recorded a forward since the last penalty: run the model in "
        "training mode (model.train()) with grad enabled, outside reentrant checkpoints and "
        "nn.DataParallel (whose replicas discard their records), then call penalty(model) once; with "
        "torch.func call it inside the transformed function"
    )
