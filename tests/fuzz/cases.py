"""One case: parameters, inputs and options for a fragment, and the definition's results."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from random import Random

import torch
from torch import Tensor, nn

from fuzz.definition import KEPT, REDUCTIONS, Observer, PenaltyOptions, penalty
from fuzz.fragments import Fragment
from fuzz.network import Network

STYLES = ("normal", "grid", "tied", "extreme")
MEMORY = ("contiguous", "contiguous", "contiguous", "channels_last", "reversed")


@dataclass
class Case:
    """A window is the forwards of one penalty and one backward; gradients accumulate over all windows."""

    parameters: list[Tensor]
    windows: list[list[Tensor]]  # of inputs [N, *input_size]
    penalty: PenaltyOptions
    weight: float  # of the penalty
    style: str
    seed: int
    gradient_penalty: bool = False
    distract: bool = False  # forwards between the windows that nothing is to be recorded of
    probes: list[list[Tensor]] = field(default_factory=list)  # float64, one for each output


Results = dict[str, Tensor | None]


def draw_case(
    random: Random,
    fragment: Fragment,
    model: nn.Module,
    layout: Random,
    *,
    style: str,
    batches: list[list[int]],
    dtype: torch.dtype,
    penalty_options: PenaltyOptions,
    freeze: bool,
) -> Case:
    """A case of a style; ``batches`` are the sizes N of each window's inputs.

    ``layout`` draws what compiled code is specialized on.
    """
    seed = random.getrandbits(32)
    generator = torch.Generator().manual_seed(seed)
    parameters = [
        _parameter(name, tuple(value.shape), style, generator).to(dtype)
        for name, value in model.named_parameters()
    ]
    for parameter in parameters:
        parameter.requires_grad_(not freeze or layout.random() < 0.6)
    needs_gradient = layout.random() < 0.8 or not any(p.requires_grad for p in parameters)
    windows = [
        [
            _in_memory(
                _input((samples, *fragment.input_size), style, generator, random).to(dtype), layout
            ).requires_grad_(needs_gradient)
            for samples in window
        ]
        for window in batches
    ]
    return Case(parameters, windows, penalty_options, random.choice([0.5, 4.0, 30.0]), style, seed)


def draw_penalty_options(random: Random) -> PenaltyOptions:
    """Each option's default is as frequent as all its other values together."""
    return PenaltyOptions(
        random.choice(REDUCTIONS),
        random.choice([0.5, 0.5, 0.5, 0.3, 0.0, 1.0]),
        random.choice(["full"] * 8 + list(KEPT)),
    )


def _parameter(name: str, size: tuple[int, ...], style: str, generator: torch.Generator) -> Tensor:
    def integers(lowest: int, highest: int) -> Tensor:
        return torch.randint(lowest, highest + 1, size, generator=generator).double()

    normal = torch.randn(size, generator=generator, dtype=torch.float64)
    if name.endswith("bias"):
        if style == "grid":
            return integers(-3, 3) / 2
        if style == "extreme":  # units that are dead or linear for most inputs
            return normal / 2 + 3 * integers(-1, 1)
        return normal / 2
    if len(size) == 1:  # of a norm
        return 2.0 ** integers(-1, 1) if style == "grid" else 1 + normal / 4
    if style == "grid":
        return integers(-1, 1)
    weight = normal * (2 / math.prod(size[1:])) ** 0.5
    if style == "tied" and size[0] > 1:  # units that equal one another
        weight[size[0] // 2] = weight[0]
    return weight


def _input(size: tuple[int, ...], style: str, generator: torch.Generator, random: Random) -> Tensor:
    if style == "grid":
        x = torch.randint(-4, 5, size, generator=generator).double() / 2
    else:
        x = torch.randn(size, generator=generator, dtype=torch.float64)
    if style == "tied" and x.numel():
        x = x.round(decimals=random.choice([0, 1, 12]))
        x[size[0] // 2] = x[0]
    if size[0] and random.random() < 0.2:  # points that are dead or linear, or zero
        x[random.randrange(size[0])] *= 0.0
    if style == "extreme" and size[0]:
        x[random.randrange(size[0])] *= 8.0
    return x


def _in_memory(x: Tensor, layout: Random) -> Tensor:
    memory = layout.choice(MEMORY)
    if memory == "reversed":
        order = tuple(reversed(range(x.dim())))
        return x.permute(order).contiguous().permute(order)
    if memory == "channels_last" and x.dim() in (4, 5):
        kind = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        return x.contiguous(memory_format=kind)
    return x


def copies(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Leaves with the same values, strides and ``requires_grad``."""
    return [tensor.detach().to(dtype, copy=True).requires_grad_(tensor.requires_grad) for tensor in tensors]


def task_loss(output: Tensor, probe: Tensor) -> Tensor:
    """A loss in float64 whose first and second derivative differ from element to element."""
    wide = output.double()
    return (wide * probe).sum() + (wide.square() * probe.abs()).sum() / 16


def add_gradient_penalty(loss: Tensor, leaves: list[Tensor]) -> Tensor:
    """The loss plus the squares of its own gradient, which a double backward differentiates."""
    gradients = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)
    squares = [gradient.square().sum() for gradient in gradients if gradient is not None]
    return loss + sum(squares) / 8


def collect(named: dict[str, Tensor], windows: list[list[Tensor]], values: Results) -> Results:
    """The values followed by all gradients; None counts as zero."""
    leaves = {f"gradient of {name}": tensor for name, tensor in named.items()}
    leaves |= {f"gradient of input {w}.{i}": x for w, xs in enumerate(windows) for i, x in enumerate(xs)}
    return values | {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in leaves.items()
        if leaf.requires_grad
    }


def define(
    fragment: Fragment,
    case: Case,
    names: list[str],
    dtype: torch.dtype,
    context: Callable[[], AbstractContextManager],
    fused: Sequence[bool] = (),
) -> tuple[Results, Observer]:
    """The definition's results for a case, computed in ``dtype``; fills ``case.probes``.

    ``fused``: as of :class:`~fuzz.network.Network`.
    """
    parameters, observer = copies(case.parameters, dtype), Observer()
    windows = [copies(window, dtype) for window in case.windows]
    generator = torch.Generator().manual_seed(case.seed)
    values: Results = {}
    case.probes = []
    for w, window in enumerate(windows):
        torch.manual_seed(case.seed + w)
        losses, records = [], []
        case.probes.append([])
        for i, x in enumerate(window):
            network = Network(parameters, observer, fused)
            with context():
                output = network.run(fragment.layers, x)
            records += network.records
            case.probes[w].append(torch.randn(output.shape, generator=generator, dtype=torch.float64))
            losses.append(task_loss(output, case.probes[w][i]))
            values[f"output {w}.{i}"] = output.detach()
        value = penalty(records, case.penalty)
        loss = sum(losses) + case.weight * value
        values[f"penalty {w}"] = value.detach()
        if case.gradient_penalty:
            if case.penalty.reduction == "norm" and value > 0:
                observer.stretches(1 / value.item())  # the second derivative of a norm divides by it
            loss = add_gradient_penalty(loss, [t for t in (*parameters, *window) if t.requires_grad])
        loss.backward()
    return collect(dict(zip(names, parameters, strict=True)), windows, values), observer
