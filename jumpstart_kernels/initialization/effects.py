"""What a function, method or module that is no layer does to the two units of a pair."""

import re
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from jumpstart_kernels.nn.activation import JumpstartActivation
from jumpstart_kernels.surgery.flow.calls import name_of_call

KEEP = "keep"
"""It is linear, and does the same to every unit."""
SCALE = "scale"
"""It multiplies all units by the same positive number."""
RECTIFY = "rectify"
"""``g(z) − g(−z)`` is ``z`` times a number, as for ReLU."""
SQUASH = "squash"
"""It does the same to every unit, and ``g(z) − g(−z)`` has the sign of ``z``, but is not linear."""
JOIN = "join"
"""It adds, subtracts or concatenates; the second operand of a sum times a positive number."""
BREAK = "break"
"""Anything else."""


class Effect(NamedTuple):
    """One of the above."""

    kind: str
    number: float = 1.0  # of SCALE and JOIN: the factor; of RECTIFY: (g(z) − g(−z)) / z
    nonnegative: bool = False  # whether it maps to numbers from 0 on; RECTIFY then is the identity on those

    @property
    def splits(self) -> bool:
        """Whether it tells the units of a pair apart, so that pairs are worth their width."""
        return self.kind == RECTIFY or self.nonnegative


# g(z) − g(−z) = z by σ(z) + σ(−z) = 1 and its like, and softplus(z) = z + softplus(−z).
_RECTIFIERS = dict.fromkeys(("silu", "gelu", "hardswish", "softplus", "logsigmoid"), Effect(RECTIFY))
_ACTIVATIONS = {"relu": Effect(RECTIFY, 1.0, True), "relu6": Effect(SQUASH, 1.0, True), **_RECTIFIERS}
_KEEPING = re.compile(
    r"""(feature)?dropout[123]?d? | (adaptive)?avgpool[123]d | mean | sum
    | identity | flatten | view | reshape | contiguous | clone | detach
    | to | type | float | double | half | bfloat16 | cpu | cuda
    | interpolate | upsample | upsampling(nearest|bilinear)2d | pad | \w+pad[123]d""",
    re.VERBOSE,
)
_SQUASHING = re.compile(
    r"""(adaptive)?maxpool[123]d | amax | sigmoid | tanh | hardtanh | elu | selu | celu | mish
    | hardsigmoid | rrelu | clamp(min|max)? | clip | (feature)?alphadropout""",
    re.VERBOSE,
)
_ADDING = frozenset(("add", "iadd", "sub", "isub"))
_JOINING = _ADDING | {"cat", "concat", "concatenate"}
_SCALING = {"mul": 1, "imul": 1, "div": -1, "truediv": -1, "itruediv": -1, "truedivide": -1}


def effect_of(node: fx.Node, module: Any) -> Effect:
    """What a node does; ``module`` is what it calls, if it does."""
    name = (name_of_call(node) if module is None else type(module).__name__.lower()).replace("_", "")
    if isinstance(module, JumpstartActivation):
        name = module.activation.replace("_", "")
    if name in _ACTIVATIONS:
        return _ACTIVATIONS[name]
    slope = _negative_slope(node, module, name)
    if slope is not None:
        # With a slope of −1 or less the difference of a pair vanishes, or changes its sign.
        return Effect(RECTIFY, 1 + slope, slope == 0) if slope > -1 else Effect(BREAK)
    if name in _JOINING:
        return _joining(node, name)
    if name in _SCALING:
        return _scaling(node, name)
    if _KEEPING.fullmatch(name) and not _pads_with_a_value(node, module, name) and not _is_integral(node):
        # Between samples a cubic curve is below 0, where a ReLU changes it.
        return Effect(SQUASH if "cubic" in str(_mode(node, module)) else KEEP)
    return Effect(SQUASH if _SQUASHING.fullmatch(name) else BREAK)


def _joining(node: fx.Node, name: str) -> Effect:
    if name not in _ADDING or len(node.all_input_nodes) > 1:
        factor = _number(node.kwargs.get("alpha", 1.0))
        return Effect(JOIN, factor) if factor is not None and factor > 0 else Effect(BREAK)
    # The built-in sum begins with 0.
    adds_zero = any(_number(each) == 0 for each in (*node.args, *node.kwargs.values()))
    return Effect(KEEP if adds_zero and "sub" not in name else BREAK)


def _scaling(node: fx.Node, name: str) -> Effect:
    """By a number, which a product has on either side."""
    operands = [*node.args, *(node.kwargs[key] for key in ("input", "other") if key in node.kwargs)]
    numbers = [_number(each) for each in operands if not isinstance(each, fx.Node)]
    if len(operands) != 2 or len(numbers) != 1 or numbers[0] is None or numbers[0] <= 0:
        return Effect(BREAK)
    if _SCALING[name] < 0 and (not isinstance(operands[0], fx.Node) or node.kwargs.get("rounding_mode")):
        return Effect(BREAK)
    return Effect(SCALE, numbers[0] ** _SCALING[name])


def _negative_slope(node: fx.Node, module: Any, name: str) -> float | None:
    """Of a leaky ReLU; None of anything else."""
    if isinstance(module, nn.PReLU):
        return module.weight.item() if module.num_parameters == 1 else None
    if name != "leakyrelu":
        return None
    if module is not None:
        return float(module.negative_slope)
    given = node.args[1] if len(node.args) > 1 else node.kwargs.get("negative_slope", 0.01)
    return _number(given)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _is_integral(node: fx.Node) -> bool:
    """Whether a cast is to, or might be to, another than a floating dtype."""
    dtypes = [each for each in (*node.args, *node.kwargs.values()) if isinstance(each, torch.dtype)]
    return any(not each.is_floating_point for each in dtypes) or (
        node.op == "call_method" and node.target == "type" and not dtypes
    )


def _mode(node: fx.Node, module: Any) -> Any:
    """Of interpolation; else None."""
    positional = node.args[3] if len(node.args) > 3 and "interpolate" in name_of_call(node) else None
    return getattr(module, "mode", node.kwargs.get("mode", positional))


def _pads_with_a_value(node: fx.Node, module: Any, name: str) -> bool:
    """Whether padding is other than zeros or copies."""
    if module is not None:
        return bool(getattr(module, "value", 0)) if name.startswith("constantpad") else False
    return name == "pad" and bool(node.kwargs.get("value") or (len(node.args) > 3 and node.args[3]))
