"""Small trainings by ``benchmarks/train_imagenet.py``, in processes that stay for many of them."""

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from benchmarks.imagenet.options import parse_arguments
from benchmarks.imagenet.processes import Processes, Termination
from benchmarks.imagenet.smoke import InterruptedTraining
from benchmarks.imagenet.training import Training, train

CLASSES, TRAIN, VAL = 4, 7, 5  # images of each class; 28 in batches of 12 leave some out
STEPS = 2  # of an epoch
WORDS = (
    "--model=resnet14-plain --width=4 --image-size=16 --epochs=2 --batch-size=12 --accumulate=2 --device=cpu "
    "--learning-rate=0.1 --warmup-epochs=1 --penalty-schedule=cosine --penalty-warmup-epochs=1 --workers=0 "
    "--checkpoint-every=0 --log-every=1 --precision=fp32"
)


def make_options(data: Path, output: Path, words: str = "") -> argparse.Namespace:
    return parse_arguments([*WORDS.split(), f"--data={data}", f"--output={output}", *words.split()])


def this_process() -> Processes:
    """Of the group that is there."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return Processes(dist.get_rank(), dist.get_world_size(), torch.device("cpu"), mesh)


def run(data: Path, output: Path, words: str = "", interrupted: int | None = None) -> dict[str, Any]:
    """Train to the end, or to SIGTERM in some step; says how it went."""
    options, processes = make_options(data, output, words), this_process()
    if interrupted is None:
        training = Training(options, processes)
    else:
        training = InterruptedTraining(options, processes, interrupted)
    began = training.steps_done
    with Termination() as termination:
        finished = train(training, termination, quiet=True)
    return {"finished": finished, "began": began, "ended": training.steps_done}


def full(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor, of which this process may have a shard."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gradients(data: Path, output: Path, words: str = "") -> list[torch.Tensor]:
    """The gradients of the first step, whole."""
    training = Training(make_options(data, output, words + " --max-gradient-norm=0"), this_process())
    training.network.train()
    found: list[torch.Tensor] = []

    def keep(*_: Any) -> None:
        for parameter in training.network.parameters():
            assert parameter.grad is not None
            found.append(full(parameter.grad).clone())

    training.optimizer.register_step_pre_hook(keep)
    training.take_step(training._on_device(training.loader))
    return found
