"""The state of a training, in one file for any number of processes in either parallel mode."""

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
from jumpstart_kernels.cli_inputs import CommandError

if TYPE_CHECKING:
    from benchmarks.imagenet.training import Training

CHECKPOINT = "checkpoint.pt"

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_FROM_FIRST = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


def store(training: "Training") -> None:
    """Write the checkpoint. All processes call; it is there when they return."""
    processes = training.processes
    content = whole_state(training.network, training.optimizer)
    own = {"random": random_state(processes.device), "sums": training.means.sums.cpu()}
    of_processes: list[Any] | None = [None] * processes.count if processes.first else None
    dist.gather_object(own, of_processes)
    if processes.first:
        content |= {
            "settings": settings_of(training),
            "epoch": training.epoch,
            "step": training.step,
            "learning_rate": training.learning_rate.state_dict(),
            "penalty_schedule": training.penalty_schedule.state_dict(),
            "scaler": training.scaler.state_dict(),
            "sums_logged": training.means.logged,
            "logged": training.logged,
            "history": training.history,
            "processes": of_processes,
        }
        path = training.options.output / CHECKPOINT
        path.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(path, content)
    dist.barrier()


def restore(training: "Training") -> None:
    """Go on from the checkpoint, if there is one. All processes call; only the first reads the file.

    Raises:
        CommandError: it cannot be read, or is of a training with other settings.
    """
    path, processes = training.options.output / CHECKPOINT, training.processes
    weights: dict[str, Any] = {"model": {}, "optimizer": {}}

    def read() -> dict[str, Any] | None:
        if not path.exists():
            return None
        content = read_checkpoint(path)
        check_settings(path, content["settings"], settings_of(training))
        weights.update({name: content.pop(name) for name in weights})
        return content

    content = on_first(processes, read)
    if content is None:
        return
    load_whole_state(training.network, training.optimizer, weights)
    training.epoch, training.step = content["epoch"], content["step"]
    training.learning_rate.load_state_dict(content["learning_rate"])
    training.penalty_schedule.load_state_dict(content["penalty_schedule"])
    training.scaler.load_state_dict(content["scaler"])
    training.means.logged = content["sums_logged"]
    training.logged, training.history = content["logged"], content["history"]
    of_processes: list[dict[str, Any]] = content["processes"]
    if len(of_processes) == processes.count:
        training.means.sums.copy_(of_processes[processes.rank]["sums"])
    elif processes.first:  # of other processes than these: one of them takes what all have summed up
        training.means.sums.copy_(torch.stack([of_process["sums"] for of_process in of_processes]).sum(0))
    if processes.rank < len(of_processes):
        set_random_state(of_processes[processes.rank]["random"], processes.device)


def settings_of(training: "Training") -> dict[str, Any]:
    """What the result of a training depends on, but for rounding."""
    settings = {name: getattr(training.options, name) for name in SETTINGS}
    data = {"classes": training.classes, "images": training.images, "checksum of their names": training.names}
    return {**settings, **data}


def check_settings(path: Path, stored: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raises CommandError if those of a checkpoint differ from those of this training."""
    differing = [name for name in settings if stored.get(name) != settings[name]]
    if differing:
        changes = "; ".join(f"{name} was {stored.get(name)}, is {settings[name]}" for name in differing)
        raise CommandError(
            f"{path} is of another training: {changes}. Its settings go on with it; begin anew in another "
            "--output"
        )


def whole_state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Of all parameters by name, on the CPU. All processes call, the first gets it."""
    model = get_model_state_dict(network, options=_WHOLE)
    of_optimizer: Any = get_optimizer_state_dict(network, optimizer, options=_WHOLE)
    # PyTorch broadcasts a tensor as it lies in memory, and the others take it for a contiguous one.
    for tensors in (model, *of_optimizer.get("state", {}).values()):
        tensors.update({name: value.contiguous() for name, value in tensors.items()})
    return {"model": model, "optimizer": of_optimizer}


def load_whole_state(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    weights: dict[str, dict[str, Any]],
) -> None:
    """What :func:`whole_state` gave. All processes call; the others than the first pass empty ones."""
    set_model_state_dict(network, dict(weights["model"]), options=_FROM_FIRST)
    set_optimizer_state_dict(network, optimizer, dict(weights["optimizer"]), options=_FROM_FIRST)
    for parameter, tensors in optimizer.state.items():  # in the memory order of the parameter
        for name, value in tensors.items():
            tensors[name] = torch.empty_like(parameter).copy_(value)


def set_seed(seed: int) -> None:
    """Of PyTorch on all devices, of Python and of NumPy."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def random_state(device: torch.device) -> dict[str, Any]:
    """That of PyTorch on the CPU and on the device, of Python and of NumPy."""
    numpy: Any = np.random.get_state(legacy=False)
    numpy["state"]["key"] = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    state = {"cpu": torch.get_rng_state(), "python": random.getstate(), "numpy": numpy}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Go on from a :func:`random_state`. One that was taken without a GPU leaves the GPU's as it is."""
    torch.set_rng_state(state["cpu"])
    random.setstate(state["python"])
    numpy = dict(state["numpy"])
    numpy["state"] = {**numpy["state"], "key": numpy["state"]["key"].numpy().astype(np.uint32)}
    np.random.set_state(numpy)
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
