"""The weight of the penalty over the steps of a training, with the interface of PyTorch's schedulers."""

import math
from typing import Any

SCHEDULES = ("constant", "linear", "cosine")


class PenaltyWeight:
    """The weight λ of the penalty, one value for each optimizer step.

    >>> weight = PenaltyWeight(0.1, schedule="linear", warmup_steps=1000)
    >>> for x, y in loader:
    ...     loss = criterion(model(x), y) + weight.value * jk.penalty(model)
    ...     loss.backward()
    ...     optimizer.step()
    ...     weight.step()

    - ``"constant"``: ``peak`` in all steps;
    - ``"linear"``: a linear warm-up, ``peak · (step + 1) / warmup_steps``, then ``peak``;
    - ``"cosine"``: the same warm-up, then half a cosine from ``peak`` to ``final`` at ``total_steps``.

    Args:
        peak: the weight, at least 0.
        schedule: ``"constant"``, ``"linear"`` or ``"cosine"``.
        warmup_steps: optimizer steps of the warm-up; at least 1 for ``"linear"``, 0 for ``"constant"``.
        total_steps: optimizer steps of the whole training; only for ``"cosine"``, more than ``warmup_steps``.
        final: the weight from ``total_steps`` on, at least 0; only for ``"cosine"``.

    Raises:
        TypeError: an argument is no number.
        ValueError: an argument is outside of what is said above.
    """

    def __init__(
        self,
        peak: float,
        *,
        schedule: str = "constant",
        warmup_steps: int = 0,
        total_steps: int | None = None,
        final: float = 0.0,
    ) -> None:
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
        for name, number in (("peak", peak), ("final", final)):
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise TypeError(f"{name} must be a number, got {type(number).__name__}")
            if not 0 <= number < math.inf:
                raise ValueError(f"{name} must be finite and at least 0, got {number}")
        for name, steps in (("warmup_steps", warmup_steps), ("total_steps", total_steps)):
            if isinstance(steps, bool) or not isinstance(steps, (int, type(None))):
                raise TypeError(f"{name} must be an int, got {type(steps).__name__}")
        least, most = {"constant": (0, 0), "linear": (1, math.inf), "cosine": (0, math.inf)}[schedule]
        if not least <= warmup_steps <= most:
            allowed = "0" if most == 0 else f"at least {least}"
            raise ValueError(f"warmup_steps must be {allowed} for {schedule!r}, got {warmup_steps}")
        if (total_steps is not None) != (schedule == "cosine"):
            raise ValueError(
                f"total_steps must be given for 'cosine' alone, got {total_steps} for {schedule!r}"
            )
        if total_steps is not None and total_steps <= warmup_steps:
            raise ValueError(f"total_steps must be more than warmup_steps, {warmup_steps}, got {total_steps}")
        if final != 0 and schedule != "cosine":
            raise ValueError(f"final must be 0 for {schedule!r}, got {final}")
        self.peak = float(peak)
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.final = float(final)
        self.last_step = 0

    @property
    def value(self) -> float:
        """The weight of the step that comes next."""
        if self.last_step < self.warmup_steps:
            return self.peak * (self.last_step + 1) / self.warmup_steps
        if self.total_steps is None:
            return self.peak
        done = (self.last_step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return self.final + (self.peak - self.final) * (1 + math.cos(math.pi * min(done, 1.0))) / 2

    def step(self) -> None:
        """Go on to the next step; call it after each ``optimizer.step()``."""
        self.last_step += 1

    def state_dict(self) -> dict[str, Any]:
        """The settings and where in the training it is: numbers and strings."""
        return dict(self.__dict__)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave. Raises ValueError if that is of something else."""
        if state_dict.keys() != self.__dict__.keys():
            raise ValueError(
                f"state_dict must have the keys {', '.join(self.__dict__)}, got {', '.join(state_dict)}"
            )
        self.__dict__.update(state_dict)
