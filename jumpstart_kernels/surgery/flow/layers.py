"""The layers through which units are followed, and those that can get more or fewer of them."""

import re
from collections.abc import Container
from typing import Any

from torch import fx, nn
from torch.nn.utils.prune import BasePruningMethod

from jumpstart_kernels.nn.deferred_bias import DeferredBias
from jumpstart_kernels.surgery.code import is_of_torch

_CONVOLUTIONS = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
_TRANSPOSED = {nn.ConvTranspose1d: 1, nn.ConvTranspose2d: 2, nn.ConvTranspose3d: 3}
# The dimensions in which a norm has its units; 1 is any dimension but the first.
_NORMS: dict[type[nn.Module], tuple[int, ...]] = {
    nn.BatchNorm1d: (-1, -2),
    nn.BatchNorm2d: (-3,),
    nn.BatchNorm3d: (-4,),
    nn.SyncBatchNorm: (-1, -2, -3, -4),
    nn.InstanceNorm1d: (-2,),
    nn.InstanceNorm2d: (-3,),
    nn.InstanceNorm3d: (-4,),
    nn.GroupNorm: (-1, -2, -3, -4),
}
_MIXING_ACTIVATIONS = ("Softmax", "Softmin", "LogSoftmax", "Softmax2d", "MultiheadAttention", "GLU", "PReLU")


def kind_of(module: nn.Module) -> type[nn.Module]:
    """The class of a module; of a layer that leaves its bias to an activation, PyTorch's."""
    return module.plain if isinstance(module, DeferredBias) else type(module)


def is_linear(module: nn.Module) -> bool:
    return kind_of(module) is nn.Linear


def spatial_dims(module: nn.Module) -> int | None:
    """Of a convolution, transposed or not; None for anything else."""
    kind: Any = kind_of(module)
    return _CONVOLUTIONS.get(kind, _TRANSPOSED.get(kind))


def is_transposed(module: nn.Module) -> bool:
    return kind_of(module) in _TRANSPOSED


def norm_dims(module: nn.Module) -> tuple[int, ...] | None:
    """The dimensions in which a norm may have its units; None for anything that treats them together."""
    return _NORMS.get(type(module))


def units_of_norm(module: Any) -> int:
    return module.num_channels if isinstance(module, nn.GroupNorm) else module.num_features


def is_matrix_layer(module: nn.Module) -> bool:
    """Whether it is what linked units must reach to be of use."""
    return is_linear(module) or spatial_dims(module) is not None


def shows_border(layer: Any) -> bool:
    """Whether a constant input to a layer with a matrix gives an output that is not the same everywhere."""
    if is_linear(layer):
        return False
    padded = (
        layer.padding_mode == "zeros"
        and layer.padding != "valid"
        and any(side != 0 for side in (layer.padding if isinstance(layer.padding, tuple) else (1,)))
    )
    return is_transposed(layer) or padded


def passed_dims(module: Any) -> int | None:
    """For a module that treats every unit alone: over how many of the last dimensions it works at once.

    None for any other module.
    """
    kind, home = type(module), type(module).__module__.rpartition(".")[2]
    if not is_of_torch(kind):
        return None
    if home == "pooling" and not getattr(module, "return_indices", False):
        return _digit(kind.__name__)
    if home == "padding":
        return _digit(kind.__name__)
    if home == "upsampling":
        return 1  # behind the units, which are in dimension 1
    if kind is nn.PReLU:
        return 0 if module.num_parameters == 1 else None
    if home == "activation":
        return None if kind.__name__ in _MIXING_ACTIVATIONS else 0
    return 0 if home == "dropout" or kind is nn.Identity else None


def _digit(name: str) -> int | None:
    found = re.fullmatch(r"[A-Za-z]+([123])d", name)
    return int(found[1]) if found else None


def obstacles(
    model: nn.Module, graphs: list[fx.Graph], skipped: Container[nn.Module] = ()
) -> dict[nn.Module, str]:
    """The layers and norms of a model whose widths must not change, with the reason.

    Args:
        model: any module.
        graphs: its traces.
        skipped: modules that stay as they are.
    """
    holders: dict[int, set[nn.Module]] = {}
    for module in model.modules():
        for tensor in module._parameters.values():
            if tensor is not None:
                holders.setdefault(id(tensor), set()).add(module)
    shared = {tensor for tensor, modules in holders.items() if len(modules) > 1}
    read = {node.target for graph in graphs for node in graph.nodes if node.op == "get_attr"}
    named = model.named_parameters(remove_duplicate=False)
    shared |= {id(tensor) for name, tensor in named if name in read}
    found = {}
    for module in model.modules():
        if is_matrix_layer(module) or norm_dims(module) is not None:
            reason = "it is skipped" if module in skipped else _obstacle(module, shared)
            if reason:
                found[module] = reason
    return found


def _obstacle(layer: Any, shared: set[int]) -> str:
    """What about a layer keeps its widths from being changed; "" if nothing does.

    Args:
        layer: a layer with weights, or a norm.
        shared: the ids of parameters that more than one module holds, or that a forward reads itself.
    """
    if any(isinstance(hook, BasePruningMethod) for hook in layer._forward_pre_hooks.values()):
        return "it has masks of torch.nn.utils.prune, which must be removed first"
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks:
        return "it has hooks"
    if "forward" in vars(layer):
        return "its forward is set by other code"
    if hasattr(layer, "parametrizations"):
        return "it is parametrized"
    weight = layer._parameters.get("weight")
    if weight is None and norm_dims(layer) is None:
        return "its weight is no parameter"
    if any(nn.parameter.is_lazy(tensor) for tensor in layer.parameters()):
        return "it is lazy"
    if any(type(tensor) is not nn.Parameter for tensor in layer.parameters()):
        return "its parameters are of a class of their own"
    if any(id(tensor) in shared for tensor in layer.parameters()):
        return "its parameters are used elsewhere, too"
    return ""
