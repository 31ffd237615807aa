"""The processes that train together: start, broadcast from the first one, agreement on termination."""

import gc
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from jumpstart_kernels.cli.errors import CommandError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    rank: int
    count: int
    device: torch.device
    mesh: DeviceMesh  # of one dimension

    @property
    def first(self) -> bool:
        return self.rank == 0


@contextmanager
def start_processes(device_type: str | None) -> Iterator[Processes]:
    """The processes started by ``torchrun``; without it, a group of this process alone.

    Args:
        device_type: ``"cpu"`` or ``"cuda"``; None: ``"cuda"`` if available.

    Raises:
        CommandError: this machine has fewer GPUs than processes.
    """
    device = _find_device(device_type, int(os.environ.get("LOCAL_RANK", 0)))
    backend = (
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    )  # objects are always sent through the CPU
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if dist.is_torchelastic_launched() or "RANK" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        yield Processes(dist.get_rank(), dist.get_world_size(), device, mesh)
    finally:
        gc.collect()  # a DDP model that outlives its group may wait for ever (pytorch #56297)
        dist.destroy_process_group()


def _find_device(device_type: str | None, local_rank: int) -> torch.device:
    if device_type is None:
        device_type = "cuda" if torch.cuda.is_available() else "cpu"
    if device_type == "cpu":
        return torch.device("cpu")
    needed, available = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if needed > available:
        raise CommandError(
            f"--device {device_type}: each process needs a GPU of its own; {available} for {needed} "
            "processes: lower torchrun's --nproc-per-node, or use --device cpu"
        )
    return torch.device(device_type, local_rank)


def on_first(processes: Processes, run: Callable[[], T]) -> T:
    """Run in the first process; return its result, or raise its CommandError, in all processes."""
    answer: list[tuple[T | None, str | None]] = [(None, None)]
    if processes.first:
        try:
            answer = [(run(), None)]
        except CommandError as error:
            answer = [(None, str(error))]
    dist.broadcast_object_list(answer)
    result, message = answer[0]
    if message is not None:
        raise CommandError(message)
    return result  # type: ignore[return-value]  # None only if run returns it


class Termination:
    """Notes whether a process receives SIGTERM inside the ``with`` block."""

    def __init__(self) -> None:
        self._received = False

    def __enter__(self) -> "Termination":
        self._previous = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._previous)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = True

    def agreed(self) -> bool:
        """Whether any process has received it. A collective call."""
        received = torch.tensor([int(self._received)])
        dist.all_reduce(received, dist.ReduceOp.MAX)
        return bool(received)
