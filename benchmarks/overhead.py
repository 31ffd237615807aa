"""What a regularized ReLU costs: forward, penalty and backward of one layer, beside its peers.

    python benchmarks/overhead.py --output benchmarks/results/overhead.json

Every peer runs once in each round, and the table shows medians and their ratio to ``nn.ReLU``. A case whose
results are not those of the plain composite has no figures.
"""

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jumpstart_kernels as jk
from jumpstart_kernels import backends

CASES = {  # shape to rounds
    (64, 64, 56, 56): 15,
    (4096, 4096): 15,
    (1024, 1024): 100,
    (256, 1024): 300,
    (256, 4): 1000,
}


def composite(x: Tensor) -> tuple[Tensor, Tensor]:
    """ReLU and balanced penalty in plain PyTorch."""
    slack = []
    for kept in (1, 0):  # units, points
        dims = [dim for dim in range(x.dim()) if dim != kept]
        slack.append((F.relu(1 - x.amax(dims)) + F.relu(1 + x.amin(dims))).mean() / 2)
    return F.relu(x), slack[0] + slack[1]


def make_peers(x: Tensor, grad: Tensor) -> dict[str, Callable[[], None]]:
    """Forward and backward of each peer, by name."""
    relu, jumpstart = nn.ReLU(), jk.JumpstartReLU()
    batch_norm = (nn.BatchNorm2d if x.dim() == 4 else nn.BatchNorm1d)(x.shape[1])
    one = torch.ones(())

    def backward(outputs: list[Tensor], grads: list[Tensor]) -> None:
        x.grad = None
        torch.autograd.backward(outputs, grads)

    return {
        "nn.ReLU": lambda: backward([relu(x)], [grad]),
        "JumpstartReLU": lambda: backward([jumpstart(x), jk.penalty(jumpstart)], [grad, one]),
        "BatchNorm + nn.ReLU": lambda: backward([relu(batch_norm(x))], [grad]),
        "plain composite": lambda: backward(list(composite(x)), [grad, one]),
    }


def measure(shape: tuple[int, ...], rounds: int) -> dict[str, float]:
    """Median seconds of each peer."""
    x, grad = torch.randn(shape).requires_grad_(), torch.randn(shape)
    peers = make_peers(x, grad)
    gradients = {}
    for name, run in peers.items():  # warms up too
        run()
        gradients[name] = x.grad
    torch.testing.assert_close(gradients["JumpstartReLU"], gradients["plain composite"])
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, run in peers.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, help="write the results here, as JSON")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    cases = []
    for shape, rounds in CASES.items():
        seconds = measure(shape, rounds)
        cases.append({"shape": shape, "rounds": rounds, "dtype": "float32", "seconds": seconds})
        plain = seconds["nn.ReLU"]
        figures = ", ".join(f"{name} {value / plain:.2f}" for name, value in seconds.items())
        print(f"{'x'.join(map(str, shape)):>12}  {plain * 1e6:8.0f} us  {figures}")
    if arguments.output is not None:
        git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        machine = {
            "cpu": platform.processor() or platform.machine(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "jumpstart_kernels": jk.__version__,
            "backend": backends.select(torch.empty(0)),
            "git": git.stdout.strip(),
        }
        arguments.output.write_text(json.dumps({"machine": machine, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
