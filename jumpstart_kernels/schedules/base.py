"""What all schedules share, and the checks of their arguments."""

import math
from collections.abc import Mapping
from typing import Any

from jumpstart_kernels.injection import PenaltyInjection


class PenaltySchedule:
    """What all schedules share. A schedule of your own needs :meth:`weight_at` alone.

    Attributes:
        last_step: how many times :meth:`step` was called; ``last_epoch`` of PyTorch's schedulers.
    """

    observes = False  # whether λ depends on more than the number of steps

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
        self._injections.append((injection, check_nonnegative("factor", factor)))
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


def check_closed_form(name: str, schedule: object) -> PenaltySchedule:
    """Raise for what cannot be a part of another schedule."""
    if not isinstance(schedule, PenaltySchedule):
        raise TypeError(f"{name} must be of PenaltySchedule, got {type(schedule).__name__}")
    if schedule.observes:
        kind = type(schedule).__name__
        raise TypeError(f"{name} must not be of {kind}: put {kind} around the others")
    return schedule


def check_nonnegative(name: str, number: float) -> float:
    """Raise for what is no finite number of at least 0."""
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(number).__name__}")
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, got {number}")
    return float(number)


def check_ratio(name: str, number: float) -> float:
    """Raise for what is no number in [0, 1]."""
    if check_nonnegative(name, number) > 1:
        raise ValueError(f"{name} must be in [0, 1], got {number}")
    return float(number)


def check_count(name: str, number: int, least: int = 0) -> int:
    """Raise for what is no int of at least ``least``."""
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{name} must be an int, got {type(number).__name__}")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number
