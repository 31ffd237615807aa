"""Where the units of each layer go, over all traces of a model: activations, norms, layers that read them.

A unit can only be recycled if all that reads it sees it behind an activation of the report.
"""

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import fx, nn

from jumpstart_kernels.nn.linked import LinkedActivation
from jumpstart_kernels.surgery.flow.calls import Outcome, Values, name_of_call, words
from jumpstart_kernels.surgery.flow.layers import is_linear, is_matrix_layer, norm_dims, obstacles
from jumpstart_kernels.surgery.flow.nodes import called_module, is_inplace
from jumpstart_kernels.surgery.flow.rules import Rules, columns_per_unit
from jumpstart_kernels.surgery.flow.units import Value

_WITHOUT_UNITS = words(
    "size dim ndim dtype device shape is_cuda get_device is_floating_point requires_grad layout"
)
_OVERWRITTEN = words(
    "relu relu_ leaky_relu leaky_relu_ elu elu_ selu_ celu_ silu dropout dropout1d dropout2d"
)


Layout = tuple[Any, ...]
"""What a layer or a norm reads: the layers that make its channels, how many each, and how many columns."""


class Flow(NamedTuple):
    """One trace of a model, and what is known of its tensors."""

    graph: fx.Graph
    values: Values
    outcomes: dict[fx.Node, Outcome]
    sites: dict[fx.Node, str]
    """The activations of the report, by their call, as the report names them."""
    calls: Counter[nn.Module]


class Read(NamedTuple):
    """What a layer has of the units of another one."""

    offsets: tuple[int, ...]  # of the units among the channels that it reads: each copy of them
    factor: int  # columns of its matrix for each channel
    node: fx.Node  # of its call, in the last trace that has it


@dataclass(eq=False)
class Way:
    """Where the units of a layer go."""

    layer: str
    obstacle: str = ""
    """Why none of them can be recycled."""
    sites: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """The first activations of the report, with the offsets of the units among their channels."""
    norms: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Likewise, of norms in front of an activation or behind it."""
    readers: dict[str, Read] = field(default_factory=dict)


def offsets_of(value: Value, layer: nn.Module) -> tuple[int, ...]:
    """Where the units of a layer start among the channels of a tensor: each copy of them."""
    found, start = [], 0
    for run in value.runs:
        if run.width is layer:
            found.append(start)
        start += run.size
    return tuple(found)


def input_of(node: fx.Node) -> fx.Node | None:
    """The tensor that a module is called with."""
    first = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
    return first if isinstance(first, fx.Node) else None


class Ways:
    """The ways of all layers of a model.

    Args:
        model: any module.
        graphs: its traces, the last one the one to go by.
        layers: the activations of the report, each by the name of its module, with ``#k`` for the k-th call.
    """

    def __init__(self, model: nn.Module, graphs: list[fx.Graph], layers: Container[str]) -> None:
        self._model = model
        self._names = {module: name for name, module in model.named_modules()}
        self._blocked = obstacles(model, graphs)
        self.flows = [self._follow(graph, layers) for graph in graphs]
        self._layouts = self._find_layouts()
        self.ways: dict[nn.Module, Way] = {}
        for flow in self.flows:
            for node in flow.graph.nodes:
                module = called_module(model, node)
                if module is not None and is_matrix_layer(module):
                    way = self.ways.setdefault(module, Way(self._names[module], self._own_obstacle(module)))
                    self._walk(module, way, flow, node)

    def cause_before(self, flow: Flow, node: fx.Node) -> str:
        """Why the units that a node gets are not known: its maker says, or what hides them."""
        cause = ""
        seen, todo = {node}, [node]
        for each in todo:
            for source in each.all_input_nodes:
                module = called_module(self._model, source)
                if module in self.ways and self.ways[module].obstacle:
                    return self.ways[module].obstacle
                if refusal := flow.outcomes[source].refusal:
                    cause = cause or (refusal if module is None else f"they pass {self._described(module)}")
                if source not in seen and module not in self.ways:
                    seen.add(source)
                    todo.append(source)
        return cause or "they are no units of a layer"

    def _follow(self, graph: fx.Graph, layers: Container[str]) -> Flow:
        rules = Rules({}, self._names)
        flow = Flow(graph, {}, {}, {}, Counter())
        for node in graph.nodes:
            module = called_module(self._model, node)
            outcome = flow.outcomes[node] = rules.apply(node, module, flow.values)
            flow.values[node] = outcome.value
            if module is not None:
                flow.calls[module] += 1
                name, call = self._names[module], flow.calls[module]
                name = name if call == 1 else f"{name}#{call}"
                if name in layers:
                    flow.sites[node] = name
        return flow

    def _find_layouts(self) -> dict[nn.Module, set[Layout | None]]:
        """All that each layer and norm reads, in any trace; None where that is not known."""
        found: dict[nn.Module, set[Layout | None]] = {}
        for flow in self.flows:
            for node in flow.graph.nodes:
                module = called_module(self._model, node)
                if module is not None and (is_matrix_layer(module) or norm_dims(module) is not None):
                    source = input_of(node)
                    value = None if source is None else flow.values[source]
                    layout = None if value is None else tuple((run.width, run.size) for run in value.runs)
                    found.setdefault(module, set()).add(layout)
        return found

    def _own_obstacle(self, layer: Any) -> str:
        if layer in self._blocked:
            return f"{self._names[layer]}: {self._blocked[layer]}"
        return "" if is_linear(layer) or layer.groups == 1 else f"{self._names[layer]} has groups"

    def _walk(self, layer: nn.Module, way: Way, flow: Flow, start: fx.Node) -> None:
        """Follow the units of a layer from its call to where they are read."""
        if flow.calls[layer] > 1:
            way.obstacle = way.obstacle or f"{way.layer} is called several times"
        seen = {(start, False)}
        todo = [(start, False)]
        while todo and not way.obstacle:
            node, behind = todo.pop()
            for user in node.users:
                goes_on, now_behind = self._pass(layer, way, flow, node, user, behind)
                if goes_on and (user, now_behind) not in seen:
                    seen.add((user, now_behind))
                    todo.append((user, now_behind))

    def _pass(
        self, layer: nn.Module, way: Way, flow: Flow, node: fx.Node, user: fx.Node, behind: bool
    ) -> tuple[bool, bool]:
        """Note what a node does with the units. Returns whether they go on, and behind an activation."""
        module = called_module(self._model, user)
        if user.op == "output":
            way.obstacle = "the model returns them"
        elif module is None:
            return self._passes_call(layer, way, flow, user), behind
        elif input_of(user) is not node or len(user.all_input_nodes) > 1:
            way.obstacle = f"{self._described(module)} takes several tensors"
        elif is_matrix_layer(module):
            self._note_reader(layer, way, flow, node, user, behind)
        else:
            way.obstacle = way.obstacle or self._obstacle_in(layer, module, flow, node, user)
            if way.obstacle:
                return False, behind
            value = flow.values[node]
            assert value is not None
            offsets = offsets_of(value, layer)
            if norm_dims(module) is not None:
                self._note(way, way.norms, self._names[module], offsets)
            site = flow.sites.get(user)
            if site is not None and not behind:
                self._note(way, way.sites, site, offsets)
            return True, behind or site is not None
        return False, behind

    def _obstacle_in(self, layer: nn.Module, module: Any, flow: Flow, node: fx.Node, user: fx.Node) -> str:
        """What about a module that is no layer with a matrix keeps units from being followed through it."""
        described, value = self._described(module), flow.values[user]
        if isinstance(module, LinkedActivation):
            return f"{described} is linked"
        if _has_foreign_hooks(module):
            return f"{described} has hooks"
        if norm_dims(module) is not None:
            if module in self._blocked:
                return f"{described}: {self._blocked[module]}"
            if flow.calls[module] > 1:
                return f"{described} is called several times"
            if len(self._layouts[module]) > 1:
                return f"{described} gets others in another mode or call"
            if isinstance(module, nn.GroupNorm) and module.num_groups < module.num_channels:
                return f"{described} normalizes them together with others"
        if value is None or layer not in value.widths:
            return f"{described} may mix them with others"
        source = flow.values[node]
        if user in flow.sites and source is not None and source.scaled:
            return f"they are flattened in front of {described}"
        return ""

    def _passes_call(self, layer: nn.Module, way: Way, flow: Flow, user: fx.Node) -> bool:
        name, outcome = name_of_call(user), flow.outcomes[user]
        asked = user.args[1] if name == "getattr" else name
        if asked in _WITHOUT_UNITS:
            return False
        joined = set[Any]().union(*outcome.same)
        if len(joined) > 1 and layer in joined:
            others = sorted(self._names[each] for each in joined - {layer} if each is not None)
            way.obstacle = f"{name} joins them with those of {', '.join(others) or 'no layer'}"
        elif outcome.refusal or outcome.value is None or layer not in outcome.value.widths:
            way.obstacle = outcome.refusal or f"{name} is no call that it can follow"
        elif is_inplace(self._model, user) and name not in _OVERWRITTEN:
            way.obstacle = f"{name} overwrites them"
        return not way.obstacle

    def _note_reader(
        self, layer: nn.Module, way: Way, flow: Flow, node: fx.Node, user: fx.Node, behind: bool
    ) -> None:
        reader: Any = called_module(self._model, user)
        name, value = self._names[reader], flow.values[node]
        assert value is not None
        factor = columns_per_unit(reader, value)
        if own := self._own_obstacle(reader):
            way.obstacle = f"it is read by {own}" if reader not in self._blocked else own
        elif not factor:
            way.obstacle = f"{name} reads them, and it does not see how"
        elif len(self._layouts[reader]) > 1:
            way.obstacle = f"{name}, which reads them, reads others in another mode or call"
        elif not behind:
            way.obstacle = f"{name} reads them where they have passed no activation of the report"
        elif flow.calls[reader] > 1:
            way.obstacle = f"{name}, which reads them, is called several times"
        else:
            read = Read(offsets_of(value, layer), factor, user)
            known = way.readers.setdefault(name, read)
            if known[:2] != read[:2]:
                way.obstacle = f"{name} reads them in several ways"
            way.readers[name] = read

    def _note(self, way: Way, found: dict[str, tuple[int, ...]], name: str, offsets: tuple[int, ...]) -> None:
        if found.setdefault(name, offsets) != offsets:
            way.obstacle = f"{name} sees them in several ways"

    def _described(self, module: nn.Module) -> str:
        return f"{self._names[module]} ({type(module).__name__})"


def _has_foreign_hooks(module: nn.Module) -> bool:
    """Whether other code than this package's, which only watches, sees the calls of a module."""
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    package = __name__.partition(".")[0]
    return bool(module._backward_hooks or module._backward_pre_hooks) or any(
        (getattr(getattr(hook, "func", hook), "__module__", None) or "").partition(".")[0] != package
        for hook in hooks
    )
