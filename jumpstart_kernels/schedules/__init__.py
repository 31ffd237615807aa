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
