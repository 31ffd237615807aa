"""Whether the library gives the bits of today's extension, in the Python and the torch that run this.

    python -m benchmarks.stable_abi.check LIBRARY [EXPECTED.pt]

Expected are the results of another Python, as the extension is built for one; without them those of the
extension here. Prints a line of JSON.
"""

import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.stable_abi.operators import Operator, load
from jumpstart_kernels.ops import OVERLOADS

SHAPES = ((64, 33), (1024, 4), (8, 5, 4, 4), (0, 3))
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
KINDS = ("limited", "exact", "indexed")


def make_cases() -> dict[str, tuple[Any, ...]]:
    """Arguments of the operator by name, and the gradients of its results."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    cases: dict[str, tuple[Any, ...]] = {}
    for shape in SHAPES:
        x, bias, sums = random(*shape), random(shape[1]), random(2, 5)
        x[:, 0] -= 9  # dead
        x[1:2] += 9  # linear
        for dtype in DTYPES:
            for kind in KINDS:
                for has_bias in (False, True):
                    arguments = (x.to(dtype), bias.to(dtype) if has_bias else None)
                    stat = torch.float64 if dtype == torch.float64 else torch.float32
                    gradients = (random(*shape).to(dtype), sums.to(stat))
                    options = ("relu", 0.0, 1, False, 1.0, kind)
                    name = f"{'x'.join(map(str, shape))} {dtype} {kind}{', bias' if has_bias else ''}"
                    cases[name] = (*arguments, options, gradients)
                    if len(shape) == 4:
                        last = arguments[0].contiguous(memory_format=torch.channels_last)
                        cases[f"{name}, channels_last"] = (last, arguments[1], options, gradients)
    return cases


def run(operator: Operator, x: Tensor, bias: Tensor | None, options: Any, gradients: Any) -> list[Tensor]:
    """All results, and the gradients of the inputs."""
    inputs = [each.detach().requires_grad_() for each in (x, bias) if each is not None]
    output, mask, slack_sums, extrema, indices = operator(
        inputs[0], inputs[1] if bias is not None else None, *options
    )
    found = torch.autograd.grad([output, slack_sums], inputs, gradients)
    return [each.detach() for each in (output, mask, slack_sums, extrema, indices, *found)]


def run_all(operator: Operator) -> dict[str, list[Tensor]]:
    return {name: run(operator, *case) for name, case in make_cases().items()}


def find_differences(library: Path, expected: dict[str, list[Tensor]]) -> list[str]:
    """The cases in which bits or strides differ, by the way that autograd is added."""
    differences = []
    for way, operator in load(library).items():
        for name, results in run_all(operator).items():
            pairs = zip(results, expected[name], strict=True)
            if not all(torch.equal(a, b) and a.stride() == b.stride() for a, b in pairs):
                differences.append(f"{way}: {name}")
    return differences


def main(words: list[str]) -> int:
    expected = torch.load(words[1]) if len(words) > 1 else run_all(OVERLOADS["native"])
    differences = find_differences(Path(words[0]), expected)
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    print(json.dumps({**versions, "cases": len(expected), "differences": differences}))
    return bool(differences)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
