"""How a training went, of all processes together, since the epoch began and since it was last logged."""

import math

import torch
import torch.distributed as dist
from torch import Tensor

from jumpstart_kernels.cli_inputs import CommandError

NAMES = ("loss", "penalty", "top1")


class Means:
    """Means over images of loss, penalty and correct answers.

    Each process sums up its own images, in float64; :meth:`of_epoch` and :meth:`since_logged` are calls that
    all processes make together, and raise CommandError if a sum is no longer finite.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(len(NAMES) + 1, dtype=torch.float64, device=device)  # and the count of images
        self.logged = [0.0] * len(self.sums)  # of all processes

    def add(self, loss: Tensor, penalty: Tensor, logits: Tensor, labels: Tensor) -> None:
        """A batch: its mean loss and penalty, and what it takes to count correct answers."""
        count = len(labels)
        correct = (logits.argmax(1) == labels).sum()
        batch = torch.stack([loss.double() * count, penalty.double() * count, correct.double()])
        self.sums[:-1] += batch.detach()
        self.sums[-1] += count

    def of_epoch(self) -> dict[str, float]:
        """Since :meth:`clear`."""
        return _means(self._united())

    def since_logged(self) -> dict[str, float]:
        """Since this was last called."""
        united = self._united()
        since = [now - before for now, before in zip(united, self.logged, strict=True)]
        self.logged = united
        return _means(since)

    def clear(self) -> None:
        """A new epoch begins."""
        self.sums.zero_()
        self.logged = [0.0] * len(self.logged)

    def _united(self) -> list[float]:
        sums = self.sums.clone()
        dist.all_reduce(sums)
        united: list[float] = sums.tolist()
        if not all(map(math.isfinite, united)):
            raise CommandError(
                "the loss is no longer finite: lower --learning-rate or --max-gradient-norm. A "
                "checkpoint is of an earlier step"
            )
        return united


def _means(sums: list[float]) -> dict[str, float]:
    *totals, count = sums
    return {name: total / max(count, 1) for name, total in zip(NAMES, totals, strict=True)}
