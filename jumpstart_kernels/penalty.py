"""The Jumpstart penalty: every layer's slack, reduced to one number to add to the loss."""

from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from jumpstart_kernels.functional import check_choice
from jumpstart_kernels.modules import JumpstartReLU, Record

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
        ValueError: unknown ``reduction`` or ``terms``, ``sign_balance`` outside [0, 1].
        RuntimeError: nothing was recorded.
    """
    check_choice("reduction", reduction, REDUCTIONS)
    check_choice("terms", terms, tuple(TERMS))
    if isinstance(sign_balance, bool) or not isinstance(sign_balance, (int, float)):
        raise TypeError(f"sign_balance must be a number, got {type(sign_balance).__name__}")
    if not 0 <= sign_balance <= 1:
        raise ValueError(f"sign_balance must be in [0, 1], got {sign_balance}")
    layers = [module for module in model.modules() if isinstance(module, JumpstartReLU)]
    records = [record for layer in layers for record in layer._records]
    if not records:
        raise RuntimeError(_nothing_recorded(layers))
    total = reduce_records(records, reduction, sign_balance, terms)
    for layer in layers:
        layer._records.clear()
    return total


def reduce_records(records: list[Record], reduction: str, sign_balance: float, terms: str) -> Tensor:
    """The penalty of records, from their slack sums alone."""
    slack_sums = _sum_over_layers([record.slack_sums for record in records])  # [2, 5]
    counts = (sum(record.units for record in records), sum(record.points for record in records))
    weights = [
        (sign_balance * keep_positive, (1 - sign_balance) * keep_negative)
        for keep_positive, keep_negative in TERMS[terms]
    ]
    kept = [axis for axis in (0, 1) if any(TERMS[terms][axis]) and counts[axis] > 0]
    if not kept:  # empty batches only
        return slack_sums.sum() * 0
    if reduction in ("norm", "squared"):
        squares = _total([_squares(slack_sums[axis], *weights[axis]) for axis in kept])
        return _norm(squares) if reduction == "norm" else squares
    sums = {axis: _weighted(slack_sums[axis], weights[axis]) for axis in kept}
    if reduction == "balanced":
        return _total([sums[axis] / counts[axis] for axis in kept])
    total = _total(list(sums.values()))
    return total / sum(counts[axis] for axis in kept) if reduction == "mean" else total


def _sum_over_layers(slack_sums: list[Tensor]) -> Tensor:
    """Sum of ``[2, 5]`` tensors, on the device of the first."""
    dtype = torch.float64 if any(sums.dtype == torch.float64 for sums in slack_sums) else torch.float32
    first = slack_sums[0]
    return torch.stack([sums.to(first.device, dtype) for sums in slack_sums]).sum(0)


def _weighted(sums: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Weighted sum of the leading entries; one with no weight stays out, even if it is not finite."""
    weighted = [weight * sums[i] for i, weight in enumerate(weights) if weight]
    return _total(weighted) if weighted else sums.new_zeros(())


def _total(terms: list[Tensor]) -> Tensor:
    return reduce(add, terms)


def _squares(sums: Tensor, positive: float, negative: float) -> Tensor:
    """Σ (positive·s⁺ + negative·s⁻)² from Σs⁺², Σs⁻² and Σs⁺s⁻."""
    return _weighted(sums[2:], (positive**2, negative**2, 2 * positive * negative))


def _norm(squares: Tensor) -> Tensor:
    """Square root with gradient 0 at 0, as ``Tensor.norm`` has it."""
    nonzero = squares != 0
    return torch.where(nonzero, torch.where(nonzero, squares, 1).sqrt(), squares)


def _nothing_recorded(layers: list[JumpstartReLU]) -> str:
    if not layers:
        return (
            "the model has no JumpstartReLU layer: call model = jumpstart_kernels.replace_relu(model) first"
        )
    return (
        "no JumpstartReLU layer of the model has recorded a forward since the last penalty: run the model in "
        "training mode (model.train()) with grad enabled, then call penalty(model) once"
    )
