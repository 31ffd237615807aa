"""Loss, top-1 and top-5 of the validation set, and which units are dead or linear on it."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import jumpstart_kernels as jk
from jumpstart_kernels.usage_report import UsageReport


@dataclass(frozen=True)
class Validation:
    """Means over the images of all processes; ``usage`` is None if no batch was watched."""

    loss: float
    top1: float
    top5: float
    usage: UsageReport | None


@torch.no_grad()
def validate(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    autocast: Callable[[], AbstractContextManager],
    watched: int,
    ended: Callable[[int], bool],
) -> Validation | None:
    """Run the network in ``eval()`` over the batches. All processes call, with as many batches each.

    Args:
        network: with ``JumpstartReLU`` or ``nn.ReLU`` layers.
        batches: images and labels, on the device.
        device: where they and the network are.
        autocast: makes the context of a forward.
        watched: in how many batches units are watched.
        ended: is told how many batches are done; if it returns True, in all processes, that is all.

    Returns:
        The result, or None if ``ended`` said so.
    """
    network.eval()
    usage = jk.UnitUsage().to(device)
    sums = torch.zeros(4, dtype=torch.float64, device=device)  # loss, top-1, top-5, images
    with torch.compiler.set_stance("force_eager"):  # a watcher sees nothing of compiled layers
        for number, (images, labels) in enumerate(batches, start=1):
            with usage.watch(network) if number <= watched else nullcontext(), autocast():
                logits = network(images)
            sums += _sums(logits.float(), labels)
            if ended(number):
                return None
    dist.all_reduce(sums)
    *totals, count = sums.tolist()
    loss, top1, top5 = (total / count for total in totals)
    return Validation(loss, top1, top5, usage.report() if watched else None)


def _sums(logits: Tensor, labels: Tensor) -> Tensor:
    """float64 ``[4]``: the sums of loss, top-1 and top-5 hits, and how many images."""
    best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return torch.stack([loss, best[:, 0].sum(), best.sum(), torch.ones_like(labels).sum()]).double()
