"""Recycling of dormant and dead units."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.optim import Optimizer

from jumpstart_kernels.recycling.choice import Choice, choose, measure
from jumpstart_kernels.recycling.edits import CHANGED, ON_AVERAGE, UNCHANGED, Edits, parameters_of
from jumpstart_kernels.recycling.fresh import Initialize, drawing_from
from jumpstart_kernels.recycling.report import RecycleReport
from jumpstart_kernels.recycling.request import Request, check_options, report_of, request
from jumpstart_kernels.recycling.states import check_optimizers, restart, warn_of, write, write_scalars
from jumpstart_kernels.recycling.ways import Way, Ways
from jumpstart_kernels.recycling.wrappers import agree, all_ranks, average, take_first, unwrap
from jumpstart_kernels.surgery.flow.inputs import trace_calls
from jumpstart_kernels.surgery.tracing import Untraceable
from jumpstart_kernels.usage.report import UsageReport


def recycle(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer] | None,
    usage: Any,
    *,
    tau: float = 0.1,
    status: str = "dormant",
    keep_mean: bool = True,
    optimizer_state: str = "mean",
    initialize: Initialize | None = None,
    generator: torch.Generator | None = None,
    example_inputs: Any = None,
) -> RecycleReport:
    """Start dormant or dead units anew, in place: fresh weights in front of them, zeros behind.

    This is ReDo: Sokar et al., *The Dormant Neuron Phenomenon in Deep Reinforcement Learning*, arXiv
    2302.12902, Algorithm 1. The zeros keep the output as it is, and the unit grows into use by their
    gradient. What a unit that is not quite silent adds on average to the layers that read it becomes part of
    their biases, as in continual backprop (Dohare et al., *Loss of plasticity in deep continual learning*,
    Nature 632, 2024).

    >>> usage = jk.unit_usage(model, loader, dormancy=True)
    >>> print(jk.recycle(model, optimizer, usage))

    A unit is recycled if one layer alone makes it (linear, or a convolution, transposed ones too, without
    groups) and all that reads it are such layers, behind an activation of the report at which it is dormant;
    several such layers, norms of each unit alone, pooling, dropout, flattening and concatenation may be
    between. All others stay as they are; the report says why. Rows between two recycled units have fresh
    weights rather than zeros, as nothing reads them yet. Batch norms get weight 1, bias 0, mean 0 and
    variance 1 for the unit, as when they were made, and follow the fresh weights from the next batch in
    training on. Gradients of what starts anew are zeroed.

    In ``eval()`` the output stays the same, but for rounding, if every recycled unit was silent on all
    inputs; ``changed`` of the :class:`~jumpstart_kernels.recycling.RecycleReport` counts those of which not
    even the mean could be kept.

    Call it between steps, each time with a new report. A watch (:func:`~jumpstart_kernels.watch`) is reset
    afterwards, and as long as its window is not full nothing happens: recycling more often than it fills is
    waiting, not deciding on scraps. In DDP call it on all ranks, with the wrapper: a unit is recycled if it
    is dormant on every rank, their means are averaged, and all get the first rank's weights. Compiled code
    stays valid.

    Args:
        model: any module, or the wrapper of one (DDP, ``torch.compile``).
        optimizer: what trains it, one or several; None if nothing does.
        usage: a report of :func:`~jumpstart_kernels.unit_usage` with ``dormancy=True``, or what
            :func:`~jumpstart_kernels.watch` returns (anything that has ``report()`` and ``reset()``).
        tau: units whose dormancy is at most this are dormant; 0 for those that are always 0. Reports count
            them at 0.025.
        status: ``"dormant"``, or ``"dead"``: units of a ReLU whose pre-activation is never positive, and of
            GELU, tanh and their like if they are saturated on all data, at any constant.
        keep_mean: whether biases take the mean of what is recycled; a batch norm that follows a layer without
            bias takes it into its running mean. At the border of a convolution that pads with zeros it is not
            exact.
        optimizer_state: what becomes of what the optimizer keeps of the weights that start anew. Momentum is
            zeroed in all cases. ``"mean"``: means of squared gradients get those of the same tensor's other
            units, so that the first steps are as large as theirs, and no other unit is concerned. ``"zero"``:
            they are zeroed, too; Adam then makes first steps of 3.2 times the learning rate. ``"restart"``:
            also the number of steps is, which is that of the whole parameter: first steps are of the learning
            rate itself, but those of all other units of the same parameters become smaller for a while.
        initialize: called with a new layer of the same shape (on the CPU), of which the units get their
            weights and biases; by default PyTorch's initialization, the layer's ``reset_parameters``.
        generator: draws the fresh weights and leaves PyTorch's own generator as it is; by default that of the
            CPU draws them.
        example_inputs: a tensor, or a tuple of the arguments of the forward: they tell shapes, without which
            some flattening cannot be followed. No forward is computed.

    Returns:
        What has been recycled, and what not.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is none of those allowed; ``usage`` has no dormancy scores or means, or knows
            layers that the model does not have; the model is sharded, on the meta device, or cannot be
            traced; the optimizer has none of its parameters. Nothing has been changed then.
    """
    check_options(tau, status, keep_mean, optimizer_state, initialize, generator)
    unwrapped = unwrap(model)
    inner, group = unwrapped.model, unwrapped.group
    optimizers = check_optimizers(optimizer, inner)
    device = next((each.device for each in inner.parameters()), torch.device("cpu"))
    if not all_ranks(bool(getattr(usage, "full", True)), group, device):
        return RecycleReport({}, {}, {}, {}, {}, 0, 0, 0, waiting=True)
    report = report_of(usage)
    wanted = request(unwrapped, report, status, tau, keep_mean)
    ways = Ways(inner, _graphs_of(inner, example_inputs), wanted.names)
    wanted = wanted._replace(units=agree(wanted.units, group, device))
    measured = average(measure(report, wanted.modules, wanted.units), group, device)
    choice = choose(
        inner,
        ways,
        {name: wanted.units[layer] for name, layer in wanted.names.items()},
        {name: measured[layer] for name, layer in wanted.names.items()},
        lambda way: _untrained(inner, way, optimizers),
        keep_mean,
    )
    with drawing_from(generator):
        edits = Edits(inner, ways, choice, keep_mean, initialize)
    states = restart(optimizers, edits.regions, optimizer_state)
    agreed = [each._replace(values=take_first(each.values, group)) for each in edits.edits]
    write([*agreed, *states.edits])
    write_scalars(states)
    warn_of(states.notes)
    if not isinstance(usage, UsageReport):
        usage.reset()
    criterion = "dead" if status == "dead" else f"dormant at τ = {tau:g}"
    return _described(choice, edits, wanted, ways, criterion, tuple(dict.fromkeys(states.notes)))


def _graphs_of(model: nn.Module, example_inputs: Any) -> list[fx.Graph]:
    try:
        graphs = trace_calls(model, example_inputs)
    except Untraceable as reason:
        hint = "example_inputs may tell how it is called, or " if example_inputs is None else ""
        raise ValueError(
            f"model cannot be traced: {reason}; {hint}recycle those of its parts that can be, each by a "
            "report of its own"
        ) from reason
    return [graphs[0], *graphs[2:], graphs[1]]  # the last one is of eval()


def _untrained(model: nn.Module, way: Way, optimizers: Sequence[Optimizer]) -> str:
    """Which parameter of a unit would keep it from growing into use; "" if none does."""
    trained = {id(p) for each in optimizers for group in each.param_groups for p in group["params"]}
    for name, parameter in parameters_of(model, way).items():
        if not parameter.requires_grad:
            return f"{name} is frozen"
        if optimizers and id(parameter) not in trained:
            return f"{name} is not in the optimizer"
    return ""


def _described(
    choice: Choice, edits: Edits, wanted: Request, ways: Ways, criterion: str, notes: tuple[str, ...]
) -> RecycleReport:
    recycled, left = {}, {}
    for name, layer in wanted.names.items():
        recycled[layer] = choice.recycled[name]
        left[layer] = dict(choice.left[name] + wanted.left.get(layer, Counter()))
    effects = torch.cat([torch.empty(0, dtype=torch.int64), *edits.effects.values()])
    return RecycleReport(
        units={layer: len(wanted.units[layer]) for layer in recycled},
        found={layer: len(recycled[layer]) + sum(left[layer].values()) for layer in recycled},
        recycled=recycled,
        left=left,
        by_layer={ways.ways[layer].layer: units for layer, units in choice.units.items()},
        unchanged=int((effects == UNCHANGED).sum()),
        on_average=int((effects == ON_AVERAGE).sum()),
        changed=int((effects == CHANGED).sum()),
        criterion=criterion,
        notes=notes,
    )
