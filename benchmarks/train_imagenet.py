"""Train a plain ResNet-50 (no BatchNorm, no skip connections) with Jumpstart on folders of images.

    torchrun --nproc-per-node 8 benchmarks/train_imagenet.py --data DIR --output DIR
    torchrun --nproc-per-node 2 benchmarks/train_imagenet.py --smoke

Without torchrun it runs in one process. Killed at any moment and started again with the same options, it
resumes. Status: 0 finished, 1 smoke test failed, 2 invalid options or data, 143 ended by SIGTERM after a
checkpoint. See docs/imagenet.md.
"""

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__" and not __package__:  # run as a script: the package's folder is not on the path
    folder = Path(__file__).resolve().parent
    sys.path = [entry for entry in sys.path if not entry or Path(entry).resolve() != folder]
    sys.path.append(str(folder.parent))  # last: an installed, compiled jumpstart_kernels takes precedence

from benchmarks.imagenet.options import check_installed, parse_arguments
from jumpstart_kernels.cli.errors import CommandError


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns its status."""
    words = sys.argv[1:] if words is None else list(words)
    try:
        check_installed()
        options = parse_arguments(words)
        return _run(options, words)
    except CommandError as error:
        if os.environ.get("RANK", "0") == "0":  # the same in all processes
            print("error:", error, file=sys.stderr)
        return 2


def _run(options: argparse.Namespace, words: Sequence[str]) -> int:
    # These need the packages that were checked.
    import torch

    from benchmarks.imagenet.processes import Termination, start_processes
    from benchmarks.imagenet.smoke import smoke
    from benchmarks.imagenet.trainer import Trainer, train

    if options.precision == "fp16":  # whose GradScaler may skip the first optimizer step
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
    torch.backends.cudnn.benchmark = True
    with start_processes(options.device) as processes:
        if options.smoke:
            return smoke(words, processes)
        with Termination() as termination:
            finished = train(Trainer(options, processes), termination)
    return 0 if finished else 128 + signal.SIGTERM


if __name__ == "__main__":
    sys.exit(main())
