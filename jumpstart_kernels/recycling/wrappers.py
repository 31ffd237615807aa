"""The model inside its wrappers, and what is agreed on among the ranks of one that is data-parallel."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from jumpstart_kernels.nn.deferred_bias import is_distributed
from jumpstart_kernels.nn.recording import check_module
from jumpstart_kernels.recycling.constants import Known
from jumpstart_kernels.surgery.code import is_of_torch
from jumpstart_kernels.surgery.flow.inputs import check_wrappers

_INNER = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}


class Unwrapped(NamedTuple):
    """A model without its wrappers."""

    model: nn.Module
    prefixes: tuple[str, ...]  # of the names of modules, from the outermost wrapper on
    group: Any  # the process group of the ranks that have the same model; None without one

    def name_of(self, layer: str, modules: dict[str, nn.Module]) -> str | None:
        """The name of a module in the model itself, from that in any of the wrappers; None if it has none."""
        for prefix in ("", *self.prefixes):
            if layer.startswith(prefix):
                layer = layer[len(prefix) :]
            if layer in modules:
                return layer
        return None


def unwrap(model: nn.Module) -> Unwrapped:
    """The model itself.

    Raises:
        TypeError: it is no module.
        ValueError: it is sharded, on no device, or has a wrapper around a part of it.
    """
    check_module(model)
    prefixes: list[str] = []
    group = None
    while is_of_torch(type(model)) and type(model).__name__ in _INNER:
        group = getattr(model, "process_group", group)
        attribute = _INNER[type(model).__name__]
        prefixes.append(f"{attribute}.")
        model = getattr(model, attribute)
    sharded = any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules())
    if sharded or any(is_distributed(parameter) for parameter in model.parameters()):
        raise ValueError(
            "model is sharded (FSDP, tensor parallelism): no rank has whole units to recycle. Recycle before "
            "it is sharded, or load a full checkpoint into a model that is not, and shard that again"
        )
    check_wrappers(model)
    if any(each.is_meta for each in (*model.parameters(), *model.buffers())):
        raise ValueError("model is on the meta device: materialize its parameters first")
    return Unwrapped(model, tuple(prefixes), group)


def agree(chosen: dict[str, Tensor], group: Any, device: torch.device) -> dict[str, Tensor]:
    """The units of which all ranks say the same, by layer: of bool ``[C]`` each."""
    if group is None or not chosen:
        return chosen
    everything = torch.cat(list(chosen.values())).to(device, torch.uint8)
    torch.distributed.all_reduce(everything, torch.distributed.ReduceOp.MIN, group)
    parts = everything.bool().cpu().split([len(each) for each in chosen.values()])
    return dict(zip(chosen, parts, strict=True))


def all_ranks(flag: bool, group: Any, device: torch.device) -> bool:
    """Whether a flag is set on every rank."""
    return bool(agree({"": torch.tensor([flag])}, group, device)[""].item())


def average(measured: dict[str, Known], group: Any, device: torch.device) -> dict[str, Known]:
    """What all ranks know together: the mean of their means, and which units are silent on all of them."""
    if group is None or not measured:
        return measured
    silent = agree({name: known.silent for name, known in measured.items()}, group, device)
    means = torch.cat([known.mean for known in measured.values()]).to(device)
    torch.distributed.all_reduce(means, torch.distributed.ReduceOp.SUM, group)
    means = (means / torch.distributed.get_world_size(group)).cpu()
    parts = means.split([len(known.mean) for known in measured.values()])
    return {name: Known(mean, silent[name]) for name, mean in zip(measured, parts, strict=True)}


def take_first(values: Tensor, group: Any) -> Tensor:
    """The values that the first rank has."""
    if group is None:
        return values
    values = values.contiguous()
    first = torch.distributed.get_global_rank(group, 0)
    torch.distributed.broadcast(values, first, group)
    return values
