"""How units pass through a function or method in a trace, and what every rule tells of a node."""

import math
import re
from typing import Any, NamedTuple

from torch import fx

from jumpstart_kernels.surgery.flow.units import Run, Value, plain_units

_NOBODY = frozenset[Any]()
Values = dict[fx.Node, Value | None]


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


_UNARY = words(
    """
    abs neg sqrt square sign clamp clip clamp_min clamp_max sigmoid tanh hardtanh
    relu relu6 leaky_relu elu selu celu gelu silu mish softplus hardswish hardsigmoid logsigmoid threshold
    dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout
    contiguous clone detach to type float double half bfloat16 cpu cuda
    """
)
_BINARY = words("add sub mul div true_divide truediv iadd isub imul itruediv maximum minimum where lerp")
_CAT = words("cat concat concatenate")
_VIEWS = words("view reshape")
_REDUCTIONS = words("mean sum amax amin std var")
_HARMLESS = words("dim ndim dtype device is_cuda get_device is_floating_point requires_grad layout")
_KEYWORDS = words(
    """
    input other value alpha tensors dim start_dim end_dim keepdim inplace p training min max negative_slope
    kernel_size stride padding dilation ceil_mode count_include_pad divisor_override return_indices
    output_size pad mode size scale_factor align_corners recompute_scale_factor antialias dtype memory_format
    approximate beta threshold rounding_mode mask weight end condition
    """
)
_NEEDS_SHAPES = ": pass example_inputs, which may tell"


class Outcome(NamedTuple):
    """What a node makes of its operands."""

    value: Value | None = None  # its own units, where they are known
    refusal: str = ""  # why it cannot take extra units, and must get those of the plain model alone
    same: tuple[set[Any], ...] = ()  # widths that have to stay equal to each other
    fixed: frozenset[Any] = frozenset()  # widths that have to stay as they are
    flattens: bool = False  # whether flatten(1) has to take the place of a view of fixed sizes


def name_of_call(node: Any) -> str:
    """The name of the method, or of the function of PyTorch or Python, that a node calls; "" of others."""
    if isinstance(node.target, str):
        return node.target
    home = (getattr(node.target, "__module__", None) or "torch").partition(".")[0]
    return getattr(node.target, "__name__", "") if home in ("torch", "_operator", "builtins") else ""


def shape_of(node: Any) -> tuple[int, ...] | None:
    """The shape of a node's tensor in the plain model, where example inputs tell it."""
    return node.meta.get("shape") if isinstance(node, fx.Node) else None


def after_call(node: Any, values: Values) -> Outcome:
    """A function or method."""
    name = name_of_call(node)
    first = node.args[0] if node.args else node.kwargs.get("input")
    known = values.get(first) if isinstance(first, fx.Node) else None
    if node.target is plain_units:
        return Outcome(known)
    if not name or not node.kwargs.keys() <= _KEYWORDS:  # axis, keepdims, out, ...
        return Outcome(refusal=f"{name or node.target} is no call that it can follow, as it is called")
    if name in _CAT:
        return _concatenated(node, values)
    if name == "getattr" and node.args[1] in (*_HARMLESS, "shape"):
        return Outcome(
            refusal="" if node.args[1] != "shape" or _asks_batch(node) else "it asks for its shape"
        )
    if name in ("size", "dim", *_HARMLESS):
        return Outcome(refusal="" if name != "size" or _asks_batch(node) else "it asks for its size")
    if name == "getitem" and not isinstance(known, Value):
        return Outcome()
    arguments = {**dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)), **node.kwargs}
    base = name.removesuffix("_")
    if base in _BINARY or (base in ("masked_fill", "pow", "clamp") and len(node.all_input_nodes) > 1):
        return _combined(node, values)
    if known is None:
        return Outcome(refusal=f"{name} is no call that it can follow")
    if base in _UNARY and not [n for n in node.all_input_nodes if n is not first and values.get(n)]:
        return Outcome(known)
    if name == "flatten":
        start, end = arguments.get("start_dim", 0), arguments.get("end_dim", -1)
        return flattened(known, start, end, shape_of(first))
    if name in _VIEWS:
        return _viewed(node, known)
    if name in _REDUCTIONS:
        return _reduced(node, known)
    over = _spatial_dims_of_call(name, node)
    if over is not None and known.dim < -over:
        return Outcome(known)
    return Outcome(refusal=f"{name} is no call that it can follow")


def _spatial_dims_of_call(name: str, node: Any) -> int | None:
    """Over how many of the last dimensions a function works that treats every unit alone."""
    pooling = re.fullmatch(r"(?:adaptive_)?(?:max|avg|lp)_pool([123])d", name)
    if pooling and not node.kwargs.get("return_indices", False):
        return int(pooling[1])
    if name == "interpolate":
        return 1
    padding = node.args[1] if name == "pad" and len(node.args) > 1 else None
    return len(padding) // 2 if isinstance(padding, (list, tuple)) else None


def is_unit_dim(dim: Any, value: Value, shape: tuple[int, ...] | None) -> bool | None:
    """Whether a dimension is that of the units; None where that depends on what it does not know."""
    if not isinstance(dim, int):
        return None
    if dim < 0:
        return dim == value.dim
    if shape is not None:
        return dim - len(shape) == value.dim
    if value.dim < -1:
        return dim == 1  # of a batch
    return dim == 1 if value.matrix else (False if dim == 0 else None)


def _concatenated(node: Any, values: Values) -> Outcome:
    tensors = node.args[0] if node.args else node.kwargs.get("tensors")
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    listed = [tensor for tensor in tensors if isinstance(tensor, fx.Node)] if _is_list(tensors) else []
    known = [values.get(tensor) for tensor in listed]
    seen = next((value for value in known if value is not None), None)
    known = [value or _by_shape(tensor, seen) for value, tensor in zip(known, listed, strict=True)]
    found = [value for value in known if value is not None]
    if not found or len(found) < len(known):
        return Outcome(refusal="it is concatenated with what it does not know" + _NEEDS_SHAPES)
    along = {is_unit_dim(dim, value, shape_of(t)) for value, t in zip(found, listed, strict=True)}
    if along == {True} and len({value.dim for value in found}) == 1 and not any(v.scaled for v in found):
        runs = tuple(run for value in found for run in value.runs)
        return Outcome(found[0]._replace(runs=runs, matrix=any(value.matrix for value in found)))
    if along == {False}:
        return _merged(found)
    return Outcome(refusal="it is concatenated in a dimension that it does not know" + _NEEDS_SHAPES)


def _by_shape(tensor: fx.Node, other: Value | None) -> Value | None:
    """The units of a tensor that no layer has made, where another has them, if example inputs tell it."""
    shape = shape_of(tensor)
    if shape is None or other is None or other.scaled or len(shape) < -other.dim:
        return None
    return other._replace(runs=(Run(shape[other.dim], True, _NOBODY, None),))


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _combined(node: Any, values: Values) -> Outcome:
    """An element-wise call of several operands."""
    operands = node.all_input_nodes
    known = [values.get(operand) for operand in operands]
    found = [value for value in known if value is not None]
    if not found:
        return Outcome()
    if len(known) == 1:
        return Outcome(found[0])
    outcome = _merged(found)
    if len(found) < len(known):
        unknown = "it meets what it does not know in an element-wise call"
        widths = frozenset(width for value in found for width in value.widths)
        value = outcome.value.narrowed() if outcome.value is not None else None
        return Outcome(value, outcome.refusal or unknown, fixed=widths)
    return outcome


def _merged(found: list[Value]) -> Outcome:
    """What several operands have in common."""
    plain = [value.narrowed() for value in found]
    if any(value.layout[0::2] != plain[0].layout[0::2] for value in plain) or plain[0].total == 1:
        return Outcome(refusal="it meets units of other number or place in an element-wise call")
    if len({value.plain_total for value in plain}) > 1:
        return Outcome(refusal="it meets units of other number or place in an element-wise call")
    same = len({value.layout for value in plain}) == 1
    widths = tuple(
        {run.width for run in runs} for runs in zip(*(value.runs for value in plain), strict=False)
    )
    fixed = _NOBODY if same else frozenset(width for value in plain for width in value.widths)
    if len({value.layout for value in found}) > 1:
        return Outcome(
            plain[0], "it meets a tensor without such units in an element-wise call", widths, fixed
        )
    runs = []
    for each in zip(*(value.runs for value in found), strict=True):
        runs.append(each[0]._replace(sources=_NOBODY.union(*(run.sources for run in each))))
    matrix = any(value.matrix for value in found)
    return Outcome(found[0]._replace(runs=tuple(runs), matrix=matrix), "", widths, fixed)


def flattened(value: Value | None, start: Any, end: Any, shape: tuple[int, ...] | None) -> Outcome:
    refusal = f"flatten({start}, {end}) is none that it can follow"
    if value is None:
        return Outcome()
    unit = is_unit_dim(start, value, shape)
    last = end == -1 or (shape is not None and end == len(shape) - 1)
    if unit and last and value.dim == -1:
        return Outcome(value)
    if unit and last:
        scaled = shape is None or math.prod(shape[value.dim + 1 :]) != 1
        return Outcome(value._replace(dim=-1, scaled=scaled, matrix=start == 1))
    if start == 2 and last and value.dim < -1:
        return Outcome(value._replace(dim=-2))
    return Outcome(refusal=refusal + (_NEEDS_SHAPES if unit is None else ""))


def _viewed(node: Any, value: Value) -> Outcome:
    """A view or reshape that provably flattens all but the batch."""
    source: Any = node.args[0]
    sizes = node.args[1] if len(node.args) == 2 and _is_list(node.args[1]) else node.args[1:]
    flat = flattened(value, 1, -1, shape_of(source))
    if flat.value is None:
        return flat
    assert isinstance(sizes, (list, tuple))
    if len(sizes) == 2 and sizes[1] == -1 and _is_batch_of(sizes[0], source):
        return flat
    before, after = shape_of(source), shape_of(node)
    if before is None or after is None:
        return Outcome(refusal="it does not know the shape of a view" + _NEEDS_SHAPES)
    if len(after) == 2 and after[0] == before[0] and len(before) == 1 - value.dim:
        return flat._replace(flattens=True)
    return Outcome(refusal="a view moves its units")


def _is_batch_of(size: Any, tensor: fx.Node) -> bool:
    """Whether a number is the size of the first dimension of a tensor."""
    if not isinstance(size, fx.Node):
        return False
    if name_of_call(size) == "size":
        return size.args[0] is tensor and size.args[1:] == (0,)
    if name_of_call(size) != "getitem" or size.args[1] != 0:
        return False
    shape: Any = size.args[0]
    return name_of_call(shape) in ("getattr", "size") and shape.args[0] is tensor


def _asks_batch(node: Any) -> bool:
    """Whether nothing but the size of the first dimension is asked for."""
    if name_of_call(node) == "size" and len(node.args) == 2:
        return node.args[1] == 0
    return all(name_of_call(user) == "getitem" and user.args[1] == 0 for user in node.users)


def _reduced(node: Any, value: Value) -> Outcome:
    """A reduction over dimensions other than that of the units."""
    given = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    dims = [given] if isinstance(given, int) and not isinstance(given, bool) else given
    keep = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
    shape = shape_of(node.args[0] if node.args else None)
    unknown = shape is None and value.dim == -1 and _is_list(dims) and any(dim >= 0 for dim in dims)
    # The third argument of std and var is another one.
    other = name_of_call(node) in ("std", "var") and len(node.args) > 2
    if not _is_list(dims) or not dims or unknown or other or not isinstance(keep, bool):
        return Outcome(refusal=f"{name_of_call(node)} is over dimensions that it does not know")
    length = 1 - value.dim if shape is None else len(shape)  # with a batch
    after = [dim - length if dim >= 0 else dim for dim in dims]
    if any(not value.dim < dim < 0 for dim in after):
        return Outcome(refusal=f"{name_of_call(node)} is over its units")
    if keep:
        return Outcome(value)
    dim = value.dim + len(set(after))
    return Outcome(value._replace(dim=dim, matrix=dim == -1))
