"""The penalties of the CIFAR-10 comparison: the package's, and some that it does not have."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jumpstart_kernels as jk
from benchmarks.paper.cifar_networks import make_activation
from benchmarks.paper.cifar_techniques import Penalty, Technique
from jumpstart_kernels.nn.activation import JumpstartActivation


class PenaltyOf:
    """The penalty of a model's forwards in training mode since the last call; 0 without one.

    Args:
        model: of :func:`~benchmarks.paper.cifar_networks.build_network`.
        technique: of the model.
    """

    def __init__(self, model: nn.Module, technique: Technique) -> None:
        self.model, self.penalty = model, technique.penalty
        self.inputs: list[Tensor] = []
        kind = type(make_activation(technique, 0.0)())
        self.recorded = issubclass(kind, JumpstartActivation)
        if self.penalty is not None and not self.recorded:
            for module in model.modules():
                if isinstance(module, kind):
                    module.register_forward_pre_hook(self._see)

    def _see(self, module: nn.Module, inputs: tuple[Tensor]) -> None:
        if module.training and torch.is_grad_enabled():
            self.inputs.append(inputs[0])

    def __call__(self) -> Tensor:
        if self.penalty is None:
            return torch.zeros(())
        if self.recorded:
            return jk.penalty(self.model)
        units, points = zip(*(slacks(x, self.penalty) for x in self.inputs), strict=True)
        self.inputs.clear()
        return torch.cat(units).mean() + torch.cat(points).mean()


def slacks(x: Tensor, penalty: Penalty) -> tuple[Tensor, Tensor]:
    """Half the slack of each unit, ``[C]``, and of each point, ``[N]``; of ``[N, C, H, W]``."""
    statistics = jk.functional.jumpstart_stats(x, margin=penalty.margin, points=penalty.points)
    unit_max, unit_min = statistics.unit_max, statistics.unit_min
    if penalty.units == "sample_means":
        means = x.mean((2, 3))  # [N, C]
        unit_max, unit_min = means.amax(0), means.amin(0)
    elif penalty.units == "quantiles":
        values = x.transpose(0, 1).flatten(1)  # [C, N · H · W]
        count = max(1, int(penalty.quantile * values.shape[1]))
        unit_min, unit_max = order_statistics(values, [count - 1, values.shape[1] - count]).unbind(1)
    return (
        _hinge(unit_max, unit_min, penalty.margin),
        _hinge(statistics.point_max, statistics.point_min, penalty.margin).flatten(),
    )


def order_statistics(values: Tensor, ranks: list[int]) -> Tensor:
    """The values of these ranks, from 0, of each row, ``[rows, ranks]``; each is that of one element.

    Faster than ``torch.kthvalue`` twice.
    """
    found = torch.from_numpy(np.partition(values.detach().cpu().numpy(), ranks, axis=1)[:, ranks])
    places = [
        (values.detach() == each[:, None]).byte().argmax(1) for each in found.to(values.device).unbind(1)
    ]
    return values.gather(1, torch.stack(places, 1))


def _hinge(maximum: Tensor, minimum: Tensor, margin: float) -> Tensor:
    return (F.relu(margin - maximum) + F.relu(margin + minimum)) / 2
