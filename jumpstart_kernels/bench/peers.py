"""The implementations that are compared, each as a forward of one layer.

Every peer's ``definition`` is what it should compute, in plain PyTorch, to be run in float64; in a case with
a bias of the input with the bias added. Peers with a penalty differ only in which of several tied elements
gets the gradient of an extremum.
"""

import functools
import shutil
from collections.abc import Callable, Sequence
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
from jumpstart_kernels.bench.linked_peers import (
    LINKED,
    compiled_linked_peer,
    jumpstart_linked_peer,
    linked_peer,
    plain_linked,
    plain_linked_peer,
)
from jumpstart_kernels.bench.peer import Forward, Outputs, Peer, compile_forward
from jumpstart_kernels.nn import LAYERS
from jumpstart_kernels.ops import backends
from jumpstart_kernels.ops.activations import ACTIVATIONS

# nn.ReLU is always measured, in a case with a bias bias + nn.ReLU
PEERS = ("linked", "jumpstart", "composite", "compiled", "compiled_plain", "batch_norm", "authors")
ONLY_RELU = ("batch_norm", "authors")  # peers that there are for no other activation, and without a bias
COMPILED = ("compiled", "compiled_plain")
ONLY_BIAS = ("compiled_plain",)  # peers that there are only with a bias, or of linked activations
ONLY_LINKED = ("linked",)  # peers that there are only of these
RELU = "nn.ReLU"
BIAS_RELU = f"bias + {RELU}"


@functools.cache
def plain_function(activation: str) -> Callable[..., Tensor]:
    """PyTorch's own function of an activation, with the parameter that its layer has by default.

    Of a linked one it is ``cat(g(x), g(−x))``, of ``x`` and, where there are slopes, ``[2, C]``.
    """
    if activation in LINKED:
        return functools.partial(plain_linked, activation)
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


def plain_peer(case: Case, device: torch.device) -> Peer:
    """PyTorch's own module, behind the bias of the case: what the ratios refer to.

    With a bias it moves two tensors more in the forward, and one in the backward, for the bias' gradient.
    """
    if case.is_linked:
        return plain_linked_peer(case, plain_name(case), plain_definition(case.activation), device)
    module, bias = LAYERS[case.activation].plain(), new_bias(case, device)
    forward = behind_bias(lambda x: (module(x),), bias)
    moved = (2, 3) if bias is None else (4, 4)
    return Peer(plain_name(case), forward, plain_definition(case.activation), tensors_moved=moved, bias=bias)


def compiled_plain_peer(case: Case, device: torch.device) -> Peer:
    """The same under ``torch.compile``, which can do with one pass each way."""
    if case.is_linked:
        name, definition = f"{plain_name(case)}, compiled", plain_definition(case.activation)
        return compiled_linked_peer(case, name, definition, device)
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
        return jumpstart_linked_peer(case, first_definition(case.activation), backend, device)
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
            definition = plain_definition(case.activation)
            peers += [linked_peer(case, definition, backend, device) for backend in backend_names]
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
