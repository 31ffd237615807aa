"""The base class of schedules, and checks of their arguments."""

from collections.abc import Mapping
from typing import Any

from jumpstart_kernels.functional.numbers import check_nonnegative
from jumpstart_kernels.penalties.injection import PenaltyInjection


class PenaltySchedule:
    """Base class of schedules. A subclass only needs to define :meth:`weight_at`.

    Attributes:
        last_step: how many times :meth:`step` was called, like ``last_epoch`` of PyTorch's schedulers.
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
        """λ of the next step."""
        return self.weight_at(self.last_step)

    def step(self) -> None:
        """Advance by one step; call it after each ``optimizer.step()``, or after each epoch."""
        self.last_step += 1
        self._drive()

    def bind(self, injection: PenaltyInjection, *, factor: float = 1.0) -> PenaltyInjection:
        """Set ``injection.weight`` to ``factor`` times λ, now and after every step.

        Args:
            injection: from :func:`~jumpstart_kernels.inject_penalty`; one schedule may drive several.
            factor: any other factor of the loss, such as 1 / micro-batches. With a ``GradScaler``, whose
                scale changes, set ``injection.weight`` yourself instead.

        Returns:
            ``injection``.

        Raises:
            TypeError: ``injection`` or ``factor`` has the wrong type.
            ValueError: ``factor`` is negative or not finite.
        """
        if not isinstance(injection, PenaltyInjection):
            raise TypeError(f"injection must be a PenaltyInjection, got {type(injection).__name__}")
        self._injections.append((injection, check_nonnegative("factor", factor)))
        self._drive()
        return injection

    def state_dict(self) -> dict[str, Any]:
        """The progress, as numbers by name, without the settings."""
        return {"last_step": self.last_step}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Resume from where :meth:`state_dict` was taken, with the settings of this schedule.

        Raises:
            TypeError: it is not a mapping.
            ValueError: it is the state of another kind of schedule, or has a negative count.
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
        return {**self.__dict__, "_injections": []}  # copies and pickles drive no injection

    def __repr__(self) -> str:
        public = {name: value for name, value in self.__dict__.items() if not name.startswith("_")}
        settings = ", ".join(f"{name}={value!r}" for name, value in public.items())
        return f"{type(self).__name__}({settings})"

    def _drive(self) -> None:
        for injection, factor in self._injections:
            injection.weight = factor * self.weight


def check_closed_form(name: str, schedule: object) -> PenaltySchedule:
    """Raise for a schedule that cannot be part of another."""
    if not isinstance(schedule, PenaltySchedule):
        raise TypeError(f"{name} must be a PenaltySchedule, got {type(schedule).__name__}")
    if schedule.observes:
        kind = type(schedule).__name__
        raise TypeError(f"{name} must not be a {kind}: wrap the others in it instead")
    return schedule
