"""The experiment: problems, sizes, and the learning rates that are tried."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from benchmarks.paper.cifar_images import load_images
from benchmarks.paper.datasets import load_table
from benchmarks.plasticity.problems import Problem, reduced, standardized
from benchmarks.plasticity.training import Schedule

TUNING_SEEDS = (100, 101)
FIRST_TENTH = 0.1  # of the tasks, and as many for the last
DIGIT_INPUTS, DIGIT_CLASSES, HIGHEST_PIXEL = 64, 10, 16
IMAGE_SIZE = 8  # pixels in a row, after average pooling
IMAGES, LABELS = 1000, 10
BITS = 20


@dataclass(frozen=True)
class Setting:
    """Of one problem."""

    title: str
    score: str
    """What is measured for each task."""
    tasks: int
    steps: int
    """Of a task."""
    batch_size: int
    width: int
    tuned: int
    """The first tasks, on which settings are compared."""
    rates: dict[str, tuple[float, ...]]
    """The learning rates that are tried, by optimizer, in ascending order."""


SETTINGS = {
    "permuted_digits": Setting(
        "permuted digits",
        "online accuracy",
        tasks=100,
        steps=200,
        batch_size=16,
        width=64,
        tuned=50,
        rates={"sgd": (0.01, 0.03, 0.1, 0.3), "adam": (0.0003, 0.001, 0.003, 0.01)},
    ),
    "random_labels": Setting(
        "random labels",
        "accuracy at the end of a task",
        tasks=100,
        steps=200,
        batch_size=32,
        width=64,
        tuned=100,  # where networks collapse late, and half of the tasks would hide it
        rates={"sgd": (0.003, 0.01, 0.03, 0.1), "adam": (0.0001, 0.0003, 0.001, 0.003)},
    ),
    "slowly_changing_regression": Setting(
        "slowly changing regression",
        "online squared error",
        tasks=200,
        steps=100,
        batch_size=16,
        width=16,
        tuned=100,
        rates={"sgd": (0.003, 0.01, 0.03, 0.1), "adam": (0.001, 0.003, 0.01, 0.03)},
    ),
}
DEPTH = 5
MEASURED_EVERY = 5
QUICK_TASKS, QUICK_WIDTH, QUICK_STEPS = 10, 8, 3


def schedule(name: str, tuning: bool, quick: bool = False) -> Schedule:
    """How long to train on a problem, and which networks."""
    setting = SETTINGS[name]
    tasks = QUICK_TASKS if quick else setting.tuned if tuning else setting.tasks
    return Schedule(tasks, DEPTH, QUICK_WIDTH if quick else setting.width, MEASURED_EVERY)


@cache
def load_problem(name: str, data: Path | None, images: Path | None, quick: bool = False) -> Problem:
    """A problem and its data.

    Args:
        name: a key of :data:`SETTINGS`.
        data: the folder of UCI's files, for ``optdigits``; None for scikit-learn's digits, a third of them.
        images: CIFAR-10 as for :func:`~benchmarks.paper.cifar_images.load_images`; None for digits.
        quick: few steps.
    """
    setting = SETTINGS[name]
    steps, size = QUICK_STEPS if quick else setting.steps, setting.batch_size
    if name == "slowly_changing_regression":
        return Problem(name, BITS, 1, steps, size)
    if name == "random_labels":
        if images is None:
            x = load_digits(data)[0][:IMAGES]
        else:
            x = reduced(load_images(images, IMAGES, 1).x_train, IMAGE_SIZE)
        return Problem(name, x.shape[1], LABELS, steps, size, x)
    return Problem(name, DIGIT_INPUTS, DIGIT_CLASSES, steps, size, *load_digits(data))


def load_digits(data: Path | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Digits of 8 × 8 pixels, standardized, ``[N, 64]``, and their classes."""
    if data is None:
        from sklearn import datasets

        x, y = datasets.load_digits(return_X_y=True)
        return standardized(torch.from_numpy(x).float()), torch.from_numpy(y).long()
    table = load_table("optdigits", data)
    return standardized(torch.tensor(table.rows.tolist())), torch.from_numpy(table.labels)
