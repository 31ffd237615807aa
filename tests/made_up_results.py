"""Made-up results of the benchmarks, whose ratios are known."""

import json
import math
from pathlib import Path

import pytest

from benchmarks import goals
from jumpstart_kernels.bench.cases import PASSES

BIAS = {"bias": True}  # the field of a case
SECONDS = {"forward": 1.0, "backward": 2.0, "forward+backward": 3.0, "step": 4.0}  # of nn.ReLU
MACHINE = {
    "device": "Made-up",
    "device_type": "cpu",
    "cpu_capability": "AVX2",
    "threads": 2,
    "torch": "2.13.0",
    "triton": "3.7.1",
    "cuda": "13.0",
    "python": "3.12.0",
    "git": "0123456789abcdef",
    "git_dirty": False,
}


def make_peer(name, ratios, size, backend=None):
    passes = {
        pass_: {
            "median": SECONDS[pass_] * ratio,
            "quartiles": [SECONDS[pass_] * ratio] * 2,
            "iterations": 1,
            "ratio": ratio,
            "gigabytes_per_second": size / (SECONDS[pass_] * ratio) / 1e9,
        }
        for pass_, ratio in zip(
            PASSES, ratios, strict=False
        )  # files from before there was a step have no ratio of it
    }
    return {
        "name": name,
        "backend": backend,
        "failure": None,
        "saved_bytes": size // 8,
        "peak_bytes": None,
        "passes": passes,
    }


def make_case(shape, dtype="float32", layout="contiguous", graphs=False, fields=None, **ratios):
    """``fields`` that files from before they were introduced lack."""
    size = {"float32": 4, "bfloat16": 2}[dtype] * math.prod(shape)
    plain = "bias + nn.ReLU" if (fields or {}).get("bias") else "nn.ReLU"
    peers = [make_peer(plain, [1] * max(map(len, ratios.values())), size)]
    peers += [make_peer(f"JumpstartReLU {backend}", each, size, backend) for backend, each in ratios.items()]
    return {
        "shape": list(shape),
        "dtype": dtype,
        "layout": layout,
        "graphs": graphs,
        **(fields or {}),
        "bytes": size,
        "rounds": 7,
        "copy": {"median": 1.0, "quartiles": [1, 1], "iterations": 1, "gigabytes_per_second": size / 1e9},
        "peers": peers,
    }


def make_linked(shape=(4096, 4096), dtype="float32", compiled=0.4, **ratios):
    """Results of linked ReLU: ratios of the linked layer, and of the one with a penalty, by backend."""
    case = make_case(shape, dtype, fields={"activation": "linked_relu", "bias": False}, unused=(1, 1, 1))
    size = case["bytes"]
    plain = "cat(relu(x), relu(-x))"
    peers = [make_peer(plain, (1, 1, 1), size)]
    for backend, (linked, with_penalty) in (ratios or {"native": (0.25, 0.3)}).items():
        peers.append(make_peer(f"LinkedReLU {backend}", (linked,) * 3, size, backend))
        peers.append(make_peer(f"JumpstartLinkedReLU {backend}", (with_penalty,) * 3, size, backend))
    peers.append(make_peer(f"{plain}, compiled", (compiled,) * 3, size))
    return {"machine": MACHINE, "cases": [case | {"peers": peers}]}


def make_steps(network, samples=256, fields=None, **ratios):
    variants = [
        {
            "name": name,
            "failure": None,
            "peak_bytes": None,
            "step": {"median": 0.01 * ratio, "quartiles": [1, 1], "iterations": 1, "ratio": ratio},
        }
        for name, ratio in {"plain": 1.0, **ratios}.items()
    ]
    return {
        "network": network,
        "mode": "eager",
        **(fields or {}),
        "input": [samples, 30],
        "dtype": "float32",
        "rounds": 7,
        "variants": variants,
    }


def make_kernels(fields=None) -> dict:
    names = (
        "relu",
        "relu_backward",
        "void jumpstart_activation_forward_rows_kernel<float, 4>()",
        "void jumpstart_activation_bias_backward_kernel<float, 4>()",
        "penalty_kernel",
    )
    kernels = [{"kernel": name, "launches": 2.0, "median": 1e-6} for name in names]
    plain = "bias + nn.ReLU" if fields else "nn.ReLU"
    peers = [(plain, kernels[:2]), ("JumpstartReLU native", kernels[2:])]
    return {
        "shape": [256, 4],
        "dtype": "float32",
        "layout": "contiguous",
        **(fields or {}),
        "peers": [{"name": name, "kernels": of_peer} for name, of_peer in peers],
    }


@pytest.fixture
def folder(tmp_path) -> Path:
    """Results of a CPU: two goals met, two missed."""
    cases = [
        make_case((64, 64, 56, 56), native=(0.8, 0.9, 0.95)),
        make_case((64, 64, 56, 56), "bfloat16", native=(3, 3, 3)),
        make_case((4096, 4096), native=(1, 1, 1.1)),
        make_case((1024, 1024), native=(1, 1, 0.85)),
        make_case((256, 4), native=(1, 1, 1.95)),
    ]
    write(tmp_path / "cpu_operator.json", {"machine": MACHINE, "cases": cases})
    write(tmp_path / "cpu_sweep.json", {"machine": MACHINE, "cases": cases[-2:]})
    write(tmp_path / "cpu_steps.json", {"machine": MACHINE, "networks": [make_steps("50x4", Jumpstart=1.25)]})
    return tmp_path


def write(path: Path, results: dict) -> None:
    path.write_text(json.dumps({"schema": 1, **results}))


def verdicts(folder) -> dict[str, tuple[float | None, bool | None]]:
    return {f"{each.goal.text}, {each.backend}": (each.measured, each.met) for each in goals.verdicts(folder)}
