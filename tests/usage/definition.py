"""The usage metrics by definition, and models and inputs shared by their tests."""

import math

import torch
from torch import Tensor, nn

from jumpstart_kernels import JumpstartReLU
from jumpstart_kernels.usage.metric import UnitUsage

NAMES = [
    "unit_dead_ratio",
    "unit_linear_ratio",
    "unit_nonlinear_ratio",
    "point_dead_ratio",
    "point_linear_ratio",
    "point_nonlinear_ratio",
    "deathness_ratio",
    "linearity_ratio",
    "nonlinearity_ratio",
    "point_efficiency",
]


class Parallel(nn.Module):
    """One activation per input, so that a test can choose every pre-activation."""

    def __init__(self, *activations: nn.Module) -> None:
        super().__init__()
        self.activations = nn.ModuleList(activations)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return [activation(x) for activation, x in zip(self.activations, inputs, strict=True)]


def status_of(values: Tensor) -> int:
    if values.max() <= 0:
        return -1
    return 0 if values.min() > 0 else 1


def definition(inputs: list[Tensor]) -> dict[str, float]:
    """The ratios by their definition, value by value; units are dimension 1, points dimension 0."""
    units = [status_of(x[:, c]) for x in inputs for c in range(x.shape[1])]
    points = [[status_of(x[n]) for x in inputs] for n in range(len(inputs[0]))]
    pairs = [status for point in points for status in point]
    left = [len(point) - max((i + 1 for i, s in enumerate(point) if s == -1), default=0) for point in points]
    values = [units.count(status) / len(units) for status in (-1, 0, 1)]
    values += [
        sum(-1 in point for point in points) / len(points),
        sum(set(point) == {0} for point in points) / len(points),
        sum(set(point) == {1} for point in points) / len(points),
    ]
    values += [pairs.count(status) / len(pairs) for status in (-1, 0, 1)]
    return dict(zip(NAMES, [*values, sum(left) / len(pairs)], strict=True))


def cosine_definition(x: Tensor) -> float:
    """Pair by pair in float64; samples are dimension 0."""
    vectors = [sample.flatten().double() for sample in x.detach()]
    cosines = []
    for i, a in enumerate(vectors):
        for j, b in enumerate(vectors):
            norms = float(a.norm() * b.norm())
            if i != j:
                cosines.append(float(a @ b) / norms if norms else 0.0)
    return sum(cosines) / len(cosines) if cosines else math.nan


def mixed(*shape: int, seed: int = 0) -> Tensor:
    """Values with dead, linear and nonlinear units; with an odd seed such points instead."""
    generator = torch.Generator().manual_seed(seed)
    dim = 1 - seed % 2
    shift = 5 * (torch.arange(shape[dim]) % 3 - 1)
    return torch.randn(shape, generator=generator) + shift.view(
        [-1 if i == dim else 1 for i in range(len(shape))]
    )


def layer_inputs() -> list[Tensor]:
    return [mixed(12, 4), mixed(12, 3, 2, 2, seed=1), mixed(12, 5, 3, seed=2), mixed(12, 6, seed=3)]


def watched(model: nn.Module, *batches: list[Tensor], **options) -> UnitUsage:
    metric = UnitUsage()
    with metric.watch(model, **options):
        for inputs in batches:
            model(*inputs)
    return metric


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), JumpstartReLU(), nn.Linear(4, 4), JumpstartReLU(), nn.Linear(4, 2))


def assert_ratios(metric: UnitUsage, expected: dict[str, float]) -> None:
    computed = metric.compute()
    assert list(computed) == NAMES
    torch.testing.assert_close({name: float(value) for name, value in computed.items()}, expected)


def assert_unwatched(model: nn.Module) -> None:
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks, module
        assert not getattr(module, "_watchers", None), module
