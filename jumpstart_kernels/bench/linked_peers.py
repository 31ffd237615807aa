"""The implementations of linked activations that are compared; see ``peers.py``."""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jumpstart_kernels as jk
from jumpstart_kernels.bench.cases import DTYPES, Case
from jumpstart_kernels.bench.peer import Forward, Peer, compile_forward
from jumpstart_kernels.nn.linked import LINKED_LAYERS
from jumpstart_kernels.ops.activations import LINKED_ACTIVATIONS

SLOPE = 0.25  # of linked PReLU
LINKED = {layer.activation: layer for layer in LINKED_LAYERS}


def plain_linked(activation: str, x: Tensor, weight: Tensor | None = None) -> Tensor:
    """``cat(g(x), g(−x))`` as one writes it in PyTorch; the weight ``[2, C]`` has the slopes."""
    if activation == "linked_prelu":
        weight = x.new_full((2, x.shape[1]), SLOPE) if weight is None else weight
        return torch.cat([F.prelu(x, weight[0]), F.prelu(-x, weight[1])], 1)
    function = {"linked_relu": F.relu, "linked_selu": F.selu, "linked_silu": F.silu}[activation]
    return torch.cat([function(x), function(-x)], 1)


def new_slopes(case: Case, device: torch.device) -> list[nn.Parameter]:
    """A peer's own slopes ``[2, C]`` for a case, if its activation has any."""
    if case.activation != "linked_prelu":
        return []
    return [nn.Parameter(torch.full((2, case.shape[1]), SLOPE, dtype=DTYPES[case.dtype], device=device))]


def plain_linked_peer(case: Case, name: str, definition: Forward, device: torch.device) -> Peer:
    """``cat(g(x), g(−x))`` in PyTorch: five operations forward, six backward."""
    slopes, function = new_slopes(case, device), functools.partial(plain_linked, case.activation)
    return Peer(
        name,
        lambda x: (function(x, *slopes),),
        definition,
        tensors_moved=(10, 11),
        parameters=slopes,
    )


def compiled_linked_peer(case: Case, name: str, definition: Forward, device: torch.device) -> Peer:
    """The same under ``torch.compile``, which can do with one pass each way."""
    slopes, function = new_slopes(case, device), functools.partial(plain_linked, case.activation)
    compiled = compile_forward(lambda x: (function(x, *slopes),))
    cancels = case.activation == "linked_selu"
    return Peer(name, compiled, definition, tensors_moved=(3, 4), parameters=slopes, cancels=cancels)


def linked_peer(case: Case, definition: Forward, backend: str, device: torch.device) -> Peer:
    """The linked layer without a penalty: both halves from one pass, and one back."""
    layer, slopes = make_linked(LINKED[case.activation], case, device)
    return Peer(
        f"{type(layer).__name__} {backend}",
        lambda x: (layer(x),),
        definition,
        **moved_by_linked(case.activation),
        parameters=slopes,
        backend=backend,
    )


def jumpstart_linked_peer(case: Case, definition: Forward, backend: str, device: torch.device) -> Peer:
    """The same with the penalty on the shared pre-activation."""
    layer, slopes = make_linked(LINKED_LAYERS[LINKED[case.activation]], case, device)
    return Peer(
        f"{type(layer).__name__} {backend}",
        lambda x: (layer(x), jk.penalty(layer)),
        definition,
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
