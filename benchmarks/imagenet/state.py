"""The state of a training in one file, for any number of processes and either parallel mode."""

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from benchmarks.imagenet.files import read_checkpoint, write_checkpoint
from benchmarks.imagenet.options import SETTINGS
from benchmarks.imagenet.processes import on_first
from jumpstart_kernels.cli.errors import CommandError

if TYPE_CHECKING:
    from benchmarks.imagenet.trainer import Trainer

CHECKPOINT = "checkpoint.pt"

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_FROM_FIRST = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


def store(trainer: "Trainer") -> None:
    """Write the checkpoint. A collective call: the file exists when it returns."""
    processes = trainer.processes
    content = whole_state(trainer.network, trainer.optimizer)
    own = {"random": random_state(processes.device), "sums": trainer.means.sums.cpu()}
    of_processes: list[Any] | None = [None] * processes.count if processes.first else None
    dist.gather_object(own, of_processes)
    if processes.first:
        content |= {
            "settings": settings_of(trainer),
            "epoch": trainer.epoch,
            "step": trainer.step,
            "learning_rate": trainer.learning_rate.state_dict(),
            "penalty_schedule": trainer.penalty_schedule.state_dict(),
            "scaler": trainer.scaler.state_dict(),
            "sums_logged": trainer.means.logged,
            "logged": trainer.logged,
            "history": trainer.history,
            "processes": of_processes,
        }
        path = trainer.options.output / CHECKPOINT
        path.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(path, content)
    dist.barrier()


def restore(trainer: "Trainer") -> None:
    """Resume from the checkpoint, if it exists. A collective call; only the first process reads the file.

    Raises:
        CommandError: the file cannot be read, or has other settings.
    """
    path, processes = trainer.options.output / CHECKPOINT, trainer.processes
    weights: dict[str, Any] = {"model": {}, "optimizer": {}}

    def read() -> dict[str, Any] | None:
        if not path.exists():
            return None
        content = read_checkpoint(path)
        check_settings(path, content["settings"], settings_of(trainer))
        weights.update({name: content.pop(name) for name in weights})
        return content

    content = on_first(processes, read)
    if content is None:
        return
    load_whole_state(trainer.network, trainer.optimizer, weights)
    trainer.epoch, trainer.step = content["epoch"], content["step"]
    trainer.learning_rate.load_state_dict(content["learning_rate"])
    trainer.penalty_schedule.load_state_dict(content["penalty_schedule"])
    trainer.scaler.load_state_dict(content["scaler"])
    trainer.means.logged = content["sums_logged"]
    trainer.logged, trainer.history = content["logged"], content["history"]
    of_processes: list[dict[str, Any]] = content["processes"]
    if len(of_processes) == processes.count:
        trainer.means.sums.copy_(of_processes[processes.rank]["sums"])
    elif processes.first:  # another number of processes: the first one takes the sum of all
        trainer.means.sums.copy_(torch.stack([of_process["sums"] for of_process in of_processes]).sum(0))
    if processes.rank < len(of_processes):
        set_random_state(of_processes[processes.rank]["random"], processes.device)


def settings_of(trainer: "Trainer") -> dict[str, Any]:
    """What the result of a training depends on, except for rounding."""
    settings = {name: getattr(trainer.options, name) for name in SETTINGS}
    data = {"classes": trainer.classes, "images": trainer.images, "checksum of image names": trainer.checksum}
    return {**settings, **data}


def check_settings(path: Path, stored: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise CommandError if the settings of a checkpoint differ from those of this training."""
    differing = [name for name in settings if stored.get(name) != settings[name]]
    if differing:
        changes = "; ".join(f"{name} was {stored.get(name)}, is {settings[name]}" for name in differing)
        raise CommandError(
            f"{path} has other settings: {changes}. Resume it with its settings, or choose another --output"
        )


def whole_state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Parameters and optimizer state by name, on the CPU. A collective call; the first process gets it."""
    model = get_model_state_dict(network, options=_WHOLE)
    of_optimizer: Any = get_optimizer_state_dict(network, optimizer, options=_WHOLE)
    # PyTorch broadcasts a tensor in its memory order, and the receivers take it for a contiguous one.
    for tensors in (model, *of_optimizer.get("state", {}).values()):
        tensors.update({name: value.contiguous() for name, value in tensors.items()})
    return {"model": model, "optimizer": of_optimizer}


def load_whole_state(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    weights: dict[str, dict[str, Any]],
) -> None:
    """Load the result of :func:`whole_state`. A collective call; only the first process passes any."""
    set_model_state_dict(network, dict(weights["model"]), options=_FROM_FIRST)
    set_optimizer_state_dict(network, optimizer, dict(weights["optimizer"]), options=_FROM_FIRST)
    for parameter, tensors in optimizer.state.items():  # in the memory order of the parameter
        for name, value in tensors.items():
            tensors[name] = torch.empty_like(parameter).copy_(value)


def set_seed(seed: int) -> None:
    """Seed PyTorch on all devices, Python and NumPy."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def random_state(device: torch.device) -> dict[str, Any]:
    """The random state of PyTorch on the CPU and the device, of Python and of NumPy."""
    numpy: Any = np.random.get_state(legacy=False)
    numpy["state"]["key"] = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    state = {"cpu": torch.get_rng_state(), "python": random.getstate(), "numpy": numpy}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restore a :func:`random_state`. One taken without a GPU leaves the GPU's unchanged."""
    torch.set_rng_state(state["cpu"])
    random.setstate(state["python"])
    numpy = dict(state["numpy"])
    numpy["state"] = {**numpy["state"], "key": numpy["state"]["key"].numpy().astype(np.uint32)}
    np.random.set_state(numpy)
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
