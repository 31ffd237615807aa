"""Means over all processes, since the epoch began and since they were last logged."""

import math

import torch
import torch.distributed as dist
from torch import Tensor

from jumpstart_kernels.cli.errors import CommandError

NAMES = ("loss", "penalty", "top1")


class Means:
    """Loss, penalty and top-1 accuracy, averaged over images.

    Each process sums its own images in float64. :meth:`of_epoch` and :meth:`since_logged` are collective
    calls, and raise CommandError if a sum is not finite.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(
            len(NAMES) + 1, dtype=torch.float64, device=device
        )  # and the number of images
        self.logged = [0.0] * len(self.sums)  # of all processes

    def add(self, loss: Tensor, penalty: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: its mean loss and penalty, and logits and labels for the accuracy."""
        count = len(labels)
        correct = (logits.argmax(1) == labels).sum()
        batch = torch.stack([loss.double() * count, penalty.double() * count, correct.double()])
        self.sums[:-1] += batch.detach()
        self.sums[-1] += count

    def of_epoch(self) -> dict[str, float]:
        """Means since :meth:`clear`."""
        return _means(self._all_reduced())

    def since_logged(self) -> dict[str, float]:
        """Means since the last call."""
        total = self._all_reduced()
        since = [now - before for now, before in zip(total, self.logged, strict=True)]
        self.logged = total
        return _means(since)

    def clear(self) -> None:
        """Start a new epoch."""
        self.sums.zero_()
        self.logged = [0.0] * len(self.logged)

    def _all_reduced(self) -> list[float]:
        sums = self.sums.clone()
        dist.all_reduce(sums)
        total: list[float] = sums.tolist()
        if not all(map(math.isfinite, total)):
            raise CommandError(
                "the loss is no longer finite: lower --learning-rate or --max-gradient-norm. The "
                "checkpoint is of an earlier step"
            )
        return total


def _means(sums: list[float]) -> dict[str, float]:
    *totals, count = sums
    return {name: total / max(count, 1) for name, total in zip(NAMES, totals, strict=True)}
