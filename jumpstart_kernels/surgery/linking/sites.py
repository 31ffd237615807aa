"""The activations that ``link_relu`` may link, and what stands in the way at the activation itself."""

from typing import Any, NamedTuple

from torch import fx, nn

from jumpstart_kernels.nn import JumpstartReLU
from jumpstart_kernels.surgery.flow.calls import name_of_call
from jumpstart_kernels.surgery.flow.layers import is_matrix_layer, norm_dims, passed_dims
from jumpstart_kernels.surgery.flow.nodes import called_module, is_inplace, is_relu_call
from jumpstart_kernels.surgery.flow.trace import place_of

_FRESH = {
    *("add", "sub", "mul", "div", "truediv", "true_divide", "maximum", "minimum", "neg", "exp", "clone"),
    *("cat", "concat", "concatenate", "linear", "conv1d", "conv2d", "conv3d", "matmul", "interpolate"),
    *("batch_norm", "layer_norm", "group_norm", "mean", "sum", "amax", "amin"),
    *(f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_max", "adaptive_avg") for n in (1, 2, 3)),
}
_ASKING = {"size", "dim", "getattr"}


class Group(NamedTuple):
    """A ReLU: a module, wherever it is called, or a call in a module's forward."""

    module: nn.Module  # or whose forward calls it
    call: int | None  # which of the calls in that forward; None for a module

    @property
    def is_module(self) -> bool:
        return self.call is None


def group_of(model: nn.Module, node: fx.Node) -> Group | None:
    """The ReLU that a node is; None if it is none."""
    if node.op == "call_module":
        module = called_module(model, node)
        return (
            Group(module, None) if module is not None and type(module) in (nn.ReLU, JumpstartReLU) else None
        )
    if not is_relu_call(node.op, node.target):
        return None
    frame, event = place_of(node)
    before = [called for called in frame.events[:event] if _is_relu_event(called)]
    return Group(frame.module, len(before))


def _is_relu_event(called: Any) -> bool:
    if isinstance(called, nn.Module):
        return False
    return is_relu_call("call_method" if isinstance(called, str) else "call_function", called)


def obstacle_to_linking(model: nn.Module, group: Group, skipped: set[nn.Module]) -> str:
    """What about an activation itself keeps it from being linked; "" if nothing does."""
    module = group.module
    if module in skipped:
        return "it is skipped"
    if group.is_module and (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks):
        return "it has hooks"
    if group.is_module and "forward" in vars(module):
        return "its forward is set by other code"
    return ""


def overwritten_and_read(model: nn.Module, node: fx.Node) -> bool:
    """Whether something behind an activation in place may read what it overwrites."""
    if not is_inplace(model, node):
        return False
    order = {each: index for index, each in enumerate(node.graph.nodes)}
    first = node.all_input_nodes[0]
    while _may_share(model, first) and first.all_input_nodes:
        first = first.all_input_nodes[0]
    sharing = {first}
    for each in list(node.graph.nodes)[order[first] + 1 :]:
        if each is node or sharing.isdisjoint(each.all_input_nodes):
            continue
        if order[each] > order[node]:
            if name_of_call(each) not in _ASKING:
                return True
        elif _may_share(model, each):
            sharing.add(each)
    return False


def _may_share(model: nn.Module, node: fx.Node) -> bool:
    """Whether a node's result may be, or be a view of, one of its operands."""
    if node.op in ("placeholder", "get_attr"):
        return False
    if is_inplace(model, node):
        return True
    module = called_module(model, node)
    if module is None:
        return name_of_call(node) not in _FRESH and not is_relu_call(node.op, node.target)
    if is_matrix_layer(module) or norm_dims(module) is not None:
        return False
    home = type(module).__module__.rpartition(".")[2]
    return home not in ("pooling", "activation", "upsampling") or passed_dims(module) is None
