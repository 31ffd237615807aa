"""Infers the unit dimension of a pre-activation from the layers before it."""

import logging
from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from jumpstart_kernels.surgery.activations import REPLACEABLE
from jumpstart_kernels.surgery.code import is_of_torch, loaded_names
from jumpstart_kernels.surgery.tracing import Untraceable, default_pattern, submodule, trace_forward
from jumpstart_kernels.surgery.unit_rules import (
    MOVING_CALLS,
    PASSED_ON,
    UNKNOWN,
    Units,
    agreed,
    behind_call,
    by_type,
    first_operand,
    flattened,
    is_layer,
)

logger = logging.getLogger("jumpstart_kernels")


def check_unit_dim(unit_dim: object) -> None:
    """Raise for anything but a dimension or ``"auto"``."""
    if isinstance(unit_dim, bool) or not isinstance(unit_dim, (int, str)):
        raise TypeError(f"unit_dim must be an int or 'auto', got {type(unit_dim).__name__}")
    if isinstance(unit_dim, str) and unit_dim != "auto":
        raise ValueError(f"unit_dim must be an int or 'auto', got {unit_dim!r}")


def find_unit_dims(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, int]:
    """The unit dimension of the input of each of these layers of a model; 1 if unknown."""
    finder = UnitFinder(model)
    found = {name: finder.before(layer) for name, layer in layers.items()}
    unknown = [name for name, units in found.items() if not isinstance(units, int)]
    if unknown:
        log_unknown(unknown)
    return {name: units if isinstance(units, int) else 1 for name, units in found.items()}


def log_unknown(names: list[str]) -> None:
    """Log the layers whose unit dimension is a guess."""
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    logger.warning(
        "cannot infer the unit dimension of these layers from what precedes them; using 1, or pass "
        "unit_dim: %s",
        shown,
    )


class UnitFinder:
    """Infers the unit dimension of the inputs of a model's modules from what precedes them."""

    def __init__(self, model: nn.Module, units: Units = UNKNOWN) -> None:
        """``units`` is the unit dimension of the model's own input."""
        self._places: dict[nn.Module, list[tuple[nn.Module, str]]] = {}
        for parent in model.modules():
            for name, child in parent._modules.items():
                if child is not None:
                    self._places.setdefault(child, []).append((parent, name))
        self._before: dict[tuple[nn.Module, int], Units] = {(model, 0): units}
        self._traces: dict[Any, fx.Graph | None] = {}
        # Of each module's trace, filled on demand.
        self._values: dict[tuple[nn.Module, fx.Graph], dict[fx.Node, Units]] = {}
        self._inside: set[nn.Module] = set()  # modules whose output is being found

    def before(self, module: nn.Module, argument: int = 0) -> Units:
        """The unit dimension of a module's input or of another argument, or ``UNKNOWN``."""
        key = (module, argument)
        if key not in self._before:
            self._before[key] = UNKNOWN  # for recursion: a module inside itself
            found = {self._at(parent, name, argument) for parent, name in self._places.get(module, ())}
            self._before[key] = agreed(found)
        return self._before[key]

    def in_attribute(self, module: nn.Module, name: str) -> Units:
        """The units of what a module passes to its function ``name``."""
        return self._at(module, name, 0)

    def in_trace(self, module: nn.Module, graph: fx.Graph) -> dict[fx.Node, Units]:
        """The units of every value in the trace of a module's forward."""
        values = self._values.setdefault((module, graph), {})
        for node in graph.nodes:
            if node not in values:
                values[node] = UNKNOWN  # for recursion
                values[node] = self._of_node(module, node, values)
        return values

    def _at(self, parent: nn.Module, name: str, argument: int) -> Units:
        """The units of an argument of a child, from what its parent does before it."""
        forward = type(parent).forward
        if isinstance(parent, (nn.Sequential, nn.ModuleList, nn.ModuleDict)) and is_of_torch(forward):
            # The owner of a list calls its children; the owner of a Sequential may.
            owners = self._places.get(parent, ())
            calls = [self._in_owner(owner, f"{key}.{name}", argument) for owner, key in owners]
            found = {units for units in calls if units is not None}
            if found or argument:
                return agreed(found)
            if not isinstance(parent, nn.Sequential):  # its owner has no trace
                owned = {self._in_forward(owner, f"{key}.{name}", argument) for owner, key in owners}
                return agreed(owned)
            names = list(parent._modules)
            units = self._through(parent, names[: names.index(name)], PASSED_ON)
        else:
            units = by_type(parent)
            if units == UNKNOWN and not is_of_torch(forward):
                units = self._in_forward(parent, name, argument)
        return self.before(parent) if units == PASSED_ON else units

    def _in_owner(self, owner: nn.Module, path: str, argument: int) -> Units | None:
        """The units of an argument of a module in a container of ``owner``; None if it is not called."""
        if isinstance(owner, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
            return None if isinstance(owner, nn.Sequential) else self._at(owner, path, argument)
        if is_of_torch(type(owner).forward):
            return None
        graph = self._trace(owner)
        return None if graph is None else self._passed(owner, graph, path, argument)

    def _in_forward(self, module: nn.Module, name: str, argument: int) -> Units:
        """The units of what a user-defined forward passes to the submodule ``name``."""
        graph = self._trace(module)
        if graph is not None:
            found = self._passed(module, graph, name, argument)
            return UNKNOWN if found is None else found
        inside = self._of_layers_in(module)
        return UNKNOWN if inside == PASSED_ON else inside

    def _passed(self, module: nn.Module, graph: fx.Graph, name: str, argument: int) -> Units | None:
        """The units of what the trace of a module passes to the submodule ``name``; None if it calls none."""
        calls = [node for node in graph.nodes if node.op == "call_module" and node.target == name]
        values = self.in_trace(module, graph) if calls else {}
        passed = [node.args[argument] if argument < len(node.args) else None for node in calls]
        found = {values.get(value, UNKNOWN) if isinstance(value, fx.Node) else UNKNOWN for value in passed}
        return agreed(found) if calls else None

    def _through(self, module: nn.Module, names: list[str], units: Units) -> Units:
        """The units after these children of a module, applied in turn."""
        for name in names:
            child = module._modules[name]
            if child is not None:
                units = self._behind(child, units)
        return units

    def _behind(self, module: nn.Module, before: Units) -> Units:
        """The units of a module's output, from those of its input."""
        if isinstance(module, nn.Flatten):
            return flattened(before, module.start_dim, module.end_dim)
        if type(module).forward is nn.Sequential.forward:
            return self._through(module, list(module._modules), before)
        found = by_type(module)
        if found == UNKNOWN and not is_of_torch(type(module).forward):
            found = self._behind_forward(module, before)
        return before if found == PASSED_ON else found

    def _behind_forward(self, module: nn.Module, before: Units) -> Units:
        if module in self._inside:
            return UNKNOWN
        graph = self._trace(module)
        if graph is None:
            return self._of_layers_in(module)
        output = next(node for node in graph.nodes if node.op == "output").args[0]
        self._inside.add(module)
        values: dict[fx.Node, Units] = {}
        for node in graph.nodes:
            values[node] = self._of_node(module, node, values, before)
        self._inside.remove(module)
        return values.get(output, UNKNOWN) if isinstance(output, fx.Node) else UNKNOWN

    def _of_layers_in(self, module: nn.Module) -> Units:
        """The unit dimension on which all layers below a module agree, if nothing moves it.

        ``PASSED_ON`` if there are no layers.
        """
        if not MOVING_CALLS.isdisjoint(name.removesuffix("_") for name in loaded_names(module)):
            return UNKNOWN
        found = {by_type(child) for child in module.modules() if is_layer(child)} - {PASSED_ON}
        return agreed(found) if found else PASSED_ON

    def _trace(self, module: nn.Module) -> fx.Graph | None:
        key = likeness(module)
        if key not in self._traces:
            activations = tuple(REPLACEABLE.values())
            try:
                self._traces[key] = trace_forward(module, True, default_pattern(module), activations)
            except Untraceable:
                self._traces[key] = None
        return self._traces[key]

    def _of_node(
        self, module: nn.Module, node: fx.Node, values: dict[fx.Node, Units], before: Units | None = None
    ) -> Units:
        """The units of a value in a trace, from those of the values before it and of the module's input."""
        if node.op == "placeholder":
            position = [other for other in node.graph.nodes if other.op == "placeholder"].index(node)
            return before if before is not None and position == 0 else self.before(module, position)
        if node.op == "call_module":
            child = submodule(module, str(node.target))
            units = values.get(first_operand(node), UNKNOWN)
            return units if child is None else self._behind(child, units)
        return behind_call(node, values) if node.op in ("call_function", "call_method") else UNKNOWN


def likeness(module: nn.Module) -> tuple[Any, ...]:
    """A key shared by modules whose forwards make the same calls, so that one trace serves them all."""
    attributes = []
    for name, value in vars(module).items():
        if name not in ("_modules", "_parameters", "_buffers", "training"):
            plain = value is None or isinstance(value, (bool, int, float, str))
            short = isinstance(value, (list, tuple, set, dict)) and len(value) <= 16
            attributes.append((name, repr(value) if plain or short else id(value)))
    children = [(name, type(child)) for name, child in module._modules.items()]
    tensors = [
        (name, None if tensor is None else tensor.dim())
        for tensors in (module._parameters, module._buffers)
        for name, tensor in tensors.items()
    ]
    return type(module), tuple(attributes), tuple(children), tuple(tensors)
