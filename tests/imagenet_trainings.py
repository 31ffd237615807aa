"""Small trainings with ``benchmarks/imagenet``, for processes that run many of them."""

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy

from benchmarks.imagenet.options import parse_arguments
from benchmarks.imagenet.parallel import synchronizing
from benchmarks.imagenet.processes import Processes, Termination
from benchmarks.imagenet.smoke import InterruptedTrainer
from benchmarks.imagenet.trainer import Trainer, train

CLASSES, TRAIN, VAL = 4, 7, 5  # images per class; 28 in batches of 12 drop some
STEPS = 2  # per epoch
WORDS = (
    "--model=resnet14-plain --width=4 --image-size=16 --epochs=2 --batch-size=12 --accumulate=2 --device=cpu "
    "--learning-rate=0.1 --warmup-epochs=1 --penalty-schedule=cosine --penalty-warmup-epochs=1 --workers=0 "
    "--checkpoint-every=0 --log-every=1 --precision=fp32"
)


def make_options(data: Path, output: Path, words: str = "") -> argparse.Namespace:
    return parse_arguments([*WORDS.split(), f"--data={data}", f"--output={output}", *words.split()])


def this_process() -> Processes:
    """This process in the existing group."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return Processes(dist.get_rank(), dist.get_world_size(), torch.device("cpu"), mesh)


def run(data: Path, output: Path, words: str = "", interrupted: int | None = None) -> dict[str, Any]:
    """Train to the end, or to SIGTERM in step ``interrupted``; returns whether it finished, and its steps."""
    options, processes = make_options(data, output, words), this_process()
    if interrupted is None:
        trainer = Trainer(options, processes)
    else:
        trainer = InterruptedTrainer(options, processes, interrupted)
    began = trainer.steps_done
    with Termination() as termination:
        finished = train(trainer, termination, quiet=True)
    return {"finished": finished, "began": began, "ended": trainer.steps_done}


def full(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor, of which this process may have a shard."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def unsynchronized(data: Path, output: Path, words: str = "") -> list[torch.Tensor | None]:
    """This process's gradients of a micro-batch that is not the last."""
    trainer = Trainer(make_options(data, output, words), this_process())
    images, labels = next(trainer._on_device(trainer.loader))
    with synchronizing(trainer.model, False):
        cross_entropy(trainer.model(images), labels).backward()
    return [parameter.grad for parameter in trainer.network.parameters()]


def gradients(data: Path, output: Path, words: str = "") -> list[torch.Tensor]:
    """The full gradients of the first step."""
    trainer = Trainer(make_options(data, output, words + " --max-gradient-norm=0"), this_process())
    trainer.network.train()
    found: list[torch.Tensor] = []

    def keep(*_: Any) -> None:
        for parameter in trainer.network.parameters():
            assert parameter.grad is not None
            found.append(full(parameter.grad).clone())

    trainer.optimizer.register_step_pre_hook(keep)
    trainer.take_step(trainer._on_device(trainer.loader))
    return found
