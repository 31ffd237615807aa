"""The operator in pytest-benchmark, for its comparisons and histograms:

    pytest benchmarks --benchmark-only

Published figures come from ``python -m jumpstart_kernels bench``, where the implementations take turns.
"""

import pytest
import torch

from jumpstart_kernels.bench.cases import PASSES, Case, make_gradient, make_input
from jumpstart_kernels.bench.check import Check
from jumpstart_kernels.bench.peers import make_peers
from jumpstart_kernels.bench.timing import RUNS
from jumpstart_kernels.ops import backends

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CASES = [
    Case(shape, dtype, layout)
    for dtype in ("float32", "bfloat16")
    for shape, layout in [
        ((256, 4), "contiguous"),
        ((256, 1024), "contiguous"),
        ((1024, 1024), "contiguous"),
        ((16, 64, 56, 56), "contiguous"),
        ((16, 64, 56, 56), "channels_last"),
    ]
]
CASES += [case._replace(bias=True) for case in CASES if case.dtype == "float32"]
PEERS = ("nn.ReLU", *(f"JumpstartReLU {backend}" for backend in backends.BACKENDS), "plain PyTorch")


@pytest.fixture
def peer(request, case):
    """The peer of that name, checked on the case before it is timed."""
    name = request.param
    backend = name.rpartition(" ")[2]
    if backend in backends.BACKENDS:
        reason = backends.unavailable(backend, DEVICE.type)
        if reason is not None:
            pytest.skip(f"{backend} on {DEVICE.type}: {reason}")
        peers = make_peers(["jumpstart"], [backend], case, DEVICE)
    else:
        peers = make_peers(["composite"], [], case, DEVICE)
    found = next(each for each in peers if each.name.removeprefix("bias + ") == name)
    torch.manual_seed(0)
    failure = Check(case, DEVICE).failure(found)
    assert failure is None
    with found.active():
        yield found


def synchronized(run, *arguments):
    run(*arguments)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("peer", PEERS, indirect=True)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_operator(benchmark, case, peer, pass_):
    benchmark.group = f"{case} {pass_}"
    x, grad = make_input(case, DEVICE).requires_grad_(), make_gradient(case, DEVICE)
    peer.prepare(x)
    if pass_ == "backward":  # a backward consumes its graph, so each gets its own

        def make_arguments():
            return (peer.backward, x, peer.forward(x), grad), {}

        benchmark.pedantic(synchronized, setup=make_arguments, rounds=50, warmup_rounds=3)
    else:
        benchmark(synchronized, RUNS[pass_], peer, [(x, grad)])
