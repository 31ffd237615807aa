"""Loss, top-1 and top-5 accuracy, and unit usage on the validation set."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import jumpstart_kernels as jk
from jumpstart_kernels.usage.report import UsageReport


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
    """Run the network in ``eval()`` over the batches. A collective call, with equally many batches each.

    Args:
        network: with ``JumpstartReLU`` or ``nn.ReLU`` layers.
        batches: images and labels, on the device.
        device: of the batches and the network.
        autocast: returns the context of a forward.
        watched: number of batches for unit usage.
        ended: called with the number of completed batches; returns True, in all processes, to stop.

    Returns:
        The result, or None if ``ended`` stopped it.
    """
    network.eval()
    usage = jk.UnitUsage().to(device)
    sums = torch.zeros(4, dtype=torch.float64, device=device)  # loss, top-1, top-5, images
    with torch.compiler.set_stance("force_eager"):  # compiled layers cannot be watched
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
    """float64 ``[4]``: the sums of loss, top-1 and top-5 hits, and the number of images."""
    best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return torch.stack([loss, best[:, 0].sum(), best.sum(), torch.ones_like(labels).sum()]).double()
