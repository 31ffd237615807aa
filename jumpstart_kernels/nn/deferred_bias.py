"""Layers that leave their bias to the activation behind them, whose kernels add it in the same pass."""

import copy
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, fx, nn

MEASURED_FASTER: frozenset[tuple[str, type[nn.Module]]] = frozenset()
"""Where ``fuse_bias="auto"`` moves a bias, as benchmarks say: kinds of device and of layer, such as
``("cuda", nn.Conv2d)``."""


def measured_kinds() -> set[type[nn.Module]]:
    """The kinds of layers that ``fuse_bias="auto"`` is about, on any device."""
    return {kind for _, kind in MEASURED_FASTER}


class DeferredBias(nn.Module):
    """A layer of PyTorch's whose bias is added by the activation behind it, in training.

    Surgery makes a layer one by its class and the two attributes, and restores it by the same. In ``eval()``
    it adds its bias itself, as PyTorch's kernels do nearly for free there.
    """

    plain: ClassVar[type[nn.Module]]
    """PyTorch's class."""
    unit_dim: ClassVar[int]
    """Where it puts its units, to which the bias belongs."""
    bias: Any
    _bias_link: "BiasLink | None"
    _fuse_bias: bool | str

    def deferred_bias(self) -> Tensor | None:
        """The bias, if the activation has to add it in this forward.

        It depends on this layer and the link alone, so that both sides of the link agree.
        """
        if not self.training:
            return None
        link = self._bias_link
        if link is None or not link.holds():
            return None
        bias = self._parameters.get("bias")
        if bias is None:  # a parametrization may compute it
            bias = self.bias
        if self._fuse_bias is True or bias is None:
            return bias
        return bias if (device_type(bias), self.plain) in MEASURED_FASTER else None

    def own_bias(self) -> Tensor | None:
        """The bias that this layer itself adds in this forward."""
        bias = self.deferred_bias()
        if bias is None:
            return self.bias
        if is_distributed(bias):
            # FSDP shows the forward whole parameters, so this one is split by tensor parallelism, and the
            # activation may see a part of the units. No activation adds this bias any more.
            self._bias_link = None
            return bias
        return None

    def __copy__(self) -> nn.Module:
        """Alone, it does without the link."""
        other = object.__new__(type(self))
        other.__setstate__({**self.__dict__, "_bias_link": None})
        return other

    def __prepare_scriptable__(self) -> nn.Module:
        raise RuntimeError(
            "torch.jit.script does not support layers that leave their bias to an activation: "
            "call jumpstart_kernels.restore_relu(model) first"
        )


class DeferredBiasLinear(DeferredBias, nn.Linear):
    """``nn.Linear``, see :class:`DeferredBias`."""

    plain = nn.Linear
    unit_dim = -1

    def forward(self, input: Tensor) -> Tensor:
        if type(input) is not Tensor and isinstance(input, fx.Proxy):
            return call_of(self, input)
        return F.linear(input, self.weight, self.own_bias())


class _DeferredBiasConv(DeferredBias):
    def forward(self, input: Tensor) -> Tensor:
        if type(input) is not Tensor and isinstance(input, fx.Proxy):
            return call_of(self, input)
        convolution: Any = self
        return convolution._conv_forward(input, convolution.weight, self.own_bias())


class DeferredBiasConv1d(_DeferredBiasConv, nn.Conv1d):
    """``nn.Conv1d``, see :class:`DeferredBias`."""

    plain = nn.Conv1d
    unit_dim = -2


class DeferredBiasConv2d(_DeferredBiasConv, nn.Conv2d):
    """``nn.Conv2d``, see :class:`DeferredBias`."""

    plain = nn.Conv2d
    unit_dim = -3


class DeferredBiasConv3d(_DeferredBiasConv, nn.Conv3d):
    """``nn.Conv3d``, see :class:`DeferredBias`."""

    plain = nn.Conv3d
    unit_dim = -4


DEFERRING: dict[type[nn.Module], type[DeferredBias]] = {
    layer.plain: layer
    for layer in (DeferredBiasLinear, DeferredBiasConv1d, DeferredBiasConv2d, DeferredBiasConv3d)
}


class BiasLink:
    """Which activation adds the bias of which layer, as long as both are where they were when it was made.

    All its references are weak, so that a model is freed as soon as it is dropped, and a part of a model that
    outlives it, or is pickled alone, does without the link.

    Args:
        owner: the module whose forward calls both, or the containers that they are in.
        producer: the path of the layer from there.
        activation: the path of the activation.
    """

    def __init__(self, owner: nn.Module, producer: str, activation: str) -> None:
        edges: list[Edge] = []
        ends = []
        for path in (producer, activation):
            module = owner
            for name in path.split("."):
                holder, module = module, module.get_submodule(name)
                inner = len(holder._modules) if holder is not owner else 0
                edges.append((_reference(holder), name, _reference(module), inner))
            ends.append(_reference(module))
        self._owner = _reference(owner)
        self._producer, self._activation = ends
        self._edges = tuple(edges)

    def owner(self) -> nn.Module | None:
        """The module whose forward calls both; None if it is no more."""
        return self._owner()

    def producer(self) -> Any:
        """The layer; None if it is no more."""
        return self._producer()

    def activation(self) -> Any:
        """The activation; None if it is no more."""
        return self._activation()

    def modules(self) -> list[nn.Module]:
        """The two, and the containers between them and the owner."""
        return [module for _, _, child, _ in self._edges if (module := child()) is not None]

    def holds(self) -> bool:
        """Whether neither of the two was exchanged since, left its model, or got another beside it."""
        for holder_of, name, child_of, inner in self._edges:
            holder, child = holder_of(), child_of()
            if holder is None or child is None or holder._modules.get(name) is not child:
                return False
            if inner and len(holder._modules) != inner:
                return False
        return True

    def bias_for(self, x: Tensor) -> Tensor | None:
        """The bias that the activation adds to ``x``, of its dtype and device; None if it adds none."""
        producer = self._producer()
        bias = None if producer is None else producer.deferred_bias()
        if bias is None:
            return None
        if type(bias) is not nn.Parameter:
            bias = _gathered(bias, x)
        if bias.dtype != x.dtype:  # under autocast
            bias = bias.to(x.dtype)
        # In a replica of nn.DataParallel x is on another device than the layer that the link knows.
        return bias if x.is_cpu or bias.device == x.device else bias.to(x.device)

    def cut(self) -> None:
        """Have the layer add its bias itself from now on."""
        for module in (self._producer(), self._activation()):
            if module is not None:
                module._bias_link = None

    def __getstate__(self) -> Any:
        edges = [(holder(), name, child(), inner) for holder, name, child, inner in self._edges]
        return self._owner(), self._producer(), self._activation(), edges

    def __setstate__(self, state: Any) -> None:
        *modules, edges = state
        self._owner, self._producer, self._activation = map(_reference, modules)
        self._edges = tuple(
            (_reference(holder), name, _reference(child), inner) for holder, name, child, inner in edges
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> "BiasLink | None":
        owner = self._owner()
        if owner is None or id(owner) not in memo:
            return None  # a copy of the layer or of the activation alone: it does without the link
        link = memo[id(self)] = object.__new__(BiasLink)
        link.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return link


Reference = Callable[[], Any]
# A module, what it holds under a name, and how many it holds; 0: any number.
Edge = tuple[Reference, str, Reference, int]


def _reference(module: nn.Module | None) -> Reference:
    return _gone if module is None else weakref.ref(module)


def _gone() -> None:
    """A reference to a module that is no more."""


def device_type(tensor: Any) -> str:
    """The kind of device on which a tensor is used; FSDP may keep its parts on the CPU."""
    return tensor.device_mesh.device_type if is_distributed(tensor) else tensor.device.type


def is_distributed(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor."""
    if type(tensor) is nn.Parameter or type(tensor) is Tensor:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _gathered(bias: Any, x: Tensor) -> Tensor:
    """The whole of a bias that FSDP has sharded again, because the activation is outside of the unit."""
    if not is_distributed(bias):
        return bias
    from torch.distributed.tensor import Partial

    if bias.device != x.device:
        bias = bias.to(x.device)
    # The ranks' gradients are averaged, as FSDP does it.
    return bias.full_tensor(grad_placements=[Partial("avg")] * bias.device_mesh.ndim)


def call_of(module: nn.Module, x: fx.Proxy) -> fx.Proxy:
    """What ``torch.fx`` traces: a call of the module as a leaf, like PyTorch's; it decides when run."""
    tracer: Any = x.tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(module), (x,), {})
