"""A schedule that stops once the units are healthy."""

from collections.abc import Mapping
from typing import Any

from jumpstart_kernels.functional.numbers import check_count, check_nonnegative, check_ratio
from jumpstart_kernels.schedules.base import (
    PenaltySchedule,
    check_closed_form,
)


class StopWhenHealthy(PenaltySchedule):
    """λ of another schedule, until few units are dead or linear; then ``floor``.

    >>> schedule = StopWhenHealthy(ConstantPenalty(0.1), patience=5)
    >>> for epoch in range(epochs):
    ...     train(...)
    ...     schedule.step(jk.unit_usage(model, validation_loader))

    If it is stepped after every optimizer step, call :meth:`observe` with the usage once per epoch.

    Args:
        schedule: any but another ``StopWhenHealthy``; its own progress is ignored.
        max_dead_ratio: the largest healthy ``unit_dead_ratio``, in [0, 1].
        max_linear_ratio: the largest healthy ``unit_linear_ratio``, in [0, 1].
        patience: how many consecutive observations must be healthy, at least 1.
        floor: λ from then on, or the schedule's value if that is less; at least 0.
        restart: whether to return to the schedule when an observation is no longer healthy.

    The ratios and the patience are this project's choice, not the paper's, whose λ is constant.

    Attributes:
        healthy: the current number of consecutive healthy observations.
        stopped: whether λ is at the floor.

    Raises:
        TypeError, ValueError: an argument has the wrong type or an invalid value.
    """

    observes = True

    def __init__(
        self,
        schedule: PenaltySchedule,
        *,
        max_dead_ratio: float = 0.05,
        max_linear_ratio: float = 0.05,
        patience: int = 3,
        floor: float = 0.0,
        restart: bool = False,
    ) -> None:
        super().__init__()
        self.schedule = check_closed_form("schedule", schedule)
        self.max_dead_ratio = check_ratio("max_dead_ratio", max_dead_ratio)
        self.max_linear_ratio = check_ratio("max_linear_ratio", max_linear_ratio)
        self.patience = check_count("patience", patience, least=1)
        self.floor = check_nonnegative("floor", floor)
        if not isinstance(restart, bool):
            raise TypeError(f"restart must be a bool, got {type(restart).__name__}")
        self.restart = restart
        self.healthy = 0
        self.stopped = False

    def weight_at(self, step: int) -> float:
        """λ after ``step`` calls of :meth:`step`, assuming that it is stopped then if it is now."""
        weight = self.schedule.weight_at(step)
        return min(weight, self.floor) if self.stopped else weight

    def step(self, usage: Mapping[str, Any] | None = None) -> None:
        """Advance by one step; with ``usage`` also :meth:`observe` it."""
        if usage is not None:
            self.observe(usage)
        super().step()

    def observe(self, usage: Mapping[str, Any]) -> None:
        """Observe the state of the units, without a step.

        Args:
            usage: a :class:`~jumpstart_kernels.usage.report.UsageReport`, the result of
                ``UnitUsage.compute()``, or any mapping with the numbers ``"unit_dead_ratio"`` and
                ``"unit_linear_ratio"``. NaN is not healthy.

        Raises:
            TypeError: it is not a mapping.
            ValueError: a ratio is missing.
        """
        names = ("unit_dead_ratio", "unit_linear_ratio")
        if not isinstance(usage, Mapping):
            raise TypeError(f"usage must be a mapping with {' and '.join(names)}, got {type(usage).__name__}")
        missing = [name for name in names if name not in usage]
        if missing:
            raise ValueError(f"usage must have {' and '.join(names)}, missing {', '.join(missing)}")
        dead, linear = (float(usage[name]) for name in names)
        if dead <= self.max_dead_ratio and linear <= self.max_linear_ratio:
            self.healthy += 1
        else:
            self.healthy = 0
        if self.healthy >= self.patience:
            self.stopped = True
        elif self.restart and self.healthy == 0:
            self.stopped = False
        self._drive()

    def state_dict(self) -> dict[str, Any]:
        """The progress and observations, as numbers by name, without the settings."""
        return {"last_step": self.last_step, "healthy": self.healthy, "stopped": self.stopped}
