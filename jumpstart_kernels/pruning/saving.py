"""Files of pruned models: state dict and widths, loaded into the model that the original code makes."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from jumpstart_kernels.nn.recording import check_module
from jumpstart_kernels.pruning.network import stand_in, stand_ins
from jumpstart_kernels.surgery.flow.layers import is_matrix_layer, norm_dims

FORMAT = "jumpstart_kernels pruned model, 1"
_ATTRIBUTES = ("in_features", "out_features", "in_channels", "out_channels", "groups", "num_features")


def save_pruned(model: nn.Module, removed: tuple[str, ...], path: str | Path) -> None:
    """Write what :func:`load_pruned` reads."""
    widths = {}
    for name, module in model.named_modules():
        if is_matrix_layer(module) or norm_dims(module) is not None:
            widths[name] = {each: getattr(module, each) for each in _ATTRIBUTES if hasattr(module, each)}
    removed = tuple(dict.fromkeys((*removed, *stand_ins(model))))
    content = {
        "format": FORMAT,
        "state_dict": dict(model.state_dict()),
        "widths": widths,
        "removed": list(removed),
        "copies": [name for name in removed if not isinstance(model.get_submodule(name), nn.Identity)],
    }
    torch.save(content, path)


def load_pruned(model: nn.Module, path: str | Path) -> nn.Module:
    """Make a model as small as the one that :meth:`PruneResult.save` has written, in place.

    Args:
        model: as the original code makes it, before it was pruned; its weights do not matter.
        path: of the file.

    Returns:
        ``model`` itself, with the widths and weights of the file, on its device, in its dtype and in its
        training mode: call ``eval()`` before inference.

    Raises:
        TypeError: ``model`` is no module.
        FileNotFoundError: there is no such file.
        ValueError: it is no file of a pruned model, or of another model. ``model`` is as before.
    """
    check_module(model)
    if not Path(path).is_file():
        raise FileNotFoundError(f"path: there is no file {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"path must be a file of PruneResult.save: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"path must be a file of PruneResult.save, in the format {FORMAT!r}: {path}")
    state, widths, removed = content["state_dict"], content["widths"], content["removed"]
    modules = dict(model.named_modules(remove_duplicate=False))
    _check_fits(model, modules, state, widths, removed)
    for name in removed:
        old = modules[name]
        for parent in list(model.modules()):
            for key, child in parent._modules.items():
                if child is old:
                    parent._modules[key] = stand_in(name in content["copies"])
    for name, sizes in widths.items():
        module = modules[name]
        for attribute, size in sizes.items():
            setattr(module, attribute, size)
        for key, old_tensor in [*module._parameters.items(), *module._buffers.items()]:
            new = state.get(f"{name}.{key}" if name else key)
            if old_tensor is None or new is None:
                continue
            empty = torch.empty_like(new, dtype=old_tensor.dtype, device=old_tensor.device)
            if isinstance(old_tensor, nn.Parameter):
                setattr(module, key, nn.Parameter(empty, old_tensor.requires_grad))
            else:
                module._buffers[key] = empty
    model.load_state_dict(state)
    return model


def _check_fits(
    model: nn.Module, modules: dict[str, nn.Module], state: Any, widths: Any, removed: list[str]
) -> None:
    """Raise unless the model has all that the file names."""
    for name in (*widths, *removed):
        if name not in modules:
            raise ValueError(f"path must be a file of this model, which has no module {name!r}")
    for name in widths:
        module = modules[name]
        if not is_matrix_layer(module) and norm_dims(module) is None:
            raise ValueError(f"path must be a file of this model, whose {name!r} has no widths")
    out = [modules[name] for name in removed]
    gone = tuple(f"{name}." for name, module in modules.items() if any(module is each for each in out))
    expected = {key for key in model.state_dict() if not key.startswith(gone)}
    if expected != set(state):
        different = ", ".join(sorted(expected ^ set(state))[:5])
        raise ValueError(f"path must be a file of this model, whose state dict differs: {different}")
    for key, tensor in model.state_dict().items():
        free = 2 if key.rpartition(".")[0] in widths else 0  # dimensions that may be others
        old, new = tensor.shape, state[key].shape if key in state else tensor.shape
        if len(old) != len(new) or new[free:] != old[free:]:
            raise ValueError(f"path must be a file of this model, whose {key} has other dimensions")
