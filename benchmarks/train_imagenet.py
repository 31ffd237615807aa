"""Train a plain ResNet-50 (no BatchNorm, no skip connections) with Jumpstart on folders of images.

    torchrun --nproc-per-node 8 benchmarks/train_imagenet.py --data DIR --output DIR
    torchrun --nproc-per-node 2 benchmarks/train_imagenet.py --smoke

Without torchrun it is one process. Killed at any moment and started again with the same options, it goes on
where it was. Status: 0 finished, 1 the smoke test failed, 2 wrong options or data, 143 ended by SIGTERM with
everything stored. docs/imagenet.md has the rest.
"""

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__" and not __package__:  # started as a file, so the folder of this package is unknown
    folder = Path(__file__).resolve().parent
    sys.path = [entry for entry in sys.path if not entry or Path(entry).resolve() != folder]
    sys.path.append(str(folder.parent))  # last: an installed jumpstart_kernels, which is compiled, goes first

from benchmarks.imagenet.options import check_installed, parse_arguments
from jumpstart_kernels.cli_inputs import CommandError


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; returns the status."""
    words = sys.argv[1:] if words is None else list(words)
    try:
        check_installed()
        options = parse_arguments(words)
        return _run(options, words)
    except CommandError as error:
        if os.environ.get("RANK", "0") == "0":  # of all processes the same
            print("error:", error, file=sys.stderr)
        return 2


def _run(options: argparse.Namespace, words: Sequence[str]) -> int:
    # These need the packages that have been looked for.
    import torch

    from benchmarks.imagenet.processes import Termination, start_processes
    from benchmarks.imagenet.smoke import smoke
    from benchmarks.imagenet.training import Training, train

    if options.precision == "fp16":  # whose GradScaler may leave the first optimizer step out
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
    torch.backends.cudnn.benchmark = True
    with start_processes(options.device) as processes:
        if options.smoke:
            return smoke(words, processes)
        with Termination() as termination:
            finished = train(Training(options, processes), termination)
    return 0 if finished else 128 + signal.SIGTERM


if __name__ == "__main__":
    sys.exit(main())
