"""Which layers make a set of units that can only be removed together, and which layers read it.

A residual sum joins the units of its operands: they are one set, made by several layers.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import fx, nn

from jumpstart_kernels.nn import JumpstartReLU
from jumpstart_kernels.nn.linked import LinkedActivation, LinkedReLU
from jumpstart_kernels.surgery.flow.calls import Outcome, Values, is_unit_dim, shape_of
from jumpstart_kernels.surgery.flow.layers import (
    is_linear,
    is_matrix_layer,
    norm_dims,
    obstacles,
)
from jumpstart_kernels.surgery.flow.nodes import called_module, is_relu_call
from jumpstart_kernels.surgery.flow.rules import Rules, columns_per_unit
from jumpstart_kernels.surgery.flow.units import Value


class Reader(NamedTuple):
    """A layer that has columns for each channel of a tensor."""

    layer: str
    value: Value  # the channels of its input
    factor: int  # columns of its matrix for each channel
    node: str  # of its call


class Site(NamedTuple):
    """An activation at which the units of a set are seen."""

    node: str  # of its call
    value: Value  # the channels of its input
    linked: bool


@dataclass(eq=False)
class UnitSet:
    """Units that can only be removed together, each by its number in the layers that make it."""

    producers: list[str]
    size: int
    obstacle: str = ""  # why none can be removed
    sites: list[Site] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    norms: dict[str, Value] = field(default_factory=dict)
    depthwise: list[str] = field(default_factory=list)  # those of the producers that are
    input: Value | None = None  # the channels that the first producer reads
    node: str = ""  # of that layer's call

    @property
    def name(self) -> str:
        return self.producers[0]


class Structure:
    """The unit sets of a model, in the order in which its forward makes them.

    Args:
        model: any module.
        graphs: its traces, with shapes; the last one is the one to go by.
    """

    def __init__(self, model: nn.Module, graphs: list[fx.Graph]) -> None:
        self._model = model
        self._names = {module: name for name, module in model.named_modules()}
        self._blocked = obstacles(model, graphs)
        self._reasons: dict[Any, str] = {}  # why the units of a layer cannot be removed
        self._classes: dict[Any, set[Any]] = {}
        self.graph = graphs[-1]
        layouts: dict[nn.Module, set[Any]] = {}
        for graph in graphs:
            values = self._follow(graph)
            calls: dict[nn.Module, int] = {}
            for node in graph.nodes:
                module = called_module(self._model, node)
                if module is not None and (is_matrix_layer(module) or norm_dims(module) is not None):
                    value = _input_of(node, values)
                    calls[module] = calls.get(module, 0) + 1
                    layout = None if value is None else _layout(module, value)
                    layouts.setdefault(module, set()).add(layout)
                    if calls[module] > 1 or len(layouts[module]) > 1:
                        reason = f"{self._names[module]} is called several times, or in several ways"
                        self._fix({module} | (set() if value is None else value.widths), reason)
        for module in layouts.keys() - calls.keys():
            read = {width for layout in layouts[module] if layout is not None for width in layout[1]}
            self._fix(read | {module}, f"{self._names[module]} works on them, which does not run in eval()")
        self.values = values
        self.sets = self._sets()

    def set_of(self, width: nn.Module | None) -> "UnitSet | None":
        """The set to which the units of a layer belong."""
        return self._set_of.get(width)

    def makes(self, value: Value) -> bool:
        """Whether all channels of a tensor are units of known sets."""
        return all(self.set_of(run.width) is not None for run in value.runs)

    def _follow(self, graph: fx.Graph) -> Values:
        rules = _Rules(self._blocked, self._names)
        values: Values = {}
        for node in graph.nodes:
            outcome = rules.apply(node, called_module(self._model, node), values)
            values[node] = outcome.value
            if outcome.flattens:
                value = _input_of(node, values)
                self._fix(set() if value is None else value.widths, "a view of fixed sizes flattens them")
            self._fix(outcome.fixed, outcome.refusal or "its groups must stay as they are")
            for widths in outcome.same:
                self._join(widths)
        return values

    def _fix(self, widths: Iterable[Any], reason: str) -> None:
        for width in widths:
            self._reasons.setdefault(width, reason)

    def _join(self, widths: set[Any]) -> None:
        joined = set(widths).union(*(self._classes.get(width, {width}) for width in widths))
        self._classes.update((width, joined) for width in joined)

    def _sets(self) -> list[UnitSet]:
        self._set_of: dict[Any, UnitSet] = {}
        self.readers: dict[str, Reader] = {}
        found: list[UnitSet] = []
        for node in self.graph.nodes:
            module: Any = called_module(self._model, node)
            if module is None or not is_matrix_layer(module):
                continue
            if module not in self._set_of:
                members = self._classes.get(module, {module})
                size = module.out_features if is_linear(module) else module.out_channels
                found.append(UnitSet([], size, self._obstacle(members), node=node.name))
                self._set_of.update((member, found[-1]) for member in members if member is not None)
            units = self._set_of[module]
            name = self._names[module]
            if name not in units.producers:
                units.producers.append(name)
                if not is_linear(module) and module.groups > 1:
                    units.depthwise.append(name)
        for node in self.graph.nodes:
            self._note_readers(node)
        for units in found:
            if not units.obstacle and not units.sites:
                units.obstacle = "no ReLU behind it shows the order of its units"
            if not units.obstacle and not units.readers:
                units.obstacle = "no layer behind it reads its units"
        return found

    def _obstacle(self, members: set[Any]) -> str:
        if None in members:
            return "it is added to units that no layer makes"
        blocked = [f"{self._names[each]}: {self._blocked[each]}" for each in members if each in self._blocked]
        reasons = [self._reasons[each] for each in members if each in self._reasons]
        return next(iter([*blocked, *reasons]), "")

    def _note_readers(self, node: fx.Node) -> None:
        module: Any = called_module(self._model, node)
        value = _input_of(node, self.values)
        if value is None:
            return
        sets = {id(each): each for width in value.widths if (each := self._set_of.get(width)) is not None}
        if module is not None and is_matrix_layer(module):
            depthwise = not is_linear(module) and module.groups > 1
            reader = Reader(self._names[module], value, columns_per_unit(module, value), node.name)
            if not reader.factor:
                return
            if not depthwise:
                self.readers[reader.layer] = reader
                for each in sets.values():
                    each.readers.append(reader)
            own = self._set_of[module]
            if own.node == node.name:
                own.input = value
        elif module is not None and norm_dims(module) is not None:
            for each in sets.values():
                each.norms[self._names[module]] = value
        elif _is_relu(node, module):
            for each in sets.values():
                each.sites.append(Site(node.name, value, isinstance(module, LinkedActivation)))


class _Rules(Rules):
    """As for linking, but linked activations are followed: each gives all units twice.

    What refuses extra units may lose none either, nor may groups.
    """

    def apply(self, node: Any, module: nn.Module | None, values: Values) -> Outcome:
        outcome = super().apply(node, module, values)
        if outcome.refusal and (outcome.value is None or not outcome.same):
            operands = [values.get(operand) for operand in node.all_input_nodes]
            read = (value.widths for value in operands if value is not None)
            return outcome._replace(fixed=outcome.fixed.union(*read))
        return outcome

    def _of_layer(self, layer: Any, value: Value | None, described: str) -> Outcome:
        outcome = super()._of_layer(layer, value, described)
        if is_linear(layer) or layer.groups == 1 or outcome.same:
            return outcome
        return outcome._replace(
            refusal=outcome.refusal or f"{described} has groups", fixed=outcome.fixed | {layer}
        )

    def _of_module(self, node: Any, module: Any, value: Value | None) -> Outcome:
        hooked = module._forward_hooks or module._forward_pre_hooks
        if hooked and not is_matrix_layer(module) and norm_dims(module) is None:
            return Outcome(refusal=f"{self._names[module]} has hooks")
        shape = shape_of(node.args[0] if node.args else None)
        known = value if isinstance(module, LinkedReLU) else None
        if known is not None and not known.scaled and is_unit_dim(module.unit_dim, known, shape):
            return Outcome(known._replace(runs=known.runs * 2))
        return super()._of_module(node, module, value)


def _input_of(node: fx.Node, values: Values) -> Value | None:
    return values.get(node.all_input_nodes[0]) if node.all_input_nodes else None


def _layout(module: nn.Module, value: Value) -> tuple[Any, ...]:
    """What the values that a layer or a norm gets in several calls must have in common."""
    scale = columns_per_unit(module, value) if is_matrix_layer(module) else value.scaled
    return (value.dim, tuple(run.size for run in value.runs), scale), tuple(run.width for run in value.runs)


def _is_relu(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return type(module) in (nn.ReLU, JumpstartReLU) or isinstance(module, LinkedReLU)
    return is_relu_call(node.op, node.target)
