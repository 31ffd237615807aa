"""What ``link_relu`` changes in a model, found without changing it.

Units are followed through the traces of the whole model, with all candidates linked. What that shows to be
impossible or of no use is taken out, and they are followed again, until nothing more is.
"""

from typing import Any, NamedTuple

from torch import fx, nn

from jumpstart_kernels.surgery.flow.calls import Outcome, Values
from jumpstart_kernels.surgery.flow.layers import (
    is_linear,
    is_matrix_layer,
    norm_dims,
    obstacles,
)
from jumpstart_kernels.surgery.flow.nodes import called_module, is_inplace
from jumpstart_kernels.surgery.flow.rules import Rules, factor_of
from jumpstart_kernels.surgery.flow.trace import operands_of
from jumpstart_kernels.surgery.flow.units import Value
from jumpstart_kernels.surgery.linking.edits import Edits, Flatten, Narrow, Site
from jumpstart_kernels.surgery.linking.sites import (
    Group,
    group_of,
    obstacle_to_linking,
    overwritten_and_read,
)


class Widening(NamedTuple):
    """A layer, or a norm, and the units that it gets."""

    layer: nn.Module
    value: Value
    factor: int  # columns of its matrix for each unit


class Plan(NamedTuple):
    """What is changed, and what is not."""

    linked: dict[Group, int]  # with the dimension of their units
    edits: Edits
    left: dict[Group, str]  # with the reason
    narrowed: dict[str, int]  # why a consumer gets the units of the plain model alone, and how often
    same: list[set[Any]]  # widths that have to stay equal
    fixed: set[Any]  # and those that have to stay as they are
    before_linked: set[Any]  # the widths of the units of linked activations
    blocked: dict[nn.Module, str]  # layers that stay as they are
    inputs: dict[nn.Module, Value | None]  # of all layers and norms


def make_plan(model: nn.Module, graphs: list[fx.Graph], skipped: set[nn.Module]) -> Plan:
    """The plan for the traces of a model, one for each mode and call."""
    return _Planner(model, graphs, skipped).plan()


class _Pass:
    """What one pass over all traces has found."""

    def __init__(self) -> None:
        self.dims: dict[Group, set[int]] = {}
        self.inputs: dict[nn.Module, list[Value | None]] = {}
        self.useful: set[Group] = set()
        self.narrows: list[Narrow] = []
        self.views: list[Flatten] = []
        self.outcomes: list[Outcome] = []
        self.refused: dict[Group, str] = {}
        self.widths: set[Any] = set()  # of the units of linked activations


class _Planner:
    def __init__(self, model: nn.Module, graphs: list[fx.Graph], skipped: set[nn.Module]) -> None:
        self._model = model
        self._graphs = graphs
        self._names = {module: name for name, module in model.named_modules()}
        self._edits = Edits(model, graphs, skipped)
        self._blocked = obstacles(model, graphs, skipped)
        self._left: dict[Group, str] = {}
        self._groups: dict[fx.Node, Group] = {}
        for graph in graphs:
            for node in graph.nodes:
                group = group_of(model, node)
                if group is not None:
                    self._groups[node] = group
                    self._examine(node, group, skipped)

    def plan(self) -> Plan:
        while True:
            found = self._pass()
            if self._refuse(found.refused) or self._block_ambiguous(found):
                continue
            self._edits.find(self._linked_nodes(), found.narrows, found.views)
            if self._refuse(self._edits.refused) or self._refuse(self._useless(found)):
                continue
            return self._result(found)

    def _examine(self, node: fx.Node, group: Group, skipped: set[nn.Module]) -> None:
        reason = obstacle_to_linking(self._model, group, skipped)
        if not reason and overwritten_and_read(self._model, node):
            reason = "it works in place, and what it overwrites is read behind it"
        if reason:
            self._left.setdefault(group, reason)

    def _linked_nodes(self) -> list[Site]:
        return [Site(node, group) for node, group in self._groups.items() if group not in self._left]

    def _pass(self) -> _Pass:
        found = _Pass()
        rules = Rules(self._blocked, self._names)
        for graph in self._graphs:
            values: Values = {}
            for node in graph.nodes:
                values[node] = self._follow(node, values, rules, found)
        for group, dims in found.dims.items():
            if len(dims) > 1:
                found.refused[group] = "its calls have their units in different dimensions"
        return found

    def _follow(self, node: fx.Node, values: Values, rules: Rules, found: _Pass) -> Value | None:
        """The units of a node."""
        group = self._groups.get(node)
        if group is not None and group not in self._left:
            value = values.get(node.all_input_nodes[0])
            if value is None or len(node.all_input_nodes) > 1:
                found.refused[group] = "it does not see which layer before it determines its units"
                return None
            found.dims.setdefault(group, set()).add(value.dim)
            found.widths |= value.widths
            return value.linked(group)
        module = called_module(self._model, node)
        outcome = rules.apply(node, module, values)
        found.outcomes.append(outcome)
        if outcome.flattens:
            found.views.append(Flatten(node, values[operands_of(node)[0]]))
        narrowed = False
        for operand in node.all_input_nodes if outcome.refusal else ():
            value = values.get(operand)
            if value is not None and value.sources:
                narrowed = True
                found.narrows.append(Narrow(node, operand, value, outcome.refusal))
                written = is_inplace(self._model, node) and operand is node.all_input_nodes[0]
                if written and len(operand.users) > 1:
                    reason = f"behind it {outcome.refusal}, which works in place"
                    found.refused.update((source, reason) for source in value.sources)
        if module is not None and (is_matrix_layer(module) or norm_dims(module) is not None):
            value = values.get(node.all_input_nodes[0]) if node.all_input_nodes else None
            if value is not None and (narrowed or outcome.refusal):
                value = value.narrowed()
            found.inputs.setdefault(module, []).append(value)
            if value is not None and is_matrix_layer(module):
                found.useful |= value.sources
        if narrowed and outcome.value is not None:
            assert not outcome.value.sources
        return outcome.value

    def _refuse(self, groups: dict[Group, str]) -> bool:
        """Leave these as they are; whether that is new."""
        new = {group: reason for group, reason in groups.items() if group not in self._left}
        self._left.update(new)
        return bool(new)

    def _block_ambiguous(self, found: _Pass) -> bool:
        """Leave layers as they are that are called on units of different kinds; whether there are any."""
        new = False
        for layer, values in found.inputs.items():
            layouts = {None if value is None else value.layout for value in values}
            linked = any(value is not None and value.sources for value in values)
            if linked and len(layouts) > 1 and layer not in self._blocked:
                self._blocked[layer] = "it is called on linked units and on others"
                new = True
        return new

    def _useless(self, found: _Pass) -> dict[Group, str]:
        """Those behind which no layer can be widened."""
        reasons: dict[Group, list[str]] = {}
        for narrow in found.narrows:
            for source in narrow.value.sources:
                reasons.setdefault(source, []).append(narrow.reason)
        useless = {}
        for group in dict.fromkeys(self._groups.values()):
            if group not in self._left and group not in found.useful:
                listed = dict.fromkeys(reasons.get(group, ["nothing is behind it"]))
                useless[group] = "no layer behind it can be widened: " + "; ".join(listed)
        return useless

    def _result(self, found: _Pass) -> Plan:
        linked = {group: dims.pop() for group, dims in found.dims.items() if group not in self._left}
        inputs = {layer: values[0] for layer, values in found.inputs.items()}
        narrowed: dict[str, int] = {}
        for narrow in found.narrows:
            narrowed[narrow.reason] = narrowed.get(narrow.reason, 0) + 1
        same = [widths for outcome in found.outcomes for widths in outcome.same]
        fixed = set[Any]().union(*(outcome.fixed for outcome in found.outcomes))
        for values in found.inputs.values():
            if len({None if value is None else value.layout for value in values}) > 1:
                fixed.update(*(value.widths for value in values if value is not None))
        for view in found.views:
            if view.value is not None and not view.value.sources:  # it keeps its sizes
                fixed |= view.value.widths
        left, blocked = dict(self._left), self._blocked
        return Plan(linked, self._edits, left, narrowed, same, fixed, found.widths, blocked, inputs)


def widenings(plan: Plan) -> list[Widening]:
    """The layers with extra units."""
    return [
        Widening(layer, value, factor_of_layer(layer, value))
        for layer, value in plan.inputs.items()
        if value is not None and value.sources
    ]


def factor_of_layer(layer: Any, value: Value) -> int:
    """How many columns of its matrix a layer has for each unit; 1 for a norm."""
    if norm_dims(layer) is not None:
        return 1
    return factor_of(value, layer.in_features if is_linear(layer) else layer.in_channels)
