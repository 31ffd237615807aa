"""Which layers can leave their bias to the activation behind them.

Every call of the layer must be followed by a call of one activation and by nothing else, and that activation
must follow nothing else. ``torch.fx`` proves it, with the forward's arguments and the module's own flags
unknown; a layer for which it cannot stays as it is.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

from torch import fx, nn

from jumpstart_kernels.nn.activation import JumpstartActivation
from jumpstart_kernels.nn.deferred_bias import DEFERRING, measured_kinds
from jumpstart_kernels.surgery.all_calls import trace_all
from jumpstart_kernels.surgery.bias_links import calls_of_modules, wrong_calls
from jumpstart_kernels.surgery.code import is_of_torch, may_reach, methods_of_class, names_in
from jumpstart_kernels.surgery.tracing import StandIn, Untraceable, submodule
from jumpstart_kernels.surgery.units import likeness

_OF_MODULES = {*vars(nn.Module()), "forward"}
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# PyTorch's own modules that call a layer and then an activation.
_PAIRS = {
    nn.TransformerEncoderLayer: {"linear1": "activation"},
    nn.TransformerDecoderLayer: {"linear1": "activation"},
}


class Move(NamedTuple):
    """A bias that can move."""

    owner: nn.Module  # whose forward calls both, or the containers that they are in
    producer: str  # paths from the owner
    activation: str


class Moves(NamedTuple):
    """What there is to move, what is left and why, and what may be moved when it is called for once."""

    found: list[Move]
    left: dict[str, str]  # names of layers to reasons
    uncalled: list[tuple[nn.Module, nn.Module]]  # (owner with a trace, layer that no trace of its calls yet)


def check_fuse_bias(fuse_bias: object) -> None:
    """Raise for anything but a bool or ``"auto"``."""
    if not isinstance(fuse_bias, (bool, str)):
        raise TypeError(f"fuse_bias must be True, False or 'auto', got {type(fuse_bias).__name__}")
    if isinstance(fuse_bias, str) and fuse_bias != "auto":
        raise ValueError(f"fuse_bias must be True, False or 'auto', got {fuse_bias!r}")


def deferring_kinds(fuse_bias: bool | str) -> Collection[type[nn.Module]]:
    """The kinds of layers that can leave their bias to an activation."""
    if fuse_bias == "auto":
        return measured_kinds()
    return tuple(DEFERRING) if fuse_bias else ()


def obstacle(layer: nn.Module) -> str:
    """What about a layer itself keeps its bias there; "" if nothing does."""
    if layer._forward_hooks or layer._forward_pre_hooks:
        return "it has hooks"
    return "its forward is set by other code" if "forward" in vars(layer) else ""


def obstacle_behind(layer: nn.Module, activation: JumpstartActivation) -> str:
    """What about an activation keeps it from adding the bias of a layer; "" if nothing does."""
    if activation._forward_hooks or activation._forward_pre_hooks:
        return "its activation has hooks, which would see its input without the bias"
    if "forward" in vars(activation):
        return "the forward of its activation is set by other code"
    expected = DEFERRING[type(layer)].unit_dim
    if activation.unit_dim != expected:
        return f"unit_dim of its activation is {activation.unit_dim}, not {expected}"
    return ""


def find_moves(
    model: nn.Module,
    activations: Iterable[JumpstartActivation],
    skipped: Collection[nn.Module],
    kinds: Collection[type[nn.Module]],
) -> Moves:
    """The biases of these kinds of layers that can move to these activations of a model."""
    moves = Moves([], {}, [])
    if not kinds:
        return moves
    finder = _Finder(model, set(activations))
    for name, layer in model.named_modules():
        if type(layer) not in kinds or layer._parameters.get("bias") is None or layer in skipped:
            continue
        try:
            found = finder.move_of(layer)
        except _Left as reason:
            if str(reason):
                moves.left[name] = str(reason)
            continue
        if isinstance(found, Move):
            moves.found.append(found)
        else:
            moves.uncalled.append((found, layer))
    return moves


class _Left(Exception):
    """Why a bias stays where it is; empty if no activation follows the layer."""


class _Finder:
    def __init__(self, model: nn.Module, activations: set[JumpstartActivation]) -> None:
        self._activations = activations
        self._names = {module: name for name, module in model.named_modules()}
        self._places: dict[nn.Module, list[tuple[nn.Module, str]]] = {}
        for parent in model.modules():
            for name, child in parent._modules.items():
                if child is not None:
                    self._places.setdefault(child, []).append((parent, name))
        self._holders: dict[nn.Module, set[nn.Module]] = {}  # in attributes that are no submodules
        for module in model.modules():
            for name, value in vars(module).items():
                for held in () if name in _OF_MODULES else _modules_in(value):
                    self._holders.setdefault(held, set()).add(module)
        self._traces: dict[Any, list[fx.Graph] | Untraceable] = {}

    def move_of(self, layer: nn.Module) -> Move | nn.Module:
        """Where the bias of a layer can go; or the module whose trace calls the layer nowhere yet.

        Raises:
            _Left: it cannot.
        """
        producers, path = [layer], ""  # the layer, and what it is the last module of
        while True:
            owner, name = self._place(producers[-1])
            path = f"{name}.{path}".rstrip(".")
            if not _is_sequence(owner):
                break
            behind = _behind(owner, name)
            if behind is not None:
                return self._checked(owner, producers, path, owner._modules[behind], behind)
            producers.append(owner)
        while isinstance(owner, (nn.ModuleList, nn.ModuleDict)) and is_of_torch(type(owner).forward):
            owner, name = self._place(owner, "the list that holds it")
            path = f"{name}.{path}"
        if is_of_torch(type(owner).forward):
            attribute = _PAIRS.get(type(owner), {}).get(path)
            if attribute is None:
                raise _Left
            return self._checked(owner, producers, path, owner._modules.get(attribute), attribute)
        if self._activations.isdisjoint(owner.modules()):
            raise _Left
        calls = [call for graph in self._graphs(owner) for call in calls_of_modules(owner, graph)]
        called = [node for node, child in calls if child is producers[-1]]
        if not called and isinstance(vars(owner).get("forward"), StandIn):
            self._check(owner, producers, [])
            return owner
        users = {user for node in called for user in node.users if user.op == "call_module"}
        for target in sorted({str(user.target) for user in users}):
            behind_it = submodule(owner, target)
            if behind_it is not None and _innermost(behind_it, "")[-1][0] in self._activations:
                return self._checked(owner, producers, path, behind_it, target)
        raise _Left

    def _checked(
        self, owner: nn.Module, producers: list[nn.Module], path: str, behind: Any, path_behind: str
    ) -> Move:
        """The move of a bias to an activation, the first module of what is behind the layer."""
        chain = _innermost(behind, path_behind)
        activation, path_of_activation = chain[-1]
        if activation not in self._activations:
            raise _Left
        self._check(owner, producers, [module for module, _ in reversed(chain)])
        self._check_methods(owner, path.partition(".")[0], path_behind.partition(".")[0])
        return Move(owner, path, path_of_activation)

    def _check_methods(self, owner: nn.Module, layer: str, activation: str) -> None:
        """Raise if a method other than the forward may call a layer without its activation."""
        traced: Any = vars(owner).get("forward")
        added = isinstance(traced, StandIn) and activation in traced.names  # which only the trace calls
        for name, method in methods_of_class(owner):
            loaded = names_in(method)
            if layer in loaded and (added or activation not in loaded):
                raise _Left(
                    f"the method {name} of {self._described(owner)} may call it without its activation"
                )

    def _place(self, module: nn.Module, called: str = "it") -> tuple[nn.Module, str]:
        """The only place of a module: what holds it, and its name there."""
        places = self._places.get(module, [])
        if len(places) != 1:
            raise _Left(f"{called} is shared" if places else "")
        return places[0]

    def _check(self, owner: nn.Module, producers: list[nn.Module], followers: list[Any]) -> None:
        """Raise if something about these modules, or a call of one of them, is in the way.

        Args:
            owner: calls the outermost of both.
            producers: the layer, then what it is the last module of.
            followers: the activation, then what it is the first module of; or nothing.
        """
        layer, tail, head = producers[0], producers[-1], followers[-1] if followers else None
        for module in followers:
            self._place(module, "its activation")
        if any(self._holders.get(module, {owner}) != {owner} for module in (*producers, *followers)):
            raise _Left("another module holds it, or what follows it, in an attribute that is no submodule")
        reasons = [obstacle(module) for module in producers]
        reasons += [obstacle_behind(layer, followers[0])] if followers else []
        reasons += ["what is behind it has hooks" for module in followers[1:] if obstacle(module)]
        if is_of_torch(type(owner).forward) and "forward" in vars(owner):
            reasons.append(f"the forward of {self._described(owner)} is set by other code")
        if reason := next(filter(None, reasons), ""):
            raise _Left(reason)
        for module in (*producers, *followers):
            for ancestor, path in self._ancestors(module):
                if is_of_torch(type(ancestor).forward) or not _may_call(ancestor, path):
                    continue
                for graph in self._graphs(ancestor):
                    called = any(child is module for _, child in calls_of_modules(ancestor, graph))
                    if called and (ancestor is not owner or module not in (tail, head)):
                        raise _Left(f"the forward of {self._described(ancestor)} calls it, too")
                    wrong = wrong_calls(ancestor, graph, tail, head)
                    if wrong and ancestor is owner:
                        raise _Left(wrong)

    def _ancestors(self, module: nn.Module) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
        """All modules above a module, with its path from there."""
        queue: list[tuple[nn.Module, tuple[str, ...]]] = [(module, ())]
        seen = set()
        while queue:
            below, path = queue.pop()
            for parent, name in self._places.get(below, []):
                found = (parent, (name, *path))
                if found not in seen and len(path) < 100:  # a module may be inside itself
                    seen.add(found)
                    queue.append(found)
                    yield found

    def _graphs(self, module: nn.Module) -> list[fx.Graph]:
        """The traces of a forward of the user's for all its modes and calls."""
        forward = vars(module).get("forward")
        if isinstance(forward, StandIn):
            return list(forward.graphs.values())
        key = tuple((name, likeness(child)) for name, child in module.named_modules())
        if key not in self._traces:
            try:
                self._traces[key] = trace_all(module)
            except Untraceable as reason:
                self._traces[key] = reason
        traces = self._traces[key]
        if isinstance(traces, Untraceable):
            raise _Left(f"the forward of {self._described(module)} cannot be followed: {traces}")
        return traces

    def _described(self, module: nn.Module) -> str:
        return self._names[module] or f"the {type(module).__name__}"


def _modules_in(value: Any, depth: int = 2) -> Iterator[nn.Module]:
    """The modules that an attribute which is no submodule leads to."""
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, (list, tuple, set, frozenset, dict)) and depth:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _modules_in(item, depth - 1)


def _is_sequence(module: nn.Module) -> bool:
    """Whether a module calls its children in turn."""
    return isinstance(module, nn.Sequential) and is_of_torch(type(module).forward)


def _behind(sequence: nn.Module, name: str) -> str | None:
    """The name of the module behind the one of this name."""
    names = list(sequence._modules)
    return next(iter(names[names.index(name) + 1 :]), None)


def _innermost(module: Any, path: str) -> list[tuple[Any, str]]:
    """A module, its first child if it is a sequence, and so on, with their paths."""
    chain = [(module, path)]
    while _is_sequence(module) and module._modules:
        name, module = next(iter(module._modules.items()))
        path = f"{path}.{name}"
        chain.append((module, path))
    return chain


def _may_call(ancestor: nn.Module, path: tuple[str, ...]) -> bool:
    """Whether the forward of a module can call the module at a path from it."""
    below = ancestor
    for name in path[:-1]:
        inner = below._modules[name]
        assert inner is not None  # the path leads through it
        below = inner
        if not (isinstance(below, _CONTAINERS) and is_of_torch(type(below).forward)):
            break
    else:
        return True
    named = [index for index, name in enumerate(path) if name.isidentifier()]
    return not named or named[-1] == 0 or may_reach(ancestor, path[named[-1]])
