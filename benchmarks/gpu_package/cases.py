"""Compile the Triton kernels of the benchmarks' cases for an absent GPU.

python -m benchmarks.gpu_package.cases

It measures nothing and writes no memory: tensors are empty, of the cases' shapes, types and strides.
"""

import argparse
import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu_package import absent
from benchmarks.kernels import CASES
from jumpstart_kernels.bench.cases import DTYPES, LAUNCH_BOUND, Case, select_cases
from jumpstart_kernels.bench.linked_peers import LINKED
from jumpstart_kernels.bench.peers import make_peers
from jumpstart_kernels.cli.bench import parse_shape
from jumpstart_kernels.ops.layout import channels_last_format

SCRIPT = Path(__file__).parents[1] / "gpu.sh"
CPU = torch.device("cpu")


def benchmark_cases() -> list[Case]:
    """Those of the stages of ``gpu.sh``, and of ``benchmarks.kernels``."""
    shapes = [parse_shape(text) for text in re.findall(r"--shape (\S+)", SCRIPT.read_text())]
    small = [shape for shape in shapes if math.prod(shape) <= LAUNCH_BOUND]  # the sanitizers' among them
    cases = list(CASES)
    for bias in (False, True):
        cases += select_cases("cuda", shapes=shapes, bias=bias)
        cases += select_cases("cuda", shapes=small, dtypes=["float64"], bias=bias)
    for selection in ("default", "sweep"):
        cases += select_cases("cuda", selection=selection)
    for activation in LINKED:
        cases += select_cases("cuda", activation=activation)
    return list(dict.fromkeys(cases))


def empty(case: Case, shape: tuple[int, ...]) -> torch.Tensor:
    channels_last = case.layout == "channels_last"
    memory_format = channels_last_format(len(shape)) if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=DTYPES[case.dtype], memory_format=memory_format)


def run(case: Case) -> None:
    """Forward and backward of the layers that Triton runs, as the benchmark has them."""
    names = ("linked", "jumpstart") if case.is_linked else ("jumpstart",)
    for peer in make_peers(names, ["triton"], case, CPU):
        if peer.backend is not None:
            x, grad = empty(case, case.shape).requires_grad_(), empty(case, case.output_shape)
            with peer.active():
                peer.prepare(x)
                peer.backward(x, peer.forward(x), grad)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_package.cases", description=__doc__)
    parser.add_argument("--part", type=int, default=0, metavar="I", help="of so many --parts, from 0")
    parser.add_argument("--parts", type=int, default=1, metavar="N")
    arguments = parser.parse_args(words)
    absent.install()
    for case in benchmark_cases()[arguments.part :: arguments.parts]:
        run(case)


if __name__ == "__main__":
    main()
