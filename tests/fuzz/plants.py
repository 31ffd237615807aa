"""Implementations with one bug each, which a campaign must find.

They are the definition built into the layers of a model, so that they are right but for what is planted:
``Planted`` itself has nothing wrong, and a campaign must find nothing.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fuzz.definition import (
    LayerOptions,
    PenaltyOptions,
    Rules,
    Slacks,
    jumpstart_activation,
    penalty,
    point_rows,
    unit_rows,
)
from fuzz.modes import Implementation
from jumpstart_kernels.nn.activation import JumpstartActivation
from jumpstart_kernels.ops.layout import along_units


class Planted(Implementation):
    """Replaces every layer by the definition."""

    rules = Rules()
    fuses_biases = False

    def __init__(self) -> None:
        self.records: list[tuple[nn.Module, Slacks]] = []

    def prepare(self, model: nn.Module, options: dict[str, Any]) -> nn.Module:
        model = super().prepare(model, {**options, "fuse_bias": options["fuse_bias"] and self.fuses_biases})
        for layer in model.modules():
            if isinstance(layer, JumpstartActivation):
                layer.forward = partial(self.forward, layer)
        return model

    def forward(self, layer: nn.Module, x: Tensor) -> Tensor:
        if not self.records_now(layer):
            return layer.plain.forward(layer, x)
        options = LayerOptions(
            layer.unit_dim, layer.points, layer.margin, layer.tie_breaking, layer.activation
        )
        output, slacks = self.compute(x.clone(), options, layer)
        if not self.recomputes():
            self.record(layer, slacks)
        return x.copy_(output) if layer.inplace else output

    def records_now(self, layer: nn.Module) -> bool:
        return layer.training and torch.is_grad_enabled()

    def recomputes(self) -> bool:
        return torch._C._current_graph_task_id() != -1

    def compute(self, x: Tensor, options: LayerOptions, layer: nn.Module) -> tuple[Tensor, Slacks]:
        return jumpstart_activation(x, options, self.rules)

    def record(self, layer: nn.Module, slacks: Slacks) -> None:
        self.records.append((layer, slacks))

    def penalty(self, model: nn.Module, **options: Any) -> Tensor:
        if not self.records:
            raise RuntimeError("nothing recorded")
        slacks = [slacks for _, slacks in self.records]
        self.records = []
        return self.reduce(slacks, PenaltyOptions(**options))

    def reduce(self, records: list[Slacks], options: PenaltyOptions) -> Tensor:
        return penalty(records, options)


def highest_index(rows: Tensor, best: Tensor) -> Tensor:
    places = torch.arange(rows.shape[1]).expand(rows.shape)
    return torch.where(rows == best[:, None], places, -1).amax(1)


class TiesToTheLast(Planted):
    rules = Rules(place=highest_index)


class TiesByMemory(Planted):
    """The first tied element in memory, which need not be the first in logical order."""

    def compute(self, x: Tensor, options: LayerOptions, layer: nn.Module) -> tuple[Tensor, Slacks]:
        order = sorted(range(x.dim()), key=lambda dim: -x.stride(dim))
        ranks = torch.arange(x.numel()).view([x.shape[dim] for dim in order])
        ranks = ranks.permute([order.index(dim) for dim in range(x.dim())])
        by_row: Iterator[Tensor] = iter(
            find(ranks, options) for find in (unit_rows, unit_rows, point_rows, point_rows)
        )

        def first_in_memory(rows: Tensor, best: Tensor) -> Tensor:
            return torch.where(rows == best[:, None], next(by_row), x.numel()).argmin(1)

        return jumpstart_activation(x, options, Rules(place=first_in_memory))


class AverageTiesToOne(Planted):
    def compute(self, x: Tensor, options: LayerOptions, layer: nn.Module) -> tuple[Tensor, Slacks]:
        return super().compute(x, options._replace(tie_breaking="single"), layer)


class HingeGradientAtItsKink(Planted):
    rules = Rules(hinge=lambda x: x.clamp(min=0))


class ReLUGradientAtZero(Planted):
    rules = Rules(rectify=lambda x: x.clamp(min=0))


class NoPointTerm(Planted):
    def record(self, layer: nn.Module, slacks: Slacks) -> None:
        super().record(layer, slacks._replace(point_positive=slacks[2] * 0, point_negative=slacks[3] * 0))


class EveryRecordTwice(Planted):
    def record(self, layer: nn.Module, slacks: Slacks) -> None:
        self.records += [(layer, slacks)] * 2


class RecordsWhenRecomputing(Planted):
    def recomputes(self) -> bool:
        return False


class RecordsInEval(Planted):
    def records_now(self, layer: nn.Module) -> bool:
        return True


class KeepsTheLastRecordOfALayer(Planted):
    def record(self, layer: nn.Module, slacks: Slacks) -> None:
        self.records = [*(record for record in self.records if record[0] is not layer), (layer, slacks)]


class PointsAreSamples(Planted):
    def compute(self, x: Tensor, options: LayerOptions, layer: nn.Module) -> tuple[Tensor, Slacks]:
        return super().compute(x, options._replace(points="sample"), layer)


class MarginOfOne(Planted):
    def compute(self, x: Tensor, options: LayerOptions, layer: nn.Module) -> tuple[Tensor, Slacks]:
        return super().compute(x, options._replace(margin=1.0), layer)


class EmptyBatchesCount(Planted):
    def compute(self, x: Tensor, options: LayerOptions, layer: nn.Module) -> tuple[Tensor, Slacks]:
        output, slacks = super().compute(x, options, layer)
        if x.numel() == 0:
            zeros = x.double().sum() + torch.zeros(x.shape[options.unit_dim])
            slacks = slacks._replace(unit_positive=zeros, unit_negative=zeros)
        return output, slacks


class StatisticsOfTheOverwritten(Planted):
    def compute(self, x: Tensor, options: LayerOptions, layer: nn.Module) -> tuple[Tensor, Slacks]:
        return super().compute(x.relu() if layer.inplace else x, options, layer)


class StatisticsInFloat32(Planted):
    def compute(self, x: Tensor, options: LayerOptions, layer: nn.Module) -> tuple[Tensor, Slacks]:
        output, _ = super().compute(x, options, layer)
        return output, super().compute(x.float(), options, layer)[1]


class SlackInBfloat16(Planted):
    rules = Rules(hinge=lambda x: x.bfloat16().relu().double())


class SwappedBalance(Planted):
    def reduce(self, records: list[Slacks], options: PenaltyOptions) -> Tensor:
        return penalty(records, options._replace(sign_balance=1 - options.sign_balance))


class RebalancedTerms(Planted):
    """A slack left out gives its share of the balance to the other."""

    def reduce(self, records: list[Slacks], options: PenaltyOptions) -> Tensor:
        positive = options.terms in ("unit_positive", "point_positive", "positive")
        return penalty(records, options._replace(sign_balance=1.0) if positive else options)


class MeanOfLayers(Planted):
    """The mean of the layers' penalties instead of one mean over all units and points."""

    def reduce(self, records: list[Slacks], options: PenaltyOptions) -> Tensor:
        if options.reduction not in ("mean", "balanced"):
            return penalty(records, options)
        return torch.stack([penalty([record], options) for record in records]).mean()


class NoPenaltyInTheGradientOfABias(Planted):
    """Of one that the activation adds."""

    fuses_biases = True

    def forward(self, layer: nn.Module, x: Tensor) -> Tensor:
        bias = None if layer._bias_link is None else layer._bias_link.bias_for(x)
        if bias is None:
            return super().forward(layer, x)
        bias = along_units(bias, x.dim(), layer.unit_dim % x.dim())
        if not self.records_now(layer):
            return layer.plain.forward(layer, x + bias)
        options = LayerOptions(
            layer.unit_dim, layer.points, layer.margin, layer.tie_breaking, layer.activation
        )
        output, _ = self.compute(x + bias, options, layer)
        if not self.recomputes():
            self.record(layer, self.compute(x + bias.detach(), options, layer)[1])
        return output


class _Backward(torch.autograd.Function):
    """An identity with another gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.change(grad), None


class GradientOfOne(Planted):
    """The penalty's gradient regardless of its weight in the loss."""

    def reduce(self, records: list[Slacks], options: PenaltyOptions) -> Tensor:
        return _Backward.apply(penalty(records, options), torch.ones_like)


class NoSecondDerivative(Planted):
    def record(self, layer: nn.Module, slacks: Slacks) -> None:
        super().record(layer, Slacks(*(_Backward.apply(slack, torch.Tensor.detach) for slack in slacks)))


# In which mode each is to be found.
PLANTS: dict[type[Planted], str] = {
    TiesToTheLast: "eager",
    TiesByMemory: "eager",
    AverageTiesToOne: "eager",
    HingeGradientAtItsKink: "float32",
    ReLUGradientAtZero: "eager",
    NoPointTerm: "autocast",
    EveryRecordTwice: "eager",
    RecordsWhenRecomputing: "checkpointed",
    RecordsInEval: "accumulated",
    KeepsTheLastRecordOfALayer: "accumulated",
    PointsAreSamples: "eager",
    MarginOfOne: "float32",
    EmptyBatchesCount: "accumulated",
    StatisticsOfTheOverwritten: "eager",
    StatisticsInFloat32: "eager",
    SlackInBfloat16: "autocast",
    SwappedBalance: "eager",
    RebalancedTerms: "eager",
    MeanOfLayers: "eager",
    GradientOfOne: "eager",
    NoPenaltyInTheGradientOfABias: "eager",
    NoSecondDerivative: "double_backward",
}
