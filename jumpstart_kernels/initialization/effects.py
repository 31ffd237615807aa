"""What a function, method or module that is no layer does to the two units of a pair."""

import re
from typing import Any, NamedTuple

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
"""It adds, subtracts or concatenates."""
BREAK = "break"
"""Anything else."""


class Effect(NamedTuple):
    """One of the above."""

    kind: str
    number: float = 1.0  # of SCALE: the factor; of RECTIFY: (g(z) − g(−z)) / z
    nonnegative: bool = False  # of RECTIFY: whether it maps to, and is the identity on, numbers from 0 on


_RELU = Effect(RECTIFY, 1.0, True)
# silu(z) − silu(−z) = z (σ(z) + σ(−z)) = z, and gelu(z) − gelu(−z) = z (Φ(z) + Φ(−z)) = z.
_RECTIFIERS = {"relu": _RELU, "silu": Effect(RECTIFY), "gelu": Effect(RECTIFY)}
_KEEPING = re.compile(
    r"""(feature)?dropout[123]?d? | (adaptive)?avgpool[123]d | mean | sum
    | identity | flatten | view | reshape | contiguous | clone | detach
    | to | type | float | double | half | bfloat16 | cpu | cuda
    | interpolate | upsample | upsampling(nearest|bilinear)2d | pad | \w+pad[123]d""",
    re.VERBOSE,
)
_SQUASHING = re.compile(
    r"""(adaptive)?maxpool[123]d | amax | sigmoid | tanh | hardtanh | relu6 | elu | selu | celu | mish
    | softplus | hardswish | hardsigmoid | logsigmoid | rrelu | clamp(min|max)? | clip
    | (feature)?alphadropout""",
    re.VERBOSE,
)
_JOINING = frozenset(("add", "iadd", "sub", "isub", "cat", "concat", "concatenate"))
_SCALING = {"mul": 1, "imul": 1, "div": -1, "truediv": -1, "itruediv": -1, "truedivide": -1}


def effect_of(node: fx.Node, module: Any) -> Effect:
    """What a node does; ``module`` is what it calls, if it does."""
    name = (name_of_call(node) if module is None else type(module).__name__.lower()).replace("_", "")
    if isinstance(module, JumpstartActivation):
        name = module.activation.replace("_", "")
    if name in _RECTIFIERS:
        return _RECTIFIERS[name]
    slope = _negative_slope(node, module, name)
    if slope is not None:
        # With a slope of −1 or less the difference of a pair vanishes, or changes its sign.
        return Effect(RECTIFY, 1 + slope, slope == 0) if slope > -1 else Effect(BREAK)
    if name in _JOINING:
        joins = "cat" in name or (len(node.all_input_nodes) > 1 and "alpha" not in node.kwargs)
        return Effect(JOIN if joins else BREAK)
    if name in _SCALING:
        factor = _number(node.args[1] if len(node.args) == 2 and not node.kwargs else None)
        return Effect(SCALE, factor ** _SCALING[name]) if factor is not None and factor > 0 else Effect(BREAK)
    if _KEEPING.fullmatch(name) and not _pads_with_a_value(node, module, name):
        return Effect(KEEP)
    return Effect(SQUASH if _SQUASHING.fullmatch(name) else BREAK)


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


def _pads_with_a_value(node: fx.Node, module: Any, name: str) -> bool:
    """Whether padding is other than zeros or copies."""
    if module is not None:
        return bool(getattr(module, "value", 0)) if name.startswith("constantpad") else False
    return name == "pad" and bool(node.kwargs.get("value") or (len(node.args) > 3 and node.args[3]))
