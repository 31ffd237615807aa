"""λ, the weight of the penalty in the loss, over the steps of a training.

>>> schedule = schedules.CosinePenalty(0.1, total_steps=10_000, warmup_steps=500)
>>> for x, y in loader:
...     loss = criterion(model(x), y) + schedule.weight * jk.penalty(model)
...     loss.backward()
...     optimizer.step()
...     schedule.step()
>>> torch.save({"schedule": schedule.state_dict(), ...}, path)

Schedules step and save as PyTorch's learning-rate schedulers do, with these differences: the weight is a
closed form of how many steps there were, so that no order of calls and no resumption can shift it; a state
holds the progress alone, and the settings stay those of the constructor; nothing else is changed by making
one. A step is whatever ``step()`` is called after: an optimizer step, or an epoch.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from jumpstart_kernels.injection import PenaltyInjection

__all__ = [
    "ConstantPenalty",
    "CosinePenalty",
    "LinearPenalty",
    "PenaltySchedule",
    "SequentialPenalty",
    "StopWhenHealthy",
]


class PenaltySchedule:
    """What all schedules share. A schedule of your own needs :meth:`weight_at` alone.

    Attributes:
        last_step: how many times :meth:`step` was called; ``last_epoch`` of PyTorch's schedulers.
    """

    def __init__(self) -> None:
        self.last_step = 0
        self._injections: list[tuple[PenaltyInjection, float]] = []

    def weight_at(self, step: int) -> float:
        """λ after ``step`` calls of :meth:`step`, at least 0."""
        raise NotImplementedError(f"{type(self).__name__} must define weight_at(step)")

    @property
    def weight(self) -> float:
        """λ of the step that comes next."""
        return self.weight_at(self.last_step)

    def step(self) -> None:
        """Go on to the next step; call it after each ``optimizer.step()``, or after each epoch."""
        self.last_step += 1
        self._drive()

    def bind(self, injection: PenaltyInjection, *, factor: float = 1.0) -> PenaltyInjection:
        """From now on set ``injection.weight`` to ``factor`` times λ, at once and after every step.

        Args:
            injection: of :func:`~jumpstart_kernels.inject_penalty`; one schedule may drive several.
            factor: what else the loss is multiplied by: 1 / micro-batches, say. For a ``GradScaler``, whose
                scale changes, set ``injection.weight`` yourself instead.

        Returns:
            ``injection``.

        Raises:
            TypeError: ``injection`` is no ``PenaltyInjection``, ``factor`` no number.
            ValueError: ``factor`` is negative or not finite.
        """
        if not isinstance(injection, PenaltyInjection):
            raise TypeError(f"injection must be a PenaltyInjection, got {type(injection).__name__}")
        self._injections.append((injection, _nonnegative("factor", factor)))
        self._drive()
        return injection

    def state_dict(self) -> dict[str, Any]:
        """Where in the training it is: numbers by name, nothing of the settings."""
        return {"last_step": self.last_step}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from where :meth:`state_dict` was taken, with the settings of this schedule.

        Raises:
            TypeError: it is no mapping.
            ValueError: it is the state of something else, or has a negative count.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict must be a mapping, got {type(state_dict).__name__}")
        own = self.state_dict()
        if state_dict.keys() != own.keys():
            got = ", ".join(map(str, state_dict)) or "none"
            raise ValueError(f"state_dict must have the keys {', '.join(own)}, got {got}")
        for name, value in own.items():
            if type(state_dict[name]) is not type(value):
                raise ValueError(
                    f"state_dict[{name!r}] must be {value!r} or the like, got {state_dict[name]!r}"
                )
            if type(value) is int and state_dict[name] < 0:
                raise ValueError(f"state_dict[{name!r}] must be at least 0, got {state_dict[name]!r}")
        self.__dict__.update(state_dict)
        self._drive()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_injections": []}  # copies and pickles drive nobody's model

    def __repr__(self) -> str:
        public = {name: value for name, value in self.__dict__.items() if not name.startswith("_")}
        settings = ", ".join(f"{name}={value!r}" for name, value in public.items())
        return f"{type(self).__name__}({settings})"

    def _drive(self) -> None:
        for injection, factor in self._injections:
            injection.weight = factor * self.weight


class _WarmedUp(PenaltySchedule):
    """A linear warm-up, ``peak · (step + 1) / warmup_steps``, and then whatever comes after the peak."""

    def __init__(self, peak: float, warmup_steps: int) -> None:
        super().__init__()
        self.peak = _nonnegative("peak", peak)
        self.warmup_steps = _count("warmup_steps", warmup_steps)

    def weight_at(self, step: int) -> float:
        """λ after ``step`` calls of :meth:`step`."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        return self._after_warmup(step)

    def _after_warmup(self, step: int) -> float:
        raise NotImplementedError


class ConstantPenalty(_WarmedUp):
    """λ is ``peak``, after a linear warm-up if there is one.

    Args:
        peak: the weight, at least 0.
        warmup_steps: of the warm-up, in which λ is ``peak · (step + 1) / warmup_steps``; 0 for none.

    Raises:
        TypeError, ValueError: an argument is not of the kind that is said above.
    """

    def __init__(self, peak: float, *, warmup_steps: int = 0) -> None:
        super().__init__(peak, warmup_steps)

    def _after_warmup(self, step: int) -> float:
        return self.peak


class _Falling(_WarmedUp):
    def __init__(self, peak: float, total_steps: int, final: float, warmup_steps: int) -> None:
        super().__init__(peak, warmup_steps)
        self.total_steps = _count("total_steps", total_steps)
        self.final = _nonnegative("final", final)
        if total_steps <= warmup_steps:
            raise ValueError(f"total_steps must be more than warmup_steps, {warmup_steps}, got {total_steps}")

    def _after_warmup(self, step: int) -> float:
        done = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        share = self._share(min(done, 1.0))
        return share * self.peak + (1 - share) * self.final

    def _share(self, done: float) -> float:
        raise NotImplementedError


class LinearPenalty(_Falling):
    """λ goes in a straight line from ``peak`` to ``final``, and stays there.

    Args:
        peak: the weight at the start, or at the end of the warm-up; at least 0.
        total_steps: when ``final`` is reached, warm-up included; more than ``warmup_steps``.
        final: the weight from ``total_steps`` on, at least 0; it may be above ``peak``.
        warmup_steps: of a linear warm-up to ``peak`` before, as in :class:`ConstantPenalty`.

    Raises:
        TypeError, ValueError: an argument is not of the kind that is said above.
    """

    def __init__(self, peak: float, *, total_steps: int, final: float = 0.0, warmup_steps: int = 0) -> None:
        super().__init__(peak, total_steps, final, warmup_steps)

    def _share(self, done: float) -> float:
        return 1 - done


class CosinePenalty(_Falling):
    """λ goes along half a cosine from ``peak`` to ``final``, and stays there.

    Args:
        peak: the weight at the start, or at the end of the warm-up; at least 0.
        total_steps: when ``final`` is reached, warm-up included; more than ``warmup_steps``.
        final: the weight from ``total_steps`` on, at least 0; it may be above ``peak``.
        warmup_steps: of a linear warm-up to ``peak`` before, as in :class:`ConstantPenalty`.

    Raises:
        TypeError, ValueError: an argument is not of the kind that is said above.
    """

    def __init__(self, peak: float, *, total_steps: int, final: float = 0.0, warmup_steps: int = 0) -> None:
        super().__init__(peak, total_steps, final, warmup_steps)

    def _share(self, done: float) -> float:
        return (1 + math.cos(math.pi * done)) / 2


class SequentialPenalty(PenaltySchedule):
    """One schedule after another, each from its own start.

    >>> SequentialPenalty([ConstantPenalty(0.1), ConstantPenalty(0.01)], milestones=[5_000])

    Args:
        schedules: any but :class:`StopWhenHealthy`, which goes around this one; their own progress is not
            looked at.
        milestones: the steps at which each but the first begins, rising, one fewer than the schedules.

    Raises:
        TypeError, ValueError: an argument is not of the kind that is said above.
    """

    def __init__(self, schedules: Sequence[PenaltySchedule], milestones: Sequence[int]) -> None:
        super().__init__()
        for name, given in (("schedules", schedules), ("milestones", milestones)):
            if isinstance(given, str) or not isinstance(given, Sequence):
                raise TypeError(f"{name} must be a list, got {type(given).__name__}")
        self.schedules = [_closed_form("schedules", schedule) for schedule in schedules]
        self.milestones = [_count("milestones", milestone) for milestone in milestones]
        if len(self.schedules) != len(self.milestones) + 1:
            raise ValueError(
                f"milestones must be one fewer than schedules, {len(self.schedules)}, "
                f"got {len(self.milestones)}"
            )
        if sorted({0, *self.milestones}) != [0, *self.milestones]:
            raise ValueError(f"milestones must be positive and rising, got {self.milestones}")

    def weight_at(self, step: int) -> float:
        """λ after ``step`` calls of :meth:`step`."""
        current = bisect_right(self.milestones, step)
        return self.schedules[current].weight_at(step - [0, *self.milestones][current])


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
        self.schedule = _closed_form("schedule", schedule)
        self.max_dead_ratio = _ratio("max_dead_ratio", max_dead_ratio)
        self.max_linear_ratio = _ratio("max_linear_ratio", max_linear_ratio)
        self.patience = _count("patience", patience, least=1)
        self.floor = _nonnegative("floor", floor)
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


def _closed_form(name: str, schedule: object) -> PenaltySchedule:
    if not isinstance(schedule, PenaltySchedule):
        raise TypeError(f"{name} must be of PenaltySchedule, got {type(schedule).__name__}")
    if isinstance(schedule, StopWhenHealthy):
        raise TypeError(f"{name} must not be of StopWhenHealthy: put StopWhenHealthy around the others")
    return schedule


def _nonnegative(name: str, number: float) -> float:
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(number).__name__}")
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, got {number}")
    return float(number)


def _ratio(name: str, number: float) -> float:
    if _nonnegative(name, number) > 1:
        raise ValueError(f"{name} must be in [0, 1], got {number}")
    return float(number)


def _count(name: str, number: int, least: int = 0) -> int:
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{name} must be an int, got {type(number).__name__}")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number
