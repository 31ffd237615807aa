"""λ until the units are healthy."""

from collections.abc import Mapping
from typing import Any

from jumpstart_kernels.schedules.base import (
    PenaltySchedule,
    check_closed_form,
    check_count,
    check_nonnegative,
    check_ratio,
)


class StopWhenHealthy(PenaltySchedule):
    """λ of another schedule, until few units are dead or linear; then ``floor``.

    >>> schedule = StopWhenHealthy(ConstantPenalty(0.1), patience=5)
    >>> for epoch in range(epochs):
    ...     train(...)
    ...     schedule.step(jk.unit_usage(model, validation_loader))

    A training that steps it after every optimizer step calls :meth:`observe` with the usage, once an epoch.

    Args:
        schedule: any but another ``StopWhenHealthy``; its own progress is not looked at.
        max_dead_ratio: the most ``unit_dead_ratio`` that is healthy, in [0, 1].
        max_linear_ratio: the most ``unit_linear_ratio`` that is healthy, in [0, 1].
        patience: how many observations in a row have to be healthy, at least 1.
        floor: λ from then on, or what the schedule says if that is less; at least 0.
        restart: go back to the schedule when an observation is not healthy any more.

    The two ratios and the patience are choices of this project, not of the paper, whose λ is constant.

    Attributes:
        healthy: how many observations in a row were healthy, up to now.
        stopped: whether λ is at the floor.

    Raises:
        TypeError, ValueError: an argument is not of the kind that is said above.
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
        """λ after ``step`` calls of :meth:`step`, if it is stopped by then just as it is now."""
        weight = self.schedule.weight_at(step)
        return min(weight, self.floor) if self.stopped else weight

    def step(self, usage: Mapping[str, Any] | None = None) -> None:
        """Go on to the next step; with ``usage`` also :meth:`observe` it."""
        if usage is not None:
            self.observe(usage)
        super().step()

    def observe(self, usage: Mapping[str, Any]) -> None:
        """Judge how the units are, without a step.

        Args:
            usage: a :class:`~jumpstart_kernels.usage_report.UsageReport`, what ``UnitUsage.compute()`` gives,
                or any mapping with the numbers ``"unit_dead_ratio"`` and ``"unit_linear_ratio"``. NaN is not
                healthy.

        Raises:
            TypeError: it is no mapping.
            ValueError: a ratio is missing.
        """
        names = ("unit_dead_ratio", "unit_linear_ratio")
        if not isinstance(usage, Mapping):
            raise TypeError(f"usage must be a mapping with {' and '.join(names)}, got {type(usage).__name__}")
        missing = [name for name in names if name not in usage]
        if missing:
            raise ValueError(f"usage must have {' and '.join(names)}, got none of {', '.join(missing)}")
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
        """Where in the training it is, and what it has observed: numbers by name, nothing of the settings."""
        return {"last_step": self.last_step, "healthy": self.healthy, "stopped": self.stopped}
