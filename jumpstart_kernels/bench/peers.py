"""The implementations that are measured side by side, each as a forward of one layer.

Every peer's ``definition`` is what it should compute, in plain PyTorch, to be run in float64. The peers that
have a penalty differ only in who gets the gradient of an extremum that several elements hold.
"""

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
from jumpstart_kernels import backends
from jumpstart_kernels.bench.authors import attach, load_regularization
from jumpstart_kernels.bench.cases import DTYPES, Case

Outputs = tuple[Tensor, ...]  # the layer's output, and the penalty where there is one
Forward = Callable[[Tensor], Outputs]
PEERS = ("jumpstart", "composite", "compiled", "batch_norm", "authors")  # beside nn.ReLU, always measured
RELU = "nn.ReLU"


@dataclass
class Peer:
    """One implementation of a ReLU layer, regularized or not."""

    name: str
    forward: Forward
    definition: Forward
    tensors_moved: tuple[int, int] | None = None
    """The least tensors of the input's size that forward and backward must move; None: not defined here."""
    mask: bool = False
    """Whether a bit an element has to go beside them, written in the forward and read in the backward."""
    parameters: Sequence[Tensor] = ()
    before_relu: Callable[[Tensor], Tensor] | None = None
    """What goes into the ReLU if it is computed, so that its sign near 0 is a matter of rounding."""
    backend: str | None = None
    ones: list[Tensor] = field(default_factory=list)
    """The gradient of the penalty, where there is one."""

    def active(self) -> AbstractContextManager:
        """What the peer runs in."""
        return nullcontext() if self.backend is None else jk.use_backend(self.backend)

    def prepare(self, x: Tensor) -> None:
        """Run once: what compiles compiles, and the penalty's gradient is there."""
        self.ones = [torch.ones_like(penalty) for penalty in self.forward(x)[1:]]

    def backward(self, x: Tensor, outputs: Outputs, grad: Tensor) -> None:
        """The gradients of ``sum(output · grad) + penalty``, of ``x`` and the parameters, afresh."""
        x.grad = None
        for parameter in self.parameters:
            parameter.grad = None
        torch.autograd.backward(outputs, [grad, *self.ones])

    def model_bytes(self, elements: int, size: int) -> tuple[float, float] | None:
        """The least bytes that forward and backward move, for elements of ``size`` bytes."""
        if self.tensors_moved is None:
            return None
        forward, backward = (elements * (tensors * size + self.mask / 8) for tensors in self.tensors_moved)
        return forward, backward


def penalty(x: Tensor, extrema: Callable[[Tensor, int], tuple[Tensor, Tensor]]) -> Tensor:
    """The balanced penalty of ``[N, C, *]``: both signs by halves, mean over units plus mean over points."""
    means = []
    for kept in (1, 0):  # units, points
        maxima, minima = extrema(x, kept)
        means.append((F.relu(1 - maxima) + F.relu(1 + minima)).mean() / 2)
    return means[0] + means[1]


def shared_extrema(x: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Extrema over all dims but ``kept``; those that tie share the gradient."""
    dims = [dim for dim in range(x.dim()) if dim != kept]
    return x.amax(dims), x.amin(dims)


def first_extrema(x: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """The same; the first in row-major order gets the gradient."""
    rows = x.movedim(kept, 0).flatten(1)
    return rows.max(1).values, rows.min(1).values


def nested_extrema(x: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """The same; the first along the other of the dims 0 and 1 of what is first behind them."""
    maxima, minima = x.max(1 - kept).values, x.min(1 - kept).values
    maxima, minima = maxima.reshape(len(maxima), -1), minima.reshape(len(minima), -1)
    return maxima.max(1).values, minima.min(1).values


def composite(x: Tensor) -> Outputs:
    """ReLU and penalty as one writes them in PyTorch."""
    return F.relu(x), penalty(x, shared_extrema)


def first_definition(x: Tensor) -> Outputs:
    return F.relu(x), penalty(x, first_extrema)


def nested_definition(x: Tensor) -> Outputs:
    return F.relu(x), penalty(x, nested_extrema)


def batch_normalize(x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, training=True)


def batch_norm_definition(x: Tensor) -> Outputs:
    return (F.relu(batch_normalize(x)),)


def relu_peer() -> Peer:
    relu = nn.ReLU()
    return Peer(RELU, lambda x: (relu(x),), lambda x: (F.relu(x),), tensors_moved=(2, 3))


def regularized_peer(name: str, forward: Forward, definition: Forward, backend: str | None = None) -> Peer:
    """ReLU and penalty. Whoever computes them, the least is to move the input and a result, and a mask."""
    return Peer(name, forward, definition, tensors_moved=(2, 2), mask=True, backend=backend)


def jumpstart_peer(backend: str) -> Peer:
    layer = jk.JumpstartReLU()
    name = f"JumpstartReLU {backend}"
    return regularized_peer(name, lambda x: (layer(x), jk.penalty(layer)), first_definition, backend)


def composite_peer() -> Peer:
    return regularized_peer("plain PyTorch", composite, composite)


def compiled_peer() -> Peer:
    torch._dynamo.reset()  # what other shapes left behind
    compiled = torch.compile(composite, fullgraph=True, dynamic=False)
    return regularized_peer("plain PyTorch, compiled", compiled, composite)


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
    """``nn.ReLU`` and the peers of ``names``; Jumpstart once for each backend.

    Args:
        names: of ``PEERS``.
        backend_names: of the Jumpstart layer.
        case: whose shape and dtype they are for, on ``device``.
        checkout: of the authors' code, where ``names`` has ``"authors"``.
    """
    peers = [relu_peer()]
    for name in PEERS:
        if name not in names:
            continue
        if name == "jumpstart":
            peers += [jumpstart_peer(backend) for backend in backend_names]
        elif name == "batch_norm":
            peers.append(batch_norm_peer(case, device))
        elif name == "authors":
            assert checkout is not None  # without one there is no such name
            peers.append(authors_peer(checkout))
        else:
            peers.append({"composite": composite_peer, "compiled": compiled_peer}[name]())
    return peers


def default_backends(device_type: str) -> list[str]:
    """Those that are there; on the CPU without Triton's interpreter, which is for tests."""
    return [
        name
        for name in backends.BACKENDS
        if backends.unavailable(name, device_type) is None and (name != "triton" or device_type != "cpu")
    ]


def cannot_compile(device_type: str) -> str | None:
    """Why ``torch.compile`` cannot run on a device type, or None where it can."""
    if device_type == "cuda":
        return None if find_spec("triton") is not None else "torch.compile needs Triton on a GPU"
    found = any(map(shutil.which, ("c++", "g++", "clang++", "cl")))
    return None if found else "torch.compile needs a C++ compiler on the CPU"
