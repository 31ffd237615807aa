"""Shared by the callbacks: the usage over an evaluation, and the schedule that it drives."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torchmetrics.utilities.distributed import gather_all_tensors

from jumpstart_kernels.schedules import ConstantPenalty, PenaltySchedule, StopWhenHealthy
from jumpstart_kernels.usage.collecting import UsageWatch
from jumpstart_kernels.usage.metric import UnitUsage
from jumpstart_kernels.usage.report import UsageReport
from jumpstart_kernels.usage.rolling import ModelWatch, in_process_group, watch

INTERVALS = ("step", "epoch")


class UsageObserver:
    """The usage of a model in ``eval()``, batch by batch, whatever calls its layers.

    Args:
        layers: as in :meth:`~jumpstart_kernels.UnitUsage.watch`.
        unit_dim: as in :meth:`~jumpstart_kernels.UnitUsage.watch`.
        cosines: as of :class:`~jumpstart_kernels.UnitUsage`, like ``dormancy``.
    """

    def __init__(
        self,
        layers: Iterable[str] | None = None,
        unit_dim: int | str = "auto",
        cosines: bool = False,
        dormancy: bool = False,
    ) -> None:
        self._layers = layers if layers is None or isinstance(layers, str) else list(layers)
        self._unit_dim = unit_dim
        self._metric = UnitUsage(cosines=cosines, dormancy=dormancy)
        self._watch: UsageWatch | None = None
        self._batches = 0  # that ended while watching

    def start(self, model: nn.Module) -> None:
        """Start watching a model, and stop watching any other."""
        self.stop()
        self._batches = 0

        def evaluating() -> bool:
            return not model.training

        options: dict[str, Any] = {"layers": self._layers, "unit_dim": self._unit_dim}
        self._watch = UsageWatch(model, when=evaluating, extras=self._metric.extras, **options)
        self._watch.start()
        parameter = next(model.parameters(), None)
        if parameter is not None:
            self._metric.to(parameter.device)  # used by the collective if this process sees no batch

    def watch(self, model: nn.Module, every: int, further: Mapping[str, Any]) -> ModelWatch:
        """A watch of the model in training, with these options and further ones."""
        dormancy = self._metric.extras.dormancy
        options: dict[str, Any] = {"layers": self._layers, "unit_dim": self._unit_dim, "dormancy": dormancy}
        return watch(model, every=every, **{**options, **further})

    def stop(self) -> None:
        """Stop watching, and drop what was collected."""
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        self._metric.reset()

    def forget_batch(self) -> None:
        """Drop what was collected since the last batch."""
        if self._watch is not None:
            self._watch.take()

    def end_batch(self) -> None:
        """Add what was collected since the last batch."""
        if self._watch is None:
            return
        self._batches += 1
        seen = self._watch.take()
        if seen.extrema:
            self._metric.to(next(iter(seen.extrema.values())).unit_max.device)
            self._metric.update(*seen)

    def report(self) -> UsageReport | None:
        """The report over all batches since the last one, and all processes; None without a batch.

        Warns if there were batches but no layer was seen.

        Raises:
            RuntimeError: some of the processes have seen a batch and others have not, or other layers.
        """
        seen = [self._metric.update_called]
        if self._watch is not None and in_process_group():
            # A process without a batch must not leave the others waiting.
            gathered = gather_all_tensors(torch.tensor(seen, dtype=torch.int32, device=self._metric.device))
            seen = [bool(count) for count in gathered]
        if not any(seen):
            if self._batches:
                warnings.warn(
                    f"no watched layer was seen in {self._batches} batches of the evaluation, so there is "
                    "no usage to report: either none ran, or compiled code ran, which does not see hooks "
                    "on an nn.ReLU but does see a JumpstartReLU: call replace_relu(model)",
                    stacklevel=2,
                )
                self._batches = 0
            return None
        if not all(seen):
            without = ", ".join(str(rank) for rank, saw in enumerate(seen) if not saw)
            raise RuntimeError(
                f"every process must have seen a batch of the evaluation, and {without} has not: evaluate as "
                "many batches in each, or disable the usage with usage=False"
            )
        report = self._metric.report()
        self._metric.reset()
        self._batches = 0
        return report


def logged(report: UsageReport) -> dict[str, float]:
    """The ratios by name and, if the report has them, dormant units and each layer's ``cosine/<layer>``."""
    dormant = {"unit_dormant_ratio": report.dormant_ratio()} if report.dormancy else {}
    return {**report, **dormant, **{f"cosine/{layer}": cosine for layer, cosine in report.cosines.items()}}


def latest(watch: ModelWatch | None, logged: int) -> tuple[dict[str, float], int]:
    """The ratios of the last full window of training if it is newer than the ``logged`` ones before it.

    Returns:
        The ratios by name, empty if there is none, and how many windows are logged with them.
    """
    if watch is None or len(watch.history) == logged:
        return {}, logged
    ratios = {f"train_{name}": value for name, value in watch.history[-1].items() if name != "forward"}
    return ratios, len(watch.history)


def as_schedule(weight: float | PenaltySchedule) -> PenaltySchedule:
    """A schedule; a number becomes a constant one."""
    return weight if isinstance(weight, PenaltySchedule) else ConstantPenalty(weight)


def observe(schedule: PenaltySchedule, report: UsageReport) -> None:
    """Let a schedule observe the usage, if it is a kind that does."""
    if isinstance(schedule, StopWhenHealthy):
        schedule.observe(report)


def check_interval(interval: str) -> None:
    """Raise for an unknown interval."""
    if interval not in INTERVALS:
        raise ValueError(f"interval must be one of {', '.join(map(repr, INTERVALS))}, got {interval!r}")
