"""Where the units of a pre-activation are: in the dimension where the layer that makes it puts its outputs.

Dimensions are counted from the end where the input may come without a batch: −3 behind a ``Conv2d``.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from torch import fx, nn

from jumpstart_kernels.surgery.code import SUBSCRIPT, is_of_torch, loaded_names
from jumpstart_kernels.surgery.tracing import Untraceable, default_pattern, trace_forward

logger = logging.getLogger("jumpstart_kernels")

PASSED_ON = "passed on"  # the units are where the input has them
UNKNOWN = "unknown"
Units = int | str


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The first that fits counts.
_MODULES: tuple[tuple[Units, tuple[type[nn.Module], ...]], ...] = (
    (-1, (nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.MultiheadAttention)),
    (-1, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.Flatten)),
    (-2, (nn.Conv1d, nn.ConvTranspose1d, nn.InstanceNorm1d)),
    (-3, (nn.Conv2d, nn.ConvTranspose2d, nn.InstanceNorm2d, nn.BatchNorm2d)),
    (-4, (nn.Conv3d, nn.ConvTranspose3d, nn.InstanceNorm3d, nn.BatchNorm3d)),
    (1, (nn.BatchNorm1d, nn.SyncBatchNorm, nn.GroupNorm, nn.LocalResponseNorm)),
    (PASSED_ON, (nn.LayerNorm, nn.RMSNorm, nn.Identity)),
)
_PASSING_MODULES = {
    *("activation", "channelshuffle", "dropout", "padding", "pixelshuffle", "pooling", "upsampling"),
}

# Functions and methods by name.
_PRODUCING_CALLS: dict[str, Units] = {
    **dict.fromkeys(("linear", "bilinear", "embedding", "matmul", "mm", "bmm", "addmm", "baddbmm"), -1),
    **{f"conv{kind}{n}d": -(n + 1) for kind in ("", "_transpose") for n in (1, 2, 3)},
    **dict.fromkeys(("batch_norm", "group_norm", "instance_norm", "local_response_norm"), 1),
}
_PASSING_CALLS = _words(
    """
    abs add clamp clip div exp log maximum minimum mul neg pow sqrt sub true_divide truediv
    iadd imul isub itruediv addcmul lerp masked_fill softmax where
    bfloat16 cat chunk clone concat concatenate contiguous cpu cuda detach double float half split
    to type type_as celu elu gelu hardsigmoid hardswish hardtanh leaky_relu mish prelu relu relu6 selu sigmoid
    silu softplus tanh alpha_dropout dropout dropout1d dropout2d dropout3d feature_alpha_dropout
    interpolate layer_norm normalize pad pixel_shuffle rms_norm threshold
    max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    """
)

# What may put the units elsewhere. Where a forward has it, its layers alone do not tell where they are.
_MOVING_CALLS = _words(
    """
    H T einsum flatten mT movedim moveaxis permute rearrange reduce reshape stack swapaxes swapdims t
    transpose unbind unflatten unsqueeze squeeze view amax amin max mean min norm sum
    """
) | {SUBSCRIPT}


def check_unit_dim(unit_dim: object) -> None:
    """Raise for what is neither a dimension nor ``"auto"``."""
    if isinstance(unit_dim, bool) or not isinstance(unit_dim, (int, str)):
        raise TypeError(f"unit_dim must be an int or 'auto', got {type(unit_dim).__name__}")
    if isinstance(unit_dim, str) and unit_dim != "auto":
        raise ValueError(f"unit_dim must be an int or 'auto', got {unit_dim!r}")


def find_unit_dims(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, int]:
    """The dimension of the units in the input of each of these layers of a model; 1 where nothing tells."""
    finder = UnitFinder(model)
    found = {name: finder.before(layer) for name, layer in layers.items()}
    unknown = [name for name, units in found.items() if not isinstance(units, int)]
    if unknown:
        log_unknown(unknown)
    return {name: units if isinstance(units, int) else 1 for name, units in found.items()}


def log_unknown(names: list[str]) -> None:
    """Say of which layers the dimension of the units is a guess."""
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    logger.warning(
        "what is before these layers does not tell where their units are; dimension 1 is taken, or give "
        "unit_dim: %s",
        shown,
    )


class UnitFinder:
    """Finds where the input of a model's modules has its units, from what is before them."""

    def __init__(self, model: nn.Module, units: Units = UNKNOWN) -> None:
        """``units`` is where the model's own input has them."""
        self._places: dict[nn.Module, list[tuple[nn.Module, str]]] = {}
        for parent in model.modules():
            for name, child in parent._modules.items():
                if child is not None:
                    self._places.setdefault(child, []).append((parent, name))
        self._before: dict[nn.Module, Units] = {model: units}
        self._behind: dict[nn.Module, Units] = {}
        self._traces: dict[nn.Module, fx.Graph | None] = {}
        self._moving: dict[type, bool] = {}

    def before(self, module: nn.Module) -> Units:
        """The units of a module's input: a dimension, or ``UNKNOWN``."""
        if module not in self._before:
            self._before[module] = UNKNOWN  # to whoever asks meanwhile: a module inside itself
            found = {self._at(parent, name) for parent, name in self._places.get(module, ())}
            self._before[module] = _agreed(found)
        return self._before[module]

    def in_attribute(self, module: nn.Module, name: str) -> Units:
        """The units of what a module passes to its function ``name``."""
        return self._at(module, name)

    def in_trace(self, module: nn.Module, graph: fx.Graph) -> dict[fx.Node, Units]:
        """The units of every value in the trace of a module's forward."""
        units: dict[fx.Node, Units] = {}
        for node in graph.nodes:
            found = self._of_node(module, node, units)
            units[node] = self.before(module) if found == PASSED_ON else found
        return units

    def _at(self, parent: nn.Module, name: str) -> Units:
        """The units of the input of a child, by what its parent does before it."""
        forward = type(parent).forward
        if forward is nn.Sequential.forward:
            children = list(parent._modules)
            found = self._behind_all(parent, children[: children.index(name)])
        elif isinstance(parent, (nn.ModuleList, nn.ModuleDict)) and is_of_torch(forward):
            return _agreed({self._at(owner, f"{key}.{name}") for owner, key in self._places.get(parent, ())})
        else:
            found = _by_type(parent)
            if found == UNKNOWN and not is_of_torch(forward):
                found = self._in_forward(parent, name)
        return self.before(parent) if found == PASSED_ON else found

    def _behind_all(self, parent: nn.Module, names: list[str]) -> Units:
        for name in reversed(names):
            child = parent._modules[name]
            found = PASSED_ON if child is None else self._behind_one(child)
            if found != PASSED_ON:
                return found
        return PASSED_ON

    def _behind_one(self, module: nn.Module) -> Units:
        """The units of a module's output."""
        if module not in self._behind:
            self._behind[module] = UNKNOWN
            if type(module).forward is nn.Sequential.forward:
                self._behind[module] = self._behind_all(module, list(module._modules))
            else:
                found = _by_type(module)
                if found == UNKNOWN and not is_of_torch(type(module).forward):
                    found = self._behind_forward(module)
                self._behind[module] = found
        return self._behind[module]

    def _in_forward(self, module: nn.Module, name: str) -> Units:
        """The units of what a forward of one's own passes to the submodule ``name``."""
        inside = self._of_layers_in(module)
        if inside != UNKNOWN and not self._moves(module):
            return inside
        graph = self._trace(module)
        if graph is None:
            return -1 if inside == -1 else UNKNOWN  # behind a convolution fewer dimensions are a batch of one
        units = self.in_trace(module, graph)
        calls = [node for node in graph.nodes if node.op == "call_module" and node.target == name]
        if not calls:
            return inside
        return _agreed({units.get(_first(node), UNKNOWN) for node in calls})

    def _behind_forward(self, module: nn.Module) -> Units:
        inside = self._of_layers_in(module)
        if not self._moves(module):
            return inside
        graph = self._trace(module)
        if graph is None:
            return UNKNOWN
        output = next(node for node in graph.nodes if node.op == "output").args[0]
        return self.in_trace(module, graph).get(output, UNKNOWN) if isinstance(output, fx.Node) else UNKNOWN

    def _of_layers_in(self, module: nn.Module) -> Units:
        """Where all layers below a module put their units, if they agree; ``PASSED_ON`` if there is none."""
        found = {_by_type(child) for child in module.modules() if _is_layer(child)} - {PASSED_ON}
        return _agreed(found) if found else PASSED_ON

    def _moves(self, module: nn.Module) -> bool:
        """Whether a forward of one's own has a call that may move the units."""
        kind = type(module)
        if kind not in self._moving:
            self._moving[kind] = not _MOVING_CALLS.isdisjoint(loaded_names(module))
        return self._moving[kind]

    def _trace(self, module: nn.Module) -> fx.Graph | None:
        if module not in self._traces:
            try:
                self._traces[module] = trace_forward(module, True, default_pattern(module))
            except Untraceable:
                self._traces[module] = None
        return self._traces[module]

    def _of_node(self, module: nn.Module, node: fx.Node, units: dict[fx.Node, Units]) -> Units:
        """The units of a value in a trace, from those of the values before it."""
        if node.op == "placeholder":
            return PASSED_ON
        if node.op == "call_module":
            child = _submodule(module, str(node.target))
            found = PASSED_ON if child is None else self._behind_one(child)
            return _joined(node, units) if found == PASSED_ON else found
        if node.op not in ("call_function", "call_method"):
            return UNKNOWN
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if name in _PRODUCING_CALLS:
            return _PRODUCING_CALLS[name]
        if name in _PASSING_CALLS or name.removesuffix("_") in _PASSING_CALLS:
            return _joined(node, units)
        return _moved(name, node, units)


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    """What a trace calls; None for an attribute that was a ReLU function when it was traced."""
    found: Any = module
    for name in path.split("."):
        found = found._modules.get(name)
        if found is None:
            return None
    return found


def _by_type(module: nn.Module) -> Units:
    """Where a module of PyTorch's, or a subclass of one, puts its units."""
    for units, kinds in _MODULES:
        if isinstance(module, kinds):
            return units
    homes = {kind.__module__.rpartition(".")[2] for kind in type(module).__mro__ if is_of_torch(kind)}
    return UNKNOWN if homes.isdisjoint(_PASSING_MODULES) else PASSED_ON


def _is_layer(module: nn.Module) -> bool:
    """Whether a module can put units somewhere: one of PyTorch's, or one with a matrix of its own."""
    matrices = (value for value in module._parameters.values() if value is not None and value.dim() > 1)
    return _by_type(module) != UNKNOWN or next(matrices, None) is not None


def _agreed(found: set[Units]) -> Units:
    """What all say. Behind a convolution dimension 1 is that of its channels: only a batch has it."""
    if 1 in found and all(isinstance(units, int) and units < -1 for units in found - {1}):
        found = found - {1} or found
    return next(iter(found)) if len(found) == 1 else UNKNOWN


def _joined(node: fx.Node, units: dict[fx.Node, Units]) -> Units:
    """Of an element-wise call: what those of its operands say that are known."""
    known = {units[operand] for operand in node.all_input_nodes} - {UNKNOWN}
    return _agreed(known) if known else UNKNOWN


def _first(node: fx.Node) -> Any:
    return next(iter(node.all_input_nodes), None)


def _moved(name: str, node: fx.Node, units: dict[fx.Node, Units]) -> Units:
    """Behind a call that puts dimensions elsewhere."""
    before = units.get(_first(node), UNKNOWN)
    arguments = list(node.args[1:])
    if name == "flatten" and (arguments or [node.kwargs.get("start_dim")])[0] == 1 and len(arguments) < 2:
        return -1
    if not isinstance(before, int):
        return UNKNOWN
    if name == "getitem" and isinstance(arguments[0], int):
        return before if before < 0 else UNKNOWN  # of the tuple that a recurrent layer gives, too
    if name in ("transpose", "swapaxes", "swapdims"):
        return _transposed(before, arguments)
    if name == "permute":
        order = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], Iterable) else arguments
        dims = [dim % len(order) for dim in order if isinstance(dim, int)]
        if sorted(dims) == list(range(len(dims))) and -len(dims) <= before < len(dims):
            return dims.index(before % len(dims)) - len(dims)
    return UNKNOWN


def _transposed(before: int, dims: list[Any]) -> Units:
    if len(dims) != 2 or not all(isinstance(dim, int) and (dim < 0) == (before < 0) for dim in dims):
        return UNKNOWN  # how many dimensions there are, would say it
    if before not in dims:
        return before
    return dims[1] if before == dims[0] else dims[0]
