"""λ as a closed form of the number of steps."""

import math
from bisect import bisect_right
from collections.abc import Sequence

from jumpstart_kernels.functional.numbers import check_count, check_nonnegative
from jumpstart_kernels.schedules.base import (
    PenaltySchedule,
    check_closed_form,
)


class _WarmedUp(PenaltySchedule):
    """A linear warm-up, ``peak · (step + 1) / warmup_steps``, followed by the subclass's curve."""

    def __init__(self, peak: float, warmup_steps: int) -> None:
        super().__init__()
        self.peak = check_nonnegative("peak", peak)
        self.warmup_steps = check_count("warmup_steps", warmup_steps)

    def weight_at(self, step: int) -> float:
        """λ after ``step`` calls of :meth:`~PenaltySchedule.step`."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        return self._after_warmup(step)

    def _after_warmup(self, step: int) -> float:
        raise NotImplementedError


class ConstantPenalty(_WarmedUp):
    """λ is ``peak``, after a linear warm-up if there is one.

    Args:
        peak: the weight, at least 0.
        warmup_steps: length of the warm-up, in which λ is ``peak · (step + 1) / warmup_steps``; 0 for none.

    Raises:
        TypeError, ValueError: an argument has the wrong type or an invalid value.
    """

    def __init__(self, peak: float, *, warmup_steps: int = 0) -> None:
        super().__init__(peak, warmup_steps)

    def _after_warmup(self, step: int) -> float:
        return self.peak


class _Falling(_WarmedUp):
    def __init__(self, peak: float, total_steps: int, final: float, warmup_steps: int) -> None:
        super().__init__(peak, warmup_steps)
        self.total_steps = check_count("total_steps", total_steps)
        self.final = check_nonnegative("final", final)
        if total_steps <= warmup_steps:
            raise ValueError(f"total_steps must be more than warmup_steps, {warmup_steps}, got {total_steps}")

    def _after_warmup(self, step: int) -> float:
        done = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        share = self._share(min(done, 1.0))
        return share * self.peak + (1 - share) * self.final

    def _share(self, done: float) -> float:
        raise NotImplementedError


class LinearPenalty(_Falling):
    """λ changes linearly from ``peak`` to ``final``, and stays there.

    Args:
        peak: the weight at the start, or at the end of the warm-up; at least 0.
        total_steps: when ``final`` is reached, warm-up included; more than ``warmup_steps``.
        final: the weight from ``total_steps`` on, at least 0; it may be above ``peak``.
        warmup_steps: of a linear warm-up to ``peak`` before, as in :class:`ConstantPenalty`.

    Raises:
        TypeError, ValueError: an argument has the wrong type or an invalid value.
    """

    def __init__(self, peak: float, *, total_steps: int, final: float = 0.0, warmup_steps: int = 0) -> None:
        super().__init__(peak, total_steps, final, warmup_steps)

    def _share(self, done: float) -> float:
        return 1 - done


class CosinePenalty(_Falling):
    """λ follows half a cosine from ``peak`` to ``final``, and stays there.

    Args:
        peak: the weight at the start, or at the end of the warm-up; at least 0.
        total_steps: when ``final`` is reached, warm-up included; more than ``warmup_steps``.
        final: the weight from ``total_steps`` on, at least 0; it may be above ``peak``.
        warmup_steps: of a linear warm-up to ``peak`` before, as in :class:`ConstantPenalty`.

    Raises:
        TypeError, ValueError: an argument has the wrong type or an invalid value.
    """

    def __init__(self, peak: float, *, total_steps: int, final: float = 0.0, warmup_steps: int = 0) -> None:
        super().__init__(peak, total_steps, final, warmup_steps)

    def _share(self, done: float) -> float:
        return (1 + math.cos(math.pi * done)) / 2


class SequentialPenalty(PenaltySchedule):
    """One schedule after another, each from its own start.

    >>> SequentialPenalty([ConstantPenalty(0.1), ConstantPenalty(0.01)], milestones=[5_000])

    Args:
        schedules: any but :class:`StopWhenHealthy`, which can wrap this one; their own progress is ignored.
        milestones: the steps at which each but the first begins, increasing, one fewer than the schedules.

    Raises:
        TypeError, ValueError: an argument has the wrong type or an invalid value.
    """

    def __init__(self, schedules: Sequence[PenaltySchedule], milestones: Sequence[int]) -> None:
        super().__init__()
        for name, given in (("schedules", schedules), ("milestones", milestones)):
            if isinstance(given, str) or not isinstance(given, Sequence):
                raise TypeError(f"{name} must be a list, got {type(given).__name__}")
        self.schedules = [check_closed_form("schedules", schedule) for schedule in schedules]
        self.milestones = [check_count("milestones", milestone) for milestone in milestones]
        if len(self.schedules) != len(self.milestones) + 1:
            raise ValueError(
                f"milestones must be one fewer than schedules, {len(self.schedules)}, "
                f"got {len(self.milestones)}"
            )
        if sorted({0, *self.milestones}) != [0, *self.milestones]:
            raise ValueError(f"milestones must be positive and increasing, got {self.milestones}")

    def weight_at(self, step: int) -> float:
        """λ after ``step`` calls of :meth:`~PenaltySchedule.step`."""
        current = bisect_right(self.milestones, step)
        return self.schedules[current].weight_at(step - [0, *self.milestones][current])
