"""``permutation_prune``: units that order the data as others do are removed, layer by layer."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jumpstart_kernels.nn.recording import check_module
from jumpstart_kernels.pruning.capture import inputs_of
from jumpstart_kernels.pruning.certificate import Decisions, most_flips
from jumpstart_kernels.pruning.keys import LEAST
from jumpstart_kernels.pruning.reduction import Reduction
from jumpstart_kernels.pruning.report import PruneReport, Size
from jumpstart_kernels.pruning.rounds import History, Round, rounds_of
from jumpstart_kernels.pruning.saving import save_pruned

REPEATS = 11  # forwards of either model whose median is the latency


class PruneResult:
    """A smaller model, and what has been removed.

    Attributes:
        model: the smaller copy, of the classes of the given model, with its training flags.
        report: what went and why, and what it costs.
    """

    def __init__(self, model: nn.Module, report: PruneReport, removed: tuple[str, ...]) -> None:
        self.model = model
        self.report = report
        self._removed = removed

    def save(self, path: str | Path) -> None:
        """Write the model's state dict and widths, for :func:`~jumpstart_kernels.pruning.load_pruned`.

        Args:
            path: of a file, which ``torch.load`` reads with ``weights_only=True``.
        """
        save_pruned(self.model, self._removed, path)

    def __repr__(self) -> str:
        return str(self.report)


def permutation_prune(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    tolerance: float = 0.0,
    max_flips: int = 0,
    unseen: Iterable[Any] | None = None,
    positions: int = 50_000,
    progress: bool = False,
) -> PruneResult:
    """Remove units that order the data as other units do, while the decisions on the data stay as they are.

    A decision is the class of the largest logit in ``eval()``.

    Riera Molina, *Training More Efficient Neural Networks*, PhD thesis, Universitat de Barcelona 2025, hdl
    2445/227399: a unit is judged by the order in which its output sorts the samples, behind a ReLU by the
    order of its positive samples. Dead units go, and of units of a layer with the same order all but one. A
    unit that orders the samples as one does that its layer reads only passes it on: a layer of such and of
    linear units goes as a whole.

    Equal order is not equal values. What is left stands in for what is gone by least squares, which changes
    weights and biases of the layers behind; that is exact for dead units and affine relations only. So every
    removal is tried: it is kept if no logit moves by half the smallest gap between the two largest, or else
    if no more than ``max_flips`` decisions on the data change. Layers are gone through from front to back,
    and what is known of the data is renewed after each. Dead units and those of the same order go in a first
    round, what is within the tolerance in further ones, the units that are missed least first.

    Args:
        model: of ``nn.Linear`` and convolutions with ReLUs (of PyTorch, functional, Jumpstart, linked),
            which returns logits ``[N, classes, *]``, and whose forward ``torch.fx`` can trace. It is left as
            it is.
        loader: yields batches of input: tensors, arrays, or tuples whose first item is one. They are kept in
            memory, moved to the device of the model's first parameter, and cast to its dtype unless they are
            integers. A single batch is ``[x]``.
        tolerance: by how much the rank correlation of two units may be less than 1: more units are tried.
            With 0 only those of the same order are, with 2 all.
        max_flips: how many decisions on the data may change in all.
        unseen: batches of other data, on which flips are counted at the end.
        positions: units of convolutions are compared on positions, as many of each sample, and at most about
            so many in all.
        progress: whether to show a progress bar, if ``rich`` is installed.

    Returns:
        The smaller model, with a report. A fused bias (``replace_relu``) is added by its own layer again, and
        a ``nn.Identity`` is where a layer has been; or, in a model that overwrites tensors,
        ``nn.LeakyReLU(1.0)``, which copies.

    Raises:
        TypeError: an argument, a batch, or what the model returns is of a wrong type.
        ValueError: an argument is out of range; there are fewer than 10 samples; the model is, or has in it,
            a wrapper (DDP, ``torch.compile``), cannot be traced, returns no finite logits, or decides
            otherwise in a second call; no layer can be cut, with the reason for each. ``model`` is as before.
        RuntimeError: more decisions than ``max_flips`` differ in the end: the model draws random numbers, and
            a second call did not show it.
    """
    check_module(model)
    _check(tolerance, max_flips, positions)
    reduction = Reduction(model, loader, max_flips, positions)
    if reduction.samples < LEAST:
        raise ValueError(
            f"loader must yield at least {LEAST} samples to judge units, got {reduction.samples}"
        )
    other = None if unseen is None else inputs_of(unseen, "unseen", model)
    with torch.no_grad():
        unseen_decisions = None if other is None else Decisions(reduction.given, other, "unseen")
    sets = reduction.structure.sets
    if all(units.obstacle for units in sets):
        named = (f"{units.name}: " + units.obstacle.removeprefix(f"{units.name}: ") for units in sets)
        reasons = "; ".join(named) or "there is none"
        raise ValueError(f"model must have a layer that can be cut: {reasons}")
    histories = [History(units, tolerance) for units in sets]
    for each, history in _steps(rounds_of(tolerance), histories, progress):
        history.prune(reduction, *each)
    layers = [history.report(reduction) for history in histories]
    smaller = reduction.network.model
    with torch.no_grad():
        final = reduction.decisions.check(smaller)
        found = None if unseen_decisions is None else unseen_decisions.check(smaller)
        before, after = _sizes(reduction.given, smaller, reduction.inputs[0].clone())
    if final is None or final.flips > max_flips:
        raise RuntimeError("more than max_flips decisions differ in the end: the model is not deterministic")
    count = 0 if unseen_decisions is None else unseen_decisions.count
    independent = other is not None and count == sum(map(len, other))  # a decision for each sample
    report = PruneReport(
        layers=tuple(layers),
        samples=reduction.samples,
        decisions=reduction.decisions.count,
        flips=final.flips,
        max_flips=max_flips,
        largest_change=final.moved,
        certified=final.certified,
        unseen=count,
        unseen_flips=0 if found is None else found.flips,
        most_unseen_flips=most_flips(found.flips, count) if found and independent else math.nan,
        before=before,
        after=after,
        batch=len(reduction.inputs[0]),
    )
    _restore_training(smaller, model)
    removed = [name for units in reduction.network.bypassed for name in (*units.producers, *units.norms)]
    return PruneResult(smaller, report, tuple(removed))


def _check(tolerance: Any, max_flips: Any, positions: Any) -> None:
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)):
        raise TypeError(f"tolerance must be a number, got {type(tolerance).__name__}")
    if not 0 <= tolerance <= 2:
        raise ValueError(f"tolerance must be in [0, 2], got {tolerance}")
    for name, value, least in (("max_flips", max_flips, 0), ("positions", positions, 1)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {type(value).__name__}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def _sizes(before: nn.Module, after: nn.Module, x: Tensor) -> list[Size]:
    """What both cost, measured in turns."""
    models = (before, after)
    seconds: list[list[float]] = [[], []]
    for _ in range(REPEATS):
        for model, measured in zip(models, seconds, strict=True):
            synchronize: Callable[[], Any] = torch.cuda.synchronize if x.is_cuda else (lambda: None)
            synchronize()
            start = time.perf_counter()
            model(x)
            synchronize()
            measured.append(time.perf_counter() - start)
    sizes = []
    for model, measured in zip(models, seconds, strict=True):
        tensors = [*model.parameters(), *model.buffers()]
        count = sum(each.numel() for each in model.parameters())
        total = sum(each.numel() * each.element_size() for each in tensors)
        sizes.append(Size(count, total, statistics.median(measured)))
    return sizes


def _restore_training(smaller: nn.Module, model: nn.Module) -> None:
    flags = {name: module.training for name, module in model.named_modules(remove_duplicate=False)}
    for name, module in smaller.named_modules(remove_duplicate=False):
        module.training = flags[name]


def _steps(rounds: list[Round], histories: list[History], progress: bool) -> Iterator[tuple[Round, History]]:
    """Every set in every round."""
    steps = [(each, history) for each in rounds for history in histories]
    if not progress or find_spec("rich") is None:
        yield from steps
        return
    from rich.progress import track

    yield from track(steps, description="permutation pruning")
