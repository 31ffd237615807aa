"""Suspending the recording of a model's forwards, and dropping records."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from jumpstart_kernels.nn import records
from jumpstart_kernels.nn.activation import JumpstartActivation

_pausing = threading.Lock()


@contextmanager
def no_record(model: nn.Module) -> Iterator[None]:
    """Inside the ``with`` block a model's forwards do not count towards its penalty; gradients are unchanged.

    For forwards that serve another loss: a GAN's discriminator in the generator's step, a second batch that
    only measures consistency.

    >>> with jk.no_record(discriminator):
    ...     generator_loss = -discriminator(generator(z)).mean()
    ... generator_loss.backward()

    They do not inject either (:func:`~jumpstart_kernels.inject_penalty`). Earlier records are kept. Blocks
    can be nested, and apply to all threads that run the model.

    Args:
        model: any module or wrapper: applies to all Jumpstart layers in it.

    Raises:
        TypeError: ``model`` is not a module.
    """
    check_module(model)
    layers = layers_of(model)
    _add_pauses(layers, 1)
    try:
        yield
    finally:
        # Including layers that a forward in the block has added, and excluding those restored meanwhile.
        _add_pauses(list(dict.fromkeys([*layers, *layers_of(model)])), -1)


def named_layers(model: nn.Module) -> list[tuple[str, JumpstartActivation]]:
    """All Jumpstart layers of a model, by name."""
    return [
        (name, module) for name, module in model.named_modules() if isinstance(module, JumpstartActivation)
    ]


def layers_of(model: nn.Module) -> list[JumpstartActivation]:
    """All Jumpstart layers of a model."""
    if torch.compiler.is_dynamo_compiling():
        return [module for module in model.modules() if isinstance(module, JumpstartActivation)]
    # Generators that yield every module through all of its parents take longer than a thin layer's forward.
    layers: list[JumpstartActivation] = []
    if isinstance(model, JumpstartActivation):
        layers.append(model)
    _collect_layers(model, {model}, layers)
    return layers


def _collect_layers(module: nn.Module, seen: set[nn.Module], layers: list[JumpstartActivation]) -> None:
    """Those inside a module, in the order of ``modules()``."""
    for child in module._modules.values():
        if child is None or child in seen:
            continue
        seen.add(child)
        if isinstance(child, JumpstartActivation):
            layers.append(child)
        if child._modules:
            _collect_layers(child, seen, layers)


def name_of(model: nn.Module, layer: JumpstartActivation) -> str:
    """The name of one of its layers."""
    return next(name for name, module in named_layers(model) if module is layer)


def _add_pauses(layers: list[JumpstartActivation], count: int) -> None:
    if not torch.compiler.is_dynamo_compiling():  # which does not support locks
        _pausing.acquire()
    try:
        for layer in layers:
            if isinstance(layer, JumpstartActivation):
                layer._pauses = max(0, layer._pauses + count)
    finally:
        if not torch.compiler.is_dynamo_compiling():
            _pausing.release()


def clear_records(model: nn.Module) -> None:
    """Drop what the model's layers have recorded since the last penalty, e.g. after a failed forward."""
    check_module(model)
    records.clear(layers_of(model))


def check_module(model: object) -> None:
    """Raise for a model that is not a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
