"""Which layers of a model are set, and with which of them units come in pairs, found without changing it."""

from typing import Any, NamedTuple

from torch import fx, nn
from torch.nn.utils import parametrize

from jumpstart_kernels.initialization.effects import effect_of
from jumpstart_kernels.initialization.following import Follower, PairRules, outcomes_of
from jumpstart_kernels.initialization.weights import Reading
from jumpstart_kernels.nn.linked import LinkedActivation
from jumpstart_kernels.surgery.flow.layers import is_linear, is_matrix_layer, is_transposed, obstacles
from jumpstart_kernels.surgery.flow.nodes import called_module


class Plan(NamedTuple):
    """What is set, and what is known of the model then."""

    readings: dict[nn.Module, Reading]  # of the layers that are set
    unpaired: dict[nn.Module, str]  # those of them whose units are no pairs, with the reason
    left: dict[nn.Module, str]  # layers that stay as they are, with the reason
    notes: dict[str, int]  # why the model is no linear function, and how often


def make_plan(model: nn.Module, graphs: list[fx.Graph], skipped: set[nn.Module]) -> Plan:
    """The plan for the traces of a model, one for each mode and call."""
    return _Planner(model, graphs, skipped).plan()


class _Planner:
    def __init__(self, model: nn.Module, graphs: list[fx.Graph], skipped: set[nn.Module]) -> None:
        self._model = model
        self._graphs = graphs
        self._names = {module: name for name, module in model.named_modules()}
        blocked = obstacles(model, graphs, skipped)
        called = {called_module(model, node) for graph in graphs for node in graph.nodes}
        self._left: dict[nn.Module, str] = {}
        self._settable: list[Any] = []
        for module in model.modules():
            reason = "it is skipped" if module in skipped else _why_left(module, blocked, called)
            if reason:
                self._left[module] = reason
            elif reason is not None:
                self._settable.append(module)
        rules = PairRules(blocked, self._names)
        self._outcomes = [outcomes_of(model, graph, rules) for graph in graphs]

    def plan(self) -> Plan:
        lost: dict[Any, str] = {}
        while True:
            unpaired = self._find_unpaired(lost)
            paired = {layer for layer in self._settable if layer not in unpaired}
            follower = Follower(self._model, self._left, paired)
            for graph, outcomes in zip(self._graphs, self._outcomes, strict=True):
                follower.follow(graph, outcomes)
            # Pairs that nobody reads as such are the same units twice.
            unread = (follower.lost.keys() & paired) - follower.read
            if not unread:
                break
            lost |= {layer: f"its pairs would not get past {follower.lost[layer]}" for layer in unread}
        readings = {layer: Reading(follower.read_by(layer), layer in paired) for layer in self._settable}
        return Plan(readings, unpaired, self._left, follower.notes)

    def _find_unpaired(self, lost: dict[Any, str]) -> dict[nn.Module, str]:
        """The layers whose units cannot be pairs, or need not, beside those that are known to lose them."""
        activated: set[Any] = set()
        tied: dict[Any, set[Any]] = {}
        for graph, outcomes in zip(self._graphs, self._outcomes, strict=True):
            for node in graph.nodes:
                for widths in outcomes[node].same:
                    joined = set(widths).union(*(tied.get(width, {width}) for width in widths))
                    tied.update((width, joined) for width in joined)
                module = called_module(self._model, node)
                if not _is_layer(module) and effect_of(node, module).splits:
                    value = outcomes[_operand(node)].value
                    activated |= set() if value is None else value.widths
        odd = [layer for layer in self._settable if layer.weight.shape[0] % 2]
        found = lost | {layer: f"its {layer.weight.shape[0]} units are an odd number" for layer in odd}
        for layer in self._settable:
            members = tied.get(layer, {layer})
            others = [each for each in members if each not in self._settable or each in odd or each in lost]
            if activated.isdisjoint(members):
                found[layer] = "no ReLU follows its units"
            elif others and layer not in found:
                names = sorted(
                    "what no layer makes" if each is None else self._names[each] for each in others
                )
                found[layer] = f"its units meet those of {names[0]}, which are no pairs"
        return found


def _operand(node: fx.Node) -> Any:
    return node.all_input_nodes[0]


def _is_layer(module: nn.Module | None) -> bool:
    return module is not None and (is_matrix_layer(module) or isinstance(module, LinkedActivation))


def _why_left(module: Any, blocked: dict[nn.Module, str], called: set[nn.Module | None]) -> str | None:
    """Why a layer cannot be set; "" if it can, None of what is no layer."""
    if parametrize.is_parametrized(module):
        return "it is parametrized"
    if not is_matrix_layer(module):
        if isinstance(module, parametrize.ParametrizationList):
            return None
        matrices = [each for each in module._parameters.values() if each is not None and each.dim() > 1]
        return "it is no layer of a kind that it knows" if matrices else None
    if reason := blocked.get(module):
        return reason
    if is_transposed(module):
        return "it is transposed"
    if not is_linear(module) and module.groups > 1:
        return "it has groups"
    if not module.weight.is_floating_point():
        return f"its dtype is {module.weight.dtype}"
    if module.weight.numel() == 0:
        return "it has no weights"
    return "" if module in called else "the traces of the model do not call it"
