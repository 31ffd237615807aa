"""The implementations that are compared, each as a forward of one layer.

Every peer's ``definition`` is what it should compute, in plain PyTorch, to be run in float64; in a case with
a bias of the input with the bias added. Peers with a penalty differ only in which of several tied elements
gets the gradient of an extremum.
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
from jumpstart_kernels.bench.cases import DTYPES, Case, add_bias, make_bias
from jumpstart_kernels.bench.definition import first_extrema, nested_extrema, penalty, shared_extrema
from jumpstart_kernels.nn import LAYERS
from jumpstart_kernels.nn.linked import LINKED_LAYERS
from jumpstart_kernels.ops import backends
from jumpstart_kernels.ops.activations import ACTIVATIONS, LINKED_ACTIVATIONS

Outputs = tuple[Tensor, ...]  # the layer's output, and the penalty if there is one
Forward = Callable[[Tensor], Outputs]
# nn.ReLU is always measured, in a case with a bias bias + nn.ReLU
PEERS = ("linked", "jumpstart", "composite", "compiled", "compiled_plain", "batch_norm", "authors")
ONLY_RELU = ("batch_norm", "authors")  # peers that there are for no other activation, and without a bias
COMPILED = ("compiled", "compiled_plain")
ONLY_BIAS = ("compiled_plain",)  # peers that there are only with a bias, or of linked activations
ONLY_LINKED = ("linked",)  # peers that there are only of these
RELU = "nn.ReLU"
BIAS_RELU = f"bias + {RELU}"
SLOPE = 0.25  # of linked PReLU
LINKED = {layer.activation: layer for layer in LINKED_LAYERS}
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
    mask: int = 0
    """Bits per element that are also written in the forward and read in the backward."""
    parameters: Sequence[Tensor] = ()
    before_relu: Callable[[Tensor], Tensor] | None = None
    """How the ReLU's input is computed, if it is: its sign near 0 then depends on rounding."""
    backend: str | None = None
    bias: Tensor | None = None
    """What the forward adds to its input; one of the parameters."""
    model: nn.Module | None = None
    """Kept for the forward, which runs a part of it."""
    ones: list[Tensor] = field(default_factory=list)
    """The gradient of the penalty, if there is one."""

    def __post_init__(self) -> None:
        if self.bias is not None:
            self.parameters = [*self.parameters, self.bias]

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
def plain_function(activation: str) -> Callable[..., Tensor]:
    """PyTorch's own function of an activation, with the parameter that its layer has by default.

    Of a linked one it is ``cat(g(x), g(−x))``, of ``x`` and, where there are slopes, ``[2, C]``.
    """
    if activation in LINKED:
        return functools.partial(plain_linked, activation)
    value, parameter = ACTIVATIONS[activation].value, LAYERS[activation]().activation_parameter
    return lambda x: value(x, parameter, False)


def plain_linked(activation: str, x: Tensor, weight: Tensor | None = None) -> Tensor:
    if activation == "linked_prelu":
        weight = x.new_full((2, x.shape[1]), SLOPE) if weight is None else weight
        return torch.cat([F.prelu(x, weight[0]), F.prelu(-x, weight[1])], 1)
    function = {"linked_relu": F.relu, "linked_selu": F.selu, "linked_silu": F.silu}[activation]
    return torch.cat([function(x), function(-x)], 1)


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


@functools.cache
def plain_definition(activation: str) -> Forward:
    function = plain_function(activation)
    return lambda x: (function(x),)


def new_bias(case: Case, device: torch.device) -> nn.Parameter | None:
    """A peer's own bias for a case; None for one without."""
    return nn.Parameter(make_bias(case, device)) if case.bias else None


def behind_bias(forward: Forward, bias: Tensor | None) -> Forward:
    """``forward`` of the input with the bias added by PyTorch; ``forward`` itself without one."""
    return forward if bias is None else lambda x: forward(add_bias(x, bias))


def plain_name(case: Case) -> str:
    if case.is_linked:
        name = case.activation.removeprefix("linked_")
        return f"cat({name}(x), {name}(-x))"
    name = f"nn.{LAYERS[case.activation].plain.__name__}"
    return f"bias + {name}" if case.bias else name


def new_slopes(case: Case, device: torch.device) -> list[nn.Parameter]:
    """A peer's own slopes ``[2, C]`` for a case, if its activation has any."""
    if case.activation != "linked_prelu":
        return []
    return [nn.Parameter(torch.full((2, case.shape[1]), SLOPE, dtype=DTYPES[case.dtype], device=device))]


def plain_linked_peer(case: Case, device: torch.device) -> Peer:
    """``cat(g(x), g(−x))`` in PyTorch: five operations forward, six backward."""
    slopes, function = new_slopes(case, device), plain_function(case.activation)
    definition = plain_definition(case.activation)
    return Peer(
        plain_name(case),
        lambda x: (function(x, *slopes),),
        definition,
        tensors_moved=(10, 11),
        parameters=slopes,
    )


def compiled_linked_peer(case: Case, device: torch.device) -> Peer:
    """The same under ``torch.compile``, which can do with one pass each way."""
    slopes, function = new_slopes(case, device), plain_function(case.activation)
    compiled = compile_forward(lambda x: (function(x, *slopes),))
    definition = plain_definition(case.activation)
    name = f"{plain_name(case)}, compiled"
    return Peer(name, compiled, definition, tensors_moved=(3, 4), parameters=slopes)


def linked_peer(case: Case, backend: str, device: torch.device) -> Peer:
    """The linked layer without a penalty: both halves from one pass, and one back."""
    layer, slopes = make_linked(LINKED[case.activation], case, device)
    return Peer(
        f"{type(layer).__name__} {backend}",
        lambda x: (layer(x),),
        plain_definition(case.activation),
        **moved_by_linked(case.activation),
        parameters=slopes,
        backend=backend,
    )


def jumpstart_linked_peer(case: Case, backend: str, device: torch.device) -> Peer:
    """The same with the penalty on the shared pre-activation."""
    layer, slopes = make_linked(LINKED_LAYERS[LINKED[case.activation]], case, device)
    return Peer(
        f"{type(layer).__name__} {backend}",
        lambda x: (layer(x), jk.penalty(layer)),
        first_definition(case.activation),
        **moved_by_linked(case.activation),
        parameters=slopes,
        backend=backend,
        model=layer,
    )


def make_linked(kind: type[nn.Module], case: Case, device: torch.device) -> tuple[nn.Module, list[Tensor]]:
    """A layer with slopes for each unit, if it has any, and these."""
    options = {"num_parameters": case.shape[1], "init": SLOPE} if case.activation == "linked_prelu" else {}
    layer = kind(**options).to(device, DTYPES[case.dtype])
    return layer, list(layer.parameters())


def moved_by_linked(activation: str) -> dict[str, Any]:
    from_sign = LINKED_ACTIVATIONS[activation].from_sign
    return {"tensors_moved": (3, 3 if from_sign else 4), "mask": 2 if from_sign else 0}


def plain_peer(case: Case, device: torch.device) -> Peer:
    """PyTorch's own module, behind the bias of the case: what the ratios refer to.

    With a bias it moves two tensors more in the forward, and one in the backward, for the bias' gradient.
    """
    if case.is_linked:
        return plain_linked_peer(case, device)
    module, bias = LAYERS[case.activation].plain(), new_bias(case, device)
    forward = behind_bias(lambda x: (module(x),), bias)
    moved = (2, 3) if bias is None else (4, 4)
    return Peer(plain_name(case), forward, plain_definition(case.activation), tensors_moved=moved, bias=bias)


def compiled_plain_peer(case: Case, device: torch.device) -> Peer:
    """The same under ``torch.compile``, which can do with one pass each way."""
    if case.is_linked:
        return compiled_linked_peer(case, device)
    forward, bias = plain_definition(case.activation), new_bias(case, device)
    compiled = compile_forward(behind_bias(forward, bias))
    return Peer(f"{plain_name(case)}, compiled", compiled, forward, tensors_moved=(2, 3), bias=bias)


def regularized_peer(
    name: str,
    forward: Forward,
    definition: Forward,
    backend: str | None = None,
    bias: Tensor | None = None,
) -> Peer:
    """Activation and penalty. Whoever computes them has to move the input and a result, and a mask."""
    return Peer(name, forward, definition, tensors_moved=(2, 2), mask=1, backend=backend, bias=bias)


def jumpstart_peer(case: Case, backend: str, device: torch.device) -> Peer:
    if case.is_linked:
        return jumpstart_linked_peer(case, backend, device)
    bias = new_bias(case, device)
    model = nn.Sequential(LAYERS[case.activation]()) if bias is None else fused_model(case, bias)
    layer = model[-1]

    def forward(x: Tensor) -> Outputs:
        return layer(x), jk.penalty(layer)

    name = f"{type(layer).__name__} {backend}"
    peer = regularized_peer(name, forward, first_definition(case.activation), backend, bias)
    peer.model = model  # the layer itself only has weak references
    return peer


def fused_model(case: Case, bias: nn.Parameter) -> nn.Sequential:
    """A layer of PyTorch's that leaves ``bias`` to the Jumpstart layer behind it, which is what runs."""
    kinds: dict[int, Any] = {2: nn.Linear, 3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
    producer = kinds[len(case.shape)](1, case.shape[1], *([] if len(case.shape) == 2 else [1]))
    producer.bias = bias
    model = nn.Sequential(producer, LAYERS[case.activation].plain())
    jk.replace_relu(model, fuse_bias=True, activations=(case.activation,))
    return model


def composite_peer(case: Case, device: torch.device) -> Peer:
    definition, bias = composite(case.activation), new_bias(case, device)
    return regularized_peer("plain PyTorch", behind_bias(definition, bias), definition, bias=bias)


def compiled_peer(case: Case, device: torch.device) -> Peer:
    definition, bias = composite(case.activation), new_bias(case, device)
    compiled = compile_forward(behind_bias(definition, bias))
    return regularized_peer("plain PyTorch, compiled", compiled, definition, bias=bias)


def compile_forward(forward: Forward) -> Forward:
    torch._dynamo.reset()  # drop the graphs of other shapes
    return torch.compile(forward, fullgraph=True, dynamic=False)


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

    In a case with a bias all of them add it.

    Args:
        names: of ``PEERS``, those that there are for the case.
        backend_names: of the Jumpstart layer.
        case: whose activation, bias, shape and dtype they are for, on ``device``.
        checkout: of the authors' code, where ``names`` has ``"authors"``.
    """
    peers = [plain_peer(case, device)]
    for name in PEERS:
        if name not in names:
            continue
        if name == "linked":
            peers += [linked_peer(case, backend, device) for backend in backend_names]
        elif name == "jumpstart":
            peers += [jumpstart_peer(case, backend, device) for backend in backend_names]
        elif name == "batch_norm":
            peers.append(batch_norm_peer(case, device))
        elif name == "authors":
            assert checkout is not None  # the name is only allowed with a checkout
            peers.append(authors_peer(checkout))
        else:
            makers = {
                "composite": composite_peer,
                "compiled": compiled_peer,
                "compiled_plain": compiled_plain_peer,
            }
            peers.append(makers[name](case, device))
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
