"""What linking changes in the forwards of modules, and whether it can."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import fx, nn

from jumpstart_kernels.surgery.flow.trace import OUTPUT, Frame, operands_of, place_of, trace_own
from jumpstart_kernels.surgery.flow.units import Part, Run, Value, parts_of
from jumpstart_kernels.surgery.linking.sites import Group
from jumpstart_kernels.surgery.tracing import Untraceable

Key = tuple[Any, ...]
"""Of a call of a forward: the module's training flag and the pattern of the arguments."""


class Site(NamedTuple):
    """A node that becomes a linked activation."""

    node: fx.Node
    group: Group


class Narrow(NamedTuple):
    """A node that gets an operand without its extra units."""

    node: fx.Node
    operand: fx.Node
    value: Value
    reason: str


class Flatten(NamedTuple):
    """A view of fixed sizes that becomes ``flatten(1)``."""

    node: fx.Node
    value: Value | None


class Recipe(NamedTuple):
    """What changes in the trace of one call of a forward; its events are numbered."""

    signature: tuple[str, ...]  # the calls that the trace must make
    links: dict[int, int]  # event: which of the forward's activations it is
    narrows: tuple[tuple[int, int, int, tuple[Part, ...], bool], ...]  # event, operand, of plain_units
    flattens: tuple[int, ...]


class Edits:
    """The edits of all forwards of a model."""

    def __init__(self, model: nn.Module, graphs: list[fx.Graph], skipped: set[nn.Module]) -> None:
        self.refused: dict[Group, str] = {}
        self._model = model
        self._names = {module: name for name, module in model.named_modules()}
        self._skipped = skipped
        frames = [place_of(node).frame for graph in graphs for node in graph.nodes]
        self._frames = list(dict.fromkeys(frames))
        self._own: dict[tuple[nn.Module, Key], list[fx.Node] | str] = {}
        self._links: dict[Frame, dict[int, int]] = {}
        self._narrows: dict[Frame, dict[tuple[int, int], Value]] = {}
        self._flattens: dict[Frame, dict[int, Value | None]] = {}

    def find(self, sites: list[Site], narrows: list[Narrow], flattens: list[Flatten]) -> None:
        """Take over what one pass has found; ``refused`` are the activations for which it is impossible."""
        self.refused = {}
        self._links = {frame: {} for frame in self._frames}
        self._narrows = {frame: {} for frame in self._frames}
        self._flattens = {frame: {} for frame in self._frames}
        for node, group in sites:
            if group.call is not None:
                frame, event = place_of(node)
                self._links[frame][event] = group.call
                self._refuse(frozenset({group}), self._obstacle(node))
        for node, operand, value, _ in narrows:
            frame, event = place_of(node)
            for index, each in enumerate(operands_of(node)):
                if each is operand:
                    self._narrows[frame][event, index] = value
            self._refuse(value.sources, self._obstacle(node))
        for node, units in flattens:
            if units is not None and units.sources:
                frame, event = place_of(node)
                self._flattens[frame][event] = units
                self._refuse(units.sources, self._obstacle(node))
        self._compare()

    def recipes(self, size_of: Callable[[Run], int]) -> dict[nn.Module, dict[Key, Recipe]]:
        """The modules whose forwards change."""
        edited = {
            frame.module
            for frame in self._frames
            if self._links[frame] or self._narrows[frame] or self._flattens[frame]
        }
        found: dict[nn.Module, dict[Key, Recipe]] = {}
        for frame in self._frames:
            if frame.module in edited:
                narrows = tuple(
                    (*place, value.dim, parts_of(value.runs, size_of), value.scaled)
                    for place, value in self._narrows[frame].items()
                )
                signature = tuple(name_of_event(frame.module, called) for called in frame.events)
                recipe = Recipe(signature, self._links[frame], narrows, tuple(self._flattens[frame]))
                found.setdefault(frame.module, {})[frame.key] = recipe
        return found

    def _refuse(self, groups: frozenset[Group], reason: str) -> None:
        if reason:
            self.refused.update((group, reason) for group in groups)

    def _obstacle(self, node: fx.Node) -> str:
        """Why the call that is this node cannot be changed; "" if it can."""
        frame, event = place_of(node)
        described = f"the forward of {self._names[frame.module] or 'the model'}"
        if frame.module in self._skipped:
            return f"{described} would have to change, which is skipped"
        if isinstance(frame.module, fx.GraphModule):
            return f"{described} would have to change, which is that of a GraphModule: link before tracing"
        own = self._own_events(frame)
        if isinstance(own, str):
            return f"{described} would have to change: {own}"
        if [_called(frame.module, each) for each in own] != frame.events:
            return f"{described} would have to change, and makes other calls on its own"
        if event != OUTPUT and len(operands_of(own[event])) != len(operands_of(node)):
            return f"{described} would have to change, and gets its tensors in a list"
        return ""

    def _own_events(self, frame: Frame) -> list[fx.Node] | str:
        key = frame.module, frame.key
        if key not in self._own:
            try:
                self._own[key] = trace_own(*key)[1]
            except Untraceable as reason:
                self._own[key] = str(reason)
        return self._own[key]

    def _compare(self) -> None:
        """Refuse what differs between calls of a forward that run the same trace."""
        first: dict[tuple[nn.Module, Key], Frame] = {}
        for frame in self._frames:
            other = first.setdefault((frame.module, frame.key), frame)
            if self._layout(frame) != self._layout(other):
                edits = [*self._narrows[frame].values(), *self._narrows[other].values()]
                edits += [
                    v for each in (frame, other) for v in self._flattens[each].values() if v is not None
                ]
                reason = f"{self._names[frame.module]} is called on linked units and on others"
                self._refuse(frozenset[Group]().union(*(value.sources for value in edits)), reason)

    def _layout(self, frame: Frame) -> tuple[Any, ...]:
        narrows = {place: value.layout for place, value in self._narrows[frame].items()}
        return narrows, set(self._flattens[frame])


def _called(module: nn.Module, node: fx.Node) -> Any:
    """The event that a node of a module's own trace is."""
    return module.get_submodule(str(node.target)) if node.op == "call_module" else node.target


def name_of_event(module: nn.Module, called: Any) -> str:
    """A name for what a forward calls, the same in every trace and copy of it."""
    if isinstance(called, nn.Module):
        return next(name for name, each in module.named_modules() if each is called)
    return called if isinstance(called, str) else f"{called.__module__}.{called.__qualname__}"


def signature_of(module: nn.Module, events: list[fx.Node]) -> tuple[str, ...]:
    """The names of the calls in a module's own trace."""
    return tuple(name_of_event(module, _called(module, node)) for node in events)
