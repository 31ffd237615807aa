"""Fresh weights: those of a whole new layer, of which some rows are taken."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from jumpstart_kernels.surgery.flow.layers import is_linear, is_transposed, kind_of

Initialize = Callable[[nn.Module], Any]


@contextmanager
def drawing_from(generator: torch.Generator | None) -> Iterator[None]:
    """Inside the ``with`` block PyTorch's generator for the CPU is seeded by another one, then as before."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        yield


@torch.no_grad()
def fresh_layer(layer: Any, initialize: Initialize | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a new layer of the same shape, on the CPU, at least in float32.

    Args:
        layer: a linear or convolutional layer.
        initialize: called with the new layer, which PyTorch has initialized.

    Raises:
        ValueError: ``initialize`` has changed its shape, or made it infinite or NaN.
    """
    kind: Any = kind_of(layer)
    dtype = torch.promote_types(layer.weight.dtype, torch.float32)
    options: dict[str, Any] = {"bias": layer.bias is not None, "dtype": dtype, "device": "cpu"}
    if is_linear(layer):
        new = kind(layer.in_features, layer.out_features, **options)
    else:
        for name in ("stride", "padding", "dilation", "groups", "padding_mode"):
            options[name] = getattr(layer, name)
        if is_transposed(layer):
            options["output_padding"] = layer.output_padding
        new = kind(layer.in_channels, layer.out_channels, layer.kernel_size, **options)
    if initialize is not None:
        initialize(new)
    for name in ("weight", "bias"):
        made, old = getattr(new, name), getattr(layer, name)
        if (made is None) != (old is None) or (made is not None and made.shape != old.shape):
            raise ValueError(f"initialize must leave the shape of the {name} of a layer as it is")
        if made is not None and not bool(made.isfinite().all()):
            raise ValueError(f"initialize must give finite weights; the {name} that it made is not")
    return new.weight.detach(), None if new.bias is None else new.bias.detach()
