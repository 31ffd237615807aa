"""Rules for the unit dimension of the output of one layer or call.

Dimensions are counted from the end if the input may be unbatched: −3 after a ``Conv2d``.
"""

from collections.abc import Iterable
from typing import Any

from torch import fx, nn

from jumpstart_kernels.surgery.code import SUBSCRIPT, is_of_torch

PASSED_ON = "passed on"  # the units are where the input has them
UNKNOWN = "unknown"
Units = int | str


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The first match counts.
_MODULES: tuple[tuple[Units, tuple[type[nn.Module], ...]], ...] = (
    (-1, (nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.MultiheadAttention)),
    (-1, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)),
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
    **dict.fromkeys(("linear", "bilinear", "embedding", "addmm"), -1),
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

# Calls that may move the units. Without these, and without a trace, all layers must agree on the dimension.
MOVING_CALLS = _words(
    """
    H T bmm einsum expand_as flatten fold mT matmul mm movedim moveaxis narrow permute rearrange reduce repeat
    reshape reshape_as select squeeze stack swapaxes swapdims t take topk transpose unbind unflatten unfold
    unsqueeze view view_as amax amin logsumexp max mean median min norm prod std sum var
    """
) | {SUBSCRIPT}


def by_type(module: nn.Module) -> Units:
    """The unit dimension of the output of a PyTorch module or a subclass of one."""
    for units, kinds in _MODULES:
        if isinstance(module, kinds):
            return units
    homes = {kind.__module__.rpartition(".")[2] for kind in type(module).__mro__ if is_of_torch(kind)}
    return UNKNOWN if homes.isdisjoint(_PASSING_MODULES) else PASSED_ON


def is_layer(module: nn.Module) -> bool:
    """Whether a module can determine the unit dimension: a PyTorch layer, or one with its own matrix."""
    matrices = (value for value in module._parameters.values() if value is not None and value.dim() > 1)
    return by_type(module) != UNKNOWN or next(matrices, None) is not None


def agreed(found: set[Units]) -> Units:
    """The dimension on which all agree. After a convolution 1 is the channel dimension of a batched input."""
    if 1 in found and all(isinstance(units, int) and units < -1 for units in found - {1}):
        found = found - {1} or found
    return next(iter(found)) if len(found) == 1 else UNKNOWN


def behind_call(node: fx.Node, units: dict[fx.Node, Units]) -> Units:
    """The unit dimension of the result of a function or method in a trace."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name in _PRODUCING_CALLS:
        return _PRODUCING_CALLS[name]
    if name in _PASSING_CALLS or name.removesuffix("_") in _PASSING_CALLS:
        return _joined(node, units)
    return _moved(name, node, units)


def _joined(node: fx.Node, units: dict[fx.Node, Units]) -> Units:
    """For an element-wise call: what its known operands agree on."""
    known = {units[operand] for operand in node.all_input_nodes} - {UNKNOWN}
    return agreed(known) if known else UNKNOWN


def first_operand(node: fx.Node) -> Any:
    return next(iter(node.all_input_nodes), None)


def _moved(name: str, node: fx.Node, units: dict[fx.Node, Units]) -> Units:
    """After a call that moves dimensions."""
    before, arguments = units.get(first_operand(node), UNKNOWN), list(node.args[1:])
    if name == "flatten":
        given = {**dict(zip(("start_dim", "end_dim"), arguments, strict=False)), **node.kwargs}
        return flattened(before, given.get("start_dim", 0), given.get("end_dim", -1))
    if not isinstance(before, int) or node.kwargs:
        return UNKNOWN
    if name == "getitem" and isinstance(arguments[0], int):
        return before if before < 0 else UNKNOWN  # also for the tuple returned by a recurrent layer
    if name in ("transpose", "swapaxes", "swapdims"):
        return _transposed(before, arguments)
    if name == "permute":
        order = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], Iterable) else arguments
        dims = [dim % len(order) for dim in order if isinstance(dim, int)]
        if sorted(dims) == list(range(len(dims))) and -len(dims) <= before < len(dims):
            return dims.index(before % len(dims)) - len(dims)
    return UNKNOWN


def flattened(before: Units, start: Any, end: Any) -> Units:
    if (start, end) == (1, -1):
        return -1
    image = before == 1 or (isinstance(before, int) and before < -1)
    return -2 if image and (start, end) == (2, -1) else UNKNOWN  # positions come after the channels


def _transposed(before: int, dims: list[Any]) -> Units:
    if len(dims) != 2 or not all(isinstance(dim, int) and (dim < 0) == (before < 0) for dim in dims):
        return UNKNOWN  # it would take the number of dimensions to know
    if before not in dims:
        return before
    return dims[1] if before == dims[0] else dims[0]
