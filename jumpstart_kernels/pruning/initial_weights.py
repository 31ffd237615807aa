"""New weights for a whole model: by initialization, or from a ``state_dict``."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from jumpstart_kernels.pruning.masked_weights import MASK, NAME, ORIGINAL


def initialize_model(
    model: nn.Module, initialize: Callable[[nn.Module], object] | None, seed: int | None
) -> None:
    """Call ``initialize(model)``, or every module's ``reset_parameters()``, parts before the whole.

    With a seed PyTorch's generators are as before afterwards.
    """
    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(sorted(devices, key=str), enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        if initialize is not None:
            initialize(model)
            return
        for module in _in_order_of_construction(model, set()):
            method = _reset_method(module)
            if method is not None:
                method()


def _in_order_of_construction(module: nn.Module, seen: set[nn.Module]) -> Iterator[nn.Module]:
    seen.add(module)
    for child in module.children():
        if child not in seen:
            yield from _in_order_of_construction(child, seen)
    yield module


def _reset_method(module: nn.Module) -> Callable[[], object] | None:
    for name in ("reset_parameters", "_reset_parameters"):  # the second is that of nn.MultiheadAttention
        method = getattr(module, name, None)
        if callable(method):
            return method
    return None


def check_resettable(model: nn.Module) -> None:
    """Raise ValueError if a module has parameters that no ``reset_parameters()`` sets."""
    for name, module in model.named_modules():
        own = any(parameter is not None for parameter in module._parameters.values())
        if parametrize.is_parametrized(module) or (own and _reset_method(module) is None):
            raise ValueError(
                f"initialize must be given: {name or 'the model itself'!r} ({type(module).__name__}) has "
                "parameters that no reset_parameters() sets"
            )


def fitting_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ``state_dict`` of a model, with masks or without, as it is without masks.

    Raises:
        ValueError: a tensor is missing, there is one too many, or one has another shape.
    """
    wanted, given = _without_masks(model.state_dict()), _without_masks(weights)
    for name in [*wanted, *given]:
        if name not in given:
            raise ValueError(f"weights must have {name!r}, as the model does")
        if name not in wanted:
            raise ValueError(f"weights must have no {name!r}, as the model does not")
        value, other = given[name], wanted[name]
        if isinstance(other, Tensor) and value.shape != other.shape:
            raise ValueError(
                f"weights: {name!r} must be of shape {list(other.shape)}, got {list(value.shape)}"
            )
    return given


def _without_masks(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    result = {}
    for name, value in weights.items():
        place = name.rpartition(".")[0]
        dense, original, mask = (f"{place}.{last}".lstrip(".") for last in (NAME, ORIGINAL, MASK))
        if original not in weights or mask not in weights or name not in (original, mask):
            result[name] = value
        elif name == original:
            result[dense] = value
    return result
