"""Schedules of λ, the weight of the penalty in the loss.

>>> schedule = schedules.CosinePenalty(0.1, total_steps=10_000, warmup_steps=500)
>>> for x, y in loader:
...     loss = criterion(model(x), y) + schedule.weight * jk.penalty(model)
...     loss.backward()
...     optimizer.step()
...     schedule.step()
>>> torch.save({"schedule": schedule.state_dict(), ...}, path)

Schedules step and save like PyTorch's learning-rate schedulers, with these differences: the weight is a
closed form of the number of steps, so that neither the order of calls nor resuming can shift it; the state
holds only progress, while settings are those of the constructor; constructing one has no side effects. A step
is whatever ``step()`` is called after: an optimizer step, or an epoch.
"""

from jumpstart_kernels.schedules.base import PenaltySchedule
from jumpstart_kernels.schedules.curves import (
    ConstantPenalty,
    CosinePenalty,
    LinearPenalty,
    SequentialPenalty,
)
from jumpstart_kernels.schedules.healthy import StopWhenHealthy

__all__ = [
    "ConstantPenalty",
    "CosinePenalty",
    "LinearPenalty",
    "PenaltySchedule",
    "SequentialPenalty",
    "StopWhenHealthy",
]
