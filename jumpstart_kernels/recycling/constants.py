"""What becomes of a unit's mean output between an activation and a layer that reads it, in ``eval()``."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from jumpstart_kernels.nn import JumpstartReLU
from jumpstart_kernels.recycling.ways import Flow, input_of
from jumpstart_kernels.surgery.code import is_of_torch
from jumpstart_kernels.surgery.flow.calls import name_of_call, shape_of, words
from jumpstart_kernels.surgery.flow.nodes import called_module, is_relu_call

# Modules and functions whose output is their input where this is constant.
_KEEPING_HOMES = ("dropout", "upsampling", "flatten")
_KEEPING_MODULES = ("MaxPool", "AdaptiveMaxPool", "AdaptiveAvgPool", "ReflectionPad", "ReplicationPad")
_KEEPING_CALLS = words(
    """
    dropout dropout1d dropout2d dropout3d contiguous clone detach float double to type flatten view reshape
    max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d interpolate mean amax amin
    """
)
_KEEPING_ZERO = words(
    """
    avg_pool1d avg_pool2d avg_pool3d lp_pool1d lp_pool2d pad sum abs neg sqrt square sign tanh
    relu6 leaky_relu elu selu celu gelu silu mish hardswish half bfloat16
    """
)
_ZERO_AT_ZERO = (
    *(nn.LeakyReLU, nn.ReLU6, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Hardswish),
    *(nn.Softsign, nn.Tanhshrink, nn.Hardshrink, nn.Softshrink, nn.PReLU, nn.RReLU),
)


class Known(NamedTuple):
    """What is known of the channels of a tensor."""

    mean: Tensor
    """``[channels]``, float64: the mean of each; NaN where it is not known."""
    silent: Tensor
    """``[channels]``, bool: whether each is that constant, on the data of the report."""

    def only(self, kept: Tensor) -> "Known":
        """The same, where ``kept``; elsewhere nothing is known."""
        return self._replace(mean=self.mean.where(kept, torch.nan))


def follow_means(model: nn.Module, flow: Flow, measured: dict[str, Known]) -> dict[fx.Node, Known]:
    """The means of all tensors of a trace behind an activation.

    Args:
        model: the module that was traced.
        flow: the trace.
        measured: the outputs of the activations, by name.
    """
    found: dict[fx.Node, Known] = {}
    for node in flow.graph.nodes:
        value, source = flow.values[node], input_of(node)
        module = called_module(model, node)
        if value is None:
            continue
        if node in flow.sites:
            known = measured.get(flow.sites[node])
        elif name_of_call(node) in ("cat", "concat", "concatenate") and node.op == "call_function":
            known = _joined(node, flow, found)
        elif source not in found:
            known = None
        elif module is not None:
            known = _behind_module(module, found[source])
        else:
            known = _behind_call(node, found[source])
        if known is not None and len(known.mean) == value.total:
            found[node] = known
    return found


def _joined(node: fx.Node, flow: Flow, found: dict[fx.Node, Known]) -> Known | None:
    joined, parts = flow.values[node], []
    for operand in node.args[0] if isinstance(node.args[0], (list, tuple)) else ():  # in turn
        if not isinstance(operand, fx.Node) or joined is None:
            return None
        value, shape = flow.values[operand], shape_of(operand)
        if operand in found:
            parts.append(found[operand])
        elif value is not None or shape is not None:
            size = value.total if value is not None else (shape or ())[joined.dim]
            unknown = torch.full((size,), torch.nan, dtype=torch.float64)
            parts.append(Known(unknown, torch.zeros(size, dtype=torch.bool)))
    return Known._make(map(torch.cat, zip(*parts, strict=True))) if parts else None


def _behind_module(module: Any, known: Known) -> Known:
    kind = type(module)
    home = kind.__module__.rpartition(".")[2] if is_of_torch(kind) else ""
    if kind is nn.Identity or home in _KEEPING_HOMES or kind.__name__.startswith(_KEEPING_MODULES):
        return known
    if kind in (nn.ReLU, JumpstartReLU):
        return known._replace(mean=known.mean.clamp(min=0))
    if isinstance(module, (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)):
        sides = module.padding if isinstance(module.padding, tuple) else (module.padding,)
        return known if not any(sides) or not module.count_include_pad else known.only(known.mean == 0)
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
        return known._replace(mean=_normalized(module, known.mean))
    zero = home in ("pooling", "padding") and kind.__name__ not in _CONSTANT_PADS
    return known.only((known.mean == 0) & (zero or isinstance(module, _ZERO_AT_ZERO)))


_CONSTANT_PADS = tuple(f"ConstantPad{n}d" for n in (1, 2, 3))


def _normalized(norm: Any, mean: Tensor) -> Tensor:
    center, variance = (each.detach().cpu().double() for each in (norm.running_mean, norm.running_var))
    if len(center) != len(mean):
        return torch.full_like(mean, torch.nan)
    mean = (mean - center) / (variance + norm.eps).sqrt()
    if norm.weight is not None:
        mean = mean * norm.weight.detach().cpu().double()
    return mean if norm.bias is None else mean + norm.bias.detach().cpu().double()


def _behind_call(node: fx.Node, known: Known) -> Known:
    name = name_of_call(node)
    base = name.removesuffix("_")
    if is_relu_call(node.op, node.target):
        return known._replace(mean=known.mean.clamp(min=0))
    if base in _KEEPING_CALLS:
        return known
    other = node.args[1] if len(node.args) > 1 else None
    if base in ("mul", "truediv", "div") and isinstance(other, (int, float)) and not node.kwargs:
        return known._replace(mean=known.mean * other if base == "mul" else known.mean / other)
    padded = base == "pad" and (len(node.args) > 2 or node.kwargs)  # perhaps with another value than 0
    return known.only((known.mean == 0) & (base in _KEEPING_ZERO and not padded))
