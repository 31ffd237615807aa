"""The implementations that are compared, each as a forward of one layer.

Every peer's ``definition`` is what it should compute, in plain PyTorch, to be run in float64. Peers with a
penalty differ only in which of several tied elements gets the gradient of an extremum.
"""

import functools
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jumpstart_kernels as jk
from jumpstart_kernels.bench.authors import attach, load_regularization
from jumpstart_kernels.bench.cases import DTYPES, Case
from jumpstart_kernels.bench.definition import first_extrema, nested_extrema, penalty, shared_extrema
from jumpstart_kernels.nn import LAYERS
from jumpstart_kernels.ops import backends
from jumpstart_kernels.ops.activations import ACTIVATIONS

Outputs = tuple[Tensor, ...]  # the layer's output, and the penalty if there is one
Forward = Callable[[Tensor], Outputs]
PEERS = ("jumpstart", "composite", "compiled", "batch_norm", "authors")  # nn.ReLU is always measured
ONLY_RELU = ("batch_norm", "authors")  # peers that there are for no other activation
RELU = "nn.ReLU"
PENALTY_WEIGHT = 0.1  # in the loss of a step; its value does not change the time


class HandGradient(torch.autograd.Function):
    """A loss of value 0 whose gradient for the output is handed to it: it moves no bytes of its own."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, grad: Tensor) -> Tensor:
        ctx.grad = grad
        return output.new_zeros((), dtype=torch.float32)  # as a criterion computes it in mixed precision

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[Tensor, None]:
        return ctx.grad, None


@dataclass
class Peer:
    """One implementation of an activation's layer, regularized or not."""

    name: str
    forward: Forward
    definition: Forward
    tensors_moved: tuple[int, int] | None = None
    """Tensors of the input's size that forward and backward must move at least; None: not defined."""
    mask: bool = False
    """Whether one bit per element is also written in the forward and read in the backward."""
    parameters: Sequence[Tensor] = ()
    before_relu: Callable[[Tensor], Tensor] | None = None
    """How the ReLU's input is computed, if it is: its sign near 0 then depends on rounding."""
    backend: str | None = None
    ones: list[Tensor] = field(default_factory=list)
    """The gradient of the penalty, if there is one."""

    def active(self) -> AbstractContextManager:
        """The context in which the peer runs."""
        return nullcontext() if self.backend is None else jk.use_backend(self.backend)

    def prepare(self, x: Tensor) -> None:
        """Run once, to trigger compilation and create the penalty's gradient."""
        self.ones = [torch.ones_like(penalty) for penalty in self.forward(x)[1:]]

    def backward(self, x: Tensor, outputs: Outputs, grad: Tensor) -> None:
        """Fresh gradients of ``sum(output · grad) + penalty`` for ``x`` and the parameters."""
        self._clear(x)
        torch.autograd.backward(outputs, [grad, *self.ones])

    def step(self, x: Tensor, grad: Tensor) -> None:
        """Forward and backward as a training loop has them: gradients are cleared first, and one loss is run.

        Fresh gradients of ``sum(output · grad) + PENALTY_WEIGHT · penalty`` for ``x`` and the parameters.
        """
        self._clear(x)
        output, *penalties = self.forward(x)
        loss = HandGradient.apply(output, grad)
        for each in penalties:
            loss = loss + PENALTY_WEIGHT * each
        loss.backward()

    def _clear(self, x: Tensor) -> None:
        x.grad = None
        for parameter in self.parameters:
            parameter.grad = None

    def model_bytes(self, elements: int, size: int) -> tuple[float, float] | None:
        """The minimum bytes that forward and backward move, for elements of ``size`` bytes."""
        if self.tensors_moved is None:
            return None
        forward, backward = (elements * (tensors * size + self.mask / 8) for tensors in self.tensors_moved)
        return forward, backward


@functools.cache
def plain_function(activation: str) -> Callable[[Tensor], Tensor]:
    """PyTorch's own function of an activation, with the parameter that its layer has by default."""
    value, parameter = ACTIVATIONS[activation].value, LAYERS[activation]().activation_parameter
    return lambda x: value(x, parameter, False)


@functools.cache
def composite(activation: str) -> Forward:
    """Activation and penalty as one writes them in PyTorch."""
    function = plain_function(activation)
    return lambda x: (function(x), penalty([x], shared_extrema))


@functools.cache
def first_definition(activation: str) -> Forward:
    function = plain_function(activation)
    return lambda x: (function(x), penalty([x], first_extrema))


def nested_definition(x: Tensor) -> Outputs:
    return F.relu(x), penalty([x], nested_extrema)


def batch_normalize(x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, training=True)


def batch_norm_definition(x: Tensor) -> Outputs:
    return (F.relu(batch_normalize(x)),)


def plain_peer(activation: str) -> Peer:
    """PyTorch's own module: what the ratios refer to."""
    function, module = plain_function(activation), LAYERS[activation].plain()
    name = f"nn.{type(module).__name__}"
    return Peer(name, lambda x: (module(x),), lambda x: (function(x),), tensors_moved=(2, 3))


def regularized_peer(name: str, forward: Forward, definition: Forward, backend: str | None = None) -> Peer:
    """Activation and penalty. Whoever computes them has to move the input and a result, and a mask."""
    return Peer(name, forward, definition, tensors_moved=(2, 2), mask=True, backend=backend)


def jumpstart_peer(activation: str, backend: str) -> Peer:
    layer, definition = LAYERS[activation](), first_definition(activation)
    name = f"{type(layer).__name__} {backend}"
    return regularized_peer(name, lambda x: (layer(x), jk.penalty(layer)), definition, backend)


def composite_peer(activation: str) -> Peer:
    return regularized_peer("plain PyTorch", composite(activation), composite(activation))


def compiled_peer(activation: str) -> Peer:
    torch._dynamo.reset()  # drop the graphs of other shapes
    compiled = torch.compile(composite(activation), fullgraph=True, dynamic=False)
    return regularized_peer("plain PyTorch, compiled", compiled, composite(activation))


def batch_norm_peer(case: Case, device: torch.device) -> Peer:
    kinds: dict[int, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    module = kinds[len(case.shape)](case.shape[1], device=device, dtype=DTYPES[case.dtype])
    relu = nn.ReLU()
    return Peer(
        "BatchNorm + nn.ReLU",
        lambda x: (relu(module(x)),),
        batch_norm_definition,
        parameters=list(module.parameters()),
        before_relu=batch_normalize,
    )


def authors_peer(checkout: Path) -> Peer:
    regularization = attach(load_regularization(checkout))

    def forward(x: Tensor) -> Outputs:
        regularization.hook(None, None, x, name="layer")
        return F.relu(x), regularization.loss

    return regularized_peer("authors' code", forward, nested_definition)


def make_peers(
    names: Sequence[str],
    backend_names: Sequence[str],
    case: Case,
    device: torch.device,
    checkout: Path | None = None,
) -> list[Peer]:
    """PyTorch's own activation, then the peers of ``names``; Jumpstart once for each backend.

    Args:
        names: of ``PEERS``.
        backend_names: of the Jumpstart layer.
        case: whose activation, shape and dtype they are for, on ``device``.
        checkout: of the authors' code, where ``names`` has ``"authors"``.
    """
    peers = [plain_peer(case.activation)]
    for name in PEERS:
        if name not in names:
            continue
        if name == "jumpstart":
            peers += [jumpstart_peer(case.activation, backend) for backend in backend_names]
        elif name == "batch_norm":
            peers.append(batch_norm_peer(case, device))
        elif name == "authors":
            assert checkout is not None  # the name is only allowed with a checkout
            peers.append(authors_peer(checkout))
        else:
            make = {"composite": composite_peer, "compiled": compiled_peer}[name]
            peers.append(make(case.activation))
    return peers


def default_backends(device_type: str) -> list[str]:
    """The available backends; on the CPU without Triton's interpreter, which is for tests."""
    return [
        name
        for name in backends.BACKENDS
        if backends.unavailable(name, device_type) is None and (name != "triton" or device_type != "cpu")
    ]


def cannot_compile(device_type: str) -> str | None:
    """Why ``torch.compile`` cannot run on a device type, or None if it can."""
    if device_type == "cuda":
        return None if find_spec("triton") is not None else "torch.compile needs Triton on a GPU"
    found = any(map(shutil.which, ("c++", "g++", "clang++", "cl")))
    return None if found else "torch.compile needs a C++ compiler on the CPU"
