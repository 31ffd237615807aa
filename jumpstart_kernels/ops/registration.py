"""Registers an overload of an operator and of its backward with PyTorch's dispatcher."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import Library

from jumpstart_kernels.ops import native
from jumpstart_kernels.ops.backends import Backend


class Function(NamedTuple):
    """An operator, or its backward."""

    name: str
    schema: str
    """Arguments and results, without the name."""
    fake: Callable[..., Any]
    kernel: Callable[..., Any] | None
    """For any device, since the choice of backend has checked it; None where the extension has its own."""


def register(
    library: Library,
    backend: str,
    forward: Function,
    backward: Function,
    *,
    definition: Callable[..., Any],
    make_backward: Callable[[torch._ops.OpOverload], Callable[..., Any]],
    setup_context: Callable[..., None],
) -> torch._ops.OpOverload:
    """Define both overloads of a backend, with fakes, kernels and autograd; return that of the forward.

    Args:
        library: of the namespace ``jumpstart_kernels``.
        backend: the overloads' name.
        forward: the operator. With its own kernel it gets its autograd here, else from the extension.
        backward: its backward, which is differentiable.
        definition: the backward in plain PyTorch, for the double backward.
        make_backward: from the backward's overload to the forward's autograd formula.
        setup_context: what that formula saves.
    """
    overloads = []
    for function in (forward, backward):
        name = f"{function.name}.{backend}"
        library.define(name + function.schema)
        torch.library.register_fake(f"jumpstart_kernels::{name}", function.fake, lib=library)
        if function.kernel is not None:
            library.impl(name, function.kernel, "CompositeExplicitAutograd")
        overloads.append(getattr(getattr(torch.ops.jumpstart_kernels, function.name), backend))
    overload, backward_overload = overloads
    library.impl(f"{backward.name}.{backend}", _differentiable(backward_overload, definition), "Autograd")
    if forward.kernel is not None:
        torch.library.register_autograd(
            f"jumpstart_kernels::{forward.name}.{backend}",
            make_backward(backward_overload),
            setup_context=setup_context,
            lib=library,
        )
    return overload


def register_backends(
    backends: Iterable[Backend], register_one: Callable[[Backend], torch._ops.OpOverload]
) -> dict[str, torch._ops.OpOverload]:
    """The overloads by their backend; that of ``native`` comes in when its extension is loaded."""
    overloads = {}

    def add(backend: Backend) -> None:
        overloads[backend.name] = register_one(backend)

    for backend in backends:
        if backend.kernels is not None:
            add(backend)
        else:
            native.when_loaded(partial(add, backend))
    return overloads


def _differentiable(backward: torch._ops.OpOverload, definition: Callable[..., Any]) -> Callable[..., Any]:
    """The autograd kernel of a backward operator: its definition if it must be differentiable."""

    def run(*arguments):
        tensors = (argument for argument in arguments if isinstance(argument, Tensor))
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return definition(*arguments)
        with torch._C._AutoDispatchBelowAutograd():
            return backward(*arguments)

    return run
