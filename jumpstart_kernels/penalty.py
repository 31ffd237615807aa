"""The Jumpstart penalty: every layer's slack, reduced to one number to add to the loss."""

import functools

import torch
from torch import Tensor, nn

from jumpstart_kernels.backends import select
from jumpstart_kernels.functional import check_choice
from jumpstart_kernels.kernels import native
from jumpstart_kernels.kernels.penalty import penalty as reference_penalty
from jumpstart_kernels.modules import JumpstartReLU, Record, check_module
from jumpstart_kernels.ops import PENALTY_OVERLOADS

REDUCTIONS = ("balanced", "mean", "sum", "norm", "squared")

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
) -> Tensor:
    """The Jumpstart penalty of the forwards since the last call, to be added to the loss.

    With ``U = b·s⁺ + (1−b)·s⁻`` of each unit and ``P`` likewise of each point, over all layers: Eqs. 3-8 of
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
            ``"all_but_point_negative"``. A slack left out is zero; units or points without any slack left are
            not counted.

    Returns:
        A 0-dim tensor, float32 (float64 if a layer ran in float64). The records are taken: each forward
        counts once.

    Raises:
        TypeError: ``model`` is no module; ``sign_balance`` is no number.
        ValueError: unknown ``reduction`` or ``terms``, ``sign_balance`` outside [0, 1].
        RuntimeError: nothing was recorded.
    """
    check_module(model)
    check_choice("reduction", reduction, REDUCTIONS)
    check_choice("terms", terms, TERMS)
    if isinstance(sign_balance, bool) or not isinstance(sign_balance, (int, float)):
        raise TypeError(f"sign_balance must be a number, got {type(sign_balance).__name__}")
    if not 0 <= sign_balance <= 1:
        raise ValueError(f"sign_balance must be in [0, 1], got {sign_balance}")
    layers = [module for module in model.modules() if isinstance(module, JumpstartReLU)]
    records = [record for layer in layers for record in layer._records]
    if not records:
        raise RuntimeError(_nothing_recorded(layers))
    try:
        return reduce_records(records, reduction, sign_balance, terms)
    finally:  # a record that cannot be reduced, one of a torch.vmap that is over, must not stay in the way
        for layer in layers:
            layer._records.clear()


def reduce_records(records: list[Record], reduction: str, sign_balance: float, terms: str) -> Tensor:
    """The penalty of records, from their slack sums alone."""
    slack_sums, units, points = [], 0, 0
    for record in records:
        slack_sums.append(record.slack_sums)
        units += record.units
        points += record.points
    slack_sums = _alike(slack_sums)
    square_root = reduction == "norm"
    first = slack_sums[0]
    # A compiler has nothing to gain from the operator: it fuses the reference.
    if torch.compiler.is_compiling() or select(first) != "native":
        weights = _weights(reduction, sign_balance, terms, units, points)
        return reference_penalty(slack_sums, weights, square_root)
    weights = _cached_weights(reduction, sign_balance, terms, units, points)
    value = native.penalty(slack_sums, weights, square_root)
    return PENALTY_OVERLOADS["native"](slack_sums, weights, square_root) if value is None else value


def _weights(reduction: str, sign_balance: float, terms: str, units: int, points: int) -> list[float]:
    """What the entries of the ``[2, 5]`` slack sums count in the penalty, or in its square for ``"norm"``."""
    counts = (units, points)
    kept = [any(TERMS[terms][axis]) and counts[axis] > 0 for axis in (0, 1)]
    total = sum(count for count, keep in zip(counts, kept, strict=True) if keep)
    weights: list[float] = []
    for count, keep, (keep_positive, keep_negative) in zip(counts, kept, TERMS[terms], strict=True):
        positive, negative = sign_balance * keep_positive, (1 - sign_balance) * keep_negative
        if not keep:
            weights += [0.0] * 5
        elif reduction in ("norm", "squared"):  # of positive·s⁺ + negative·s⁻
            weights += [0.0, 0.0, positive**2, negative**2, 2 * positive * negative]
        else:
            divisor = {"balanced": count, "mean": total, "sum": 1}[reduction]
            weights += [positive / divisor, negative / divisor, 0.0, 0.0, 0.0]
    return weights


_cached_weights = functools.lru_cache(_weights)


def _alike(slack_sums: list[Tensor]) -> list[Tensor]:
    """Of one dtype, the widest, and on one device, that of the first."""
    first = slack_sums[0]
    if all(sums.dtype == first.dtype and sums.device == first.device for sums in slack_sums[1:]):
        return slack_sums
    dtype = torch.float64 if any(sums.dtype == torch.float64 for sums in slack_sums) else torch.float32
    return [sums.to(first.device, dtype) for sums in slack_sums]


def _nothing_recorded(layers: list[JumpstartReLU]) -> str:
    if not layers:
        return (
            "the model has no JumpstartReLU layer: call model = jumpstart_kernels.replace_relu(model) first"
        )
    return (
        "no JumpstartReLU layer of the model has recorded a forward since the last penalty: run the model in "
        "training mode (model.train()) with grad enabled, then call penalty(model) once"
    )
