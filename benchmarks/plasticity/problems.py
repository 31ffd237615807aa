"""Endless sequences of tasks: permuted digits, random labels, and slowly changing regression.

A stream serves S seeds at once, each with random numbers of its own; all techniques see the same tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PROBE = 256  # inputs on which networks are looked into


@dataclass(frozen=True)
class Problem:
    """What a stream draws its tasks from, and for how long a task lasts."""

    name: str
    inputs: int
    outputs: int
    """Classes, or 1 for regression."""
    steps: int
    """Of a task."""
    batch_size: int
    x: Tensor | None = None
    """``[N, inputs]``, the data of permuted digits and of random labels."""
    y: Tensor | None = None
    """``[N]``, the classes of the digits."""

    @property
    def regression(self) -> bool:
        return self.outputs == 1

    @property
    def at_the_end(self) -> bool:
        """Whether the score is the accuracy on all data after a task, not that of a batch before its step."""
        return self.name == "random_labels"

    def stream(self, seeds: Sequence[int]) -> "Stream":
        return STREAMS[self.name](self, seeds)


class Stream:
    """The tasks of S seeds.

    Args:
        problem: what to draw from.
        seeds: of the random numbers.
    """

    def __init__(self, problem: Problem, seeds: Sequence[int]) -> None:
        self.problem = problem
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def next_task(self) -> None:
        """Begin a task."""
        raise NotImplementedError

    def batch(self) -> tuple[Tensor, Tensor]:
        """The next mini-batch of the task: inputs ``[S, inputs, N]``, and classes or values ``[S, N]``."""
        raise NotImplementedError

    def probe(self) -> Tensor:
        """Inputs of the task, ``[S, inputs, PROBE]``."""
        raise NotImplementedError

    def draw(self, kind, *arguments) -> Tensor:
        """``[S, ...]``: what a function of PyTorch gives with the generator of each seed."""
        return torch.stack([kind(*arguments, generator=generator) for generator in self.generators])


class DataStream(Stream):
    """Batches of a data set, shuffled anew when it has been passed through."""

    def __init__(self, problem: Problem, seeds: Sequence[int]) -> None:
        super().__init__(problem, seeds)
        self.x: Tensor  # [S, inputs, N]
        self.y: Tensor  # [S, N]
        self.order = torch.empty(len(seeds), 0, dtype=torch.long)

    def batch(self) -> tuple[Tensor, Tensor]:
        size = self.problem.batch_size
        if self.order.shape[1] < size:
            self.order = self.draw(torch.randperm, self.y.shape[1])
        chosen, self.order = self.order[:, :size], self.order[:, size:]
        seeds = torch.arange(len(chosen))[:, None]
        return self.x[seeds, :, chosen].mT, self.y[seeds, chosen]

    def probe(self) -> Tensor:
        return self.x[:, :, :PROBE]


class PermutedDigits(DataStream):
    """Each task shuffles the pixels of all digits in a way of its own."""

    def next_task(self) -> None:
        assert self.problem.x is not None and self.problem.y is not None
        permutations = self.draw(torch.randperm, self.problem.inputs)  # [S, inputs]
        self.x = self.problem.x.T[permutations]
        self.y = self.problem.y.expand(len(permutations), -1)
        self.order = self.order[:, :0]


class RandomLabels(DataStream):
    """Each task gives the same images new labels, drawn evenly."""

    def next_task(self) -> None:
        assert self.problem.x is not None
        count, seeds = len(self.problem.x), len(self.generators)
        self.x = self.problem.x.T.expand(seeds, -1, -1)
        self.y = self.draw(torch.randint, self.problem.outputs, (count,))
        self.order = self.order[:, :0]


class SlowlyChangingRegression(Stream):
    """Binary inputs, some of which change one at a time, once a task; the others are random in every sample.

    The target is a fixed network of one layer of linear threshold units with weights and output weights of
    ±1: Dohare et al., Nature 632, 2024.
    """

    FLIPPING = 15
    UNITS = 100
    BETA = 0.7  # the share of the largest sum of a unit's inputs that turns it on

    def __init__(self, problem: Problem, seeds: Sequence[int]) -> None:
        super().__init__(problem, seeds)
        bits = problem.inputs
        self.weights = 2.0 * self.draw(torch.randint, 2, (self.UNITS, bits)) - 1
        self.output = 2.0 * self.draw(torch.randint, 2, (1, self.UNITS)) - 1
        self.thresholds = bits * self.BETA - (self.weights < 0).sum(2, keepdim=True)
        self.slow = 1.0 * self.draw(torch.randint, 2, (self.FLIPPING,))  # [S, FLIPPING]

    def next_task(self) -> None:
        flipped = self.draw(torch.randint, self.FLIPPING, (1,))
        self.slow.scatter_(1, flipped, 1 - self.slow.gather(1, flipped))

    def batch(self) -> tuple[Tensor, Tensor]:
        x = self.samples(self.problem.batch_size)
        return x, self.target(x)

    def probe(self) -> Tensor:
        return self.samples(PROBE)

    def samples(self, count: int) -> Tensor:
        """``[S, bits, count]``."""
        fast = 1.0 * self.draw(torch.randint, 2, (self.problem.inputs - self.FLIPPING, count))
        return torch.cat([self.slow[:, :, None].expand(-1, -1, count), fast], 1)

    def target(self, x: Tensor) -> Tensor:
        """``[S, N]``, the value of each sample."""
        on = (self.weights @ x > self.thresholds).to(x)
        return (self.output @ on)[:, 0]


STREAMS: dict[str, type[Stream]] = {
    "permuted_digits": PermutedDigits,
    "random_labels": RandomLabels,
    "slowly_changing_regression": SlowlyChangingRegression,
}


def standardized(x: Tensor) -> Tensor:
    """``[N, inputs]`` with mean 0 and variance 1 over all values together."""
    return (x - x.mean()) / x.std()


def reduced(images: Tensor, size: int) -> Tensor:
    """Grey images of ``size`` × ``size`` pixels, standardized ``[N, size²]``; of uint8 ``[N, 3, H, W]``."""
    grey = images.float().mean(1, keepdim=True)
    return standardized(F.adaptive_avg_pool2d(grey, size).flatten(1))
