"""Timing: interleaved rounds of samples, each with as many iterations as the clock needs."""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from jumpstart_kernels.bench.cases import BOTH, Case, make_gradient, make_input
from jumpstart_kernels.bench.peer import Outputs, Peer

SAMPLE_SECONDS = 2e-3  # minimum duration of a sample, which sets its iterations
MAX_ITERATIONS = 1000
MAX_KEPT_BYTES = 2**30  # kept at most by the forwards for one sample of backwards
GRAPH_ITERATIONS = 20  # per CUDA graph, as the graph of a training step holds many layers
MIN_ROUNDS = 9
ROTATED_BYTES = 4 * 2**20  # inputs of this size and more rotate, so that none is found in a GPU's L2

Pairs = list[tuple[Tensor, Tensor]]  # inputs and gradients of the output


class Sampler(NamedTuple):
    """Takes one sample of several iterations and returns the seconds per iteration."""

    sample: Callable[[], float]
    iterations: int


class Quartiles(NamedTuple):
    """Seconds of one iteration, over the rounds."""

    lower: float
    median: float
    upper: float


class Buffers:
    """Inputs and gradients of a case, handed out in rotation; on a GPU more of them than fit in its L2."""

    def __init__(self, case: Case, device: torch.device) -> None:
        self.case, self.device = case, device
        count = 1
        if device.type == "cuda" and case.bytes >= ROTATED_BYTES and not case.graphs:
            count = math.ceil(2 * torch.cuda.get_device_properties(device).L2_cache_size / case.bytes)
        self.pairs: Pairs = [
            (make_input(case, device).requires_grad_(), make_gradient(case, device)) for _ in range(count)
        ]
        self._turn = itertools.cycle(self.pairs)

    def take(self, count: int) -> Pairs:
        """The next ``count`` pairs, with gradients cleared."""
        for x, _ in self.pairs:
            x.grad = None
        return [next(self._turn) for _ in range(count)]


def current(device: torch.device) -> AbstractContextManager:
    """Make a GPU the current device, for events and graphs."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """How long ``run`` takes: wall clock on the CPU, CUDA events on a GPU."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def run_forward(peer: Peer, pairs: Pairs) -> None:
    for x, _ in pairs:
        peer.forward(x)


def run_backward(peer: Peer, pairs: Pairs, outputs: list[Outputs]) -> None:
    for x, grad in pairs:
        peer.backward(x, outputs.pop(), grad)


def run_both(peer: Peer, pairs: Pairs) -> None:
    for x, grad in pairs:
        peer.backward(x, peer.forward(x), grad)


def run_steps(peer: Peer, pairs: Pairs) -> None:
    for x, grad in pairs:
        peer.step(x, grad)


RUNS = {"forward": run_forward, BOTH: run_both, "step": run_steps}  # a backward needs forwards before
GRAPH_PASSES = ("forward", BOTH)  # a replay allocates nothing and runs no Python: a step would be BOTH


def run_copy(pairs: Pairs) -> None:
    """The upper bound of any forward: a clone, which allocates its result like the peers."""
    for x, _ in pairs:
        x.detach().clone()


def take_sample(peer: Peer, name: str, buffers: Buffers, iterations: int) -> float:
    """Seconds per iteration of a pass, including freeing its results."""
    pairs = buffers.take(iterations)
    with peer.active():
        if name == "backward":
            outputs = [peer.forward(x) for x, _ in reversed(pairs)]
            taken = seconds(lambda: run_backward(peer, pairs, outputs), buffers.device)
        else:
            taken = seconds(lambda: RUNS[name](peer, pairs), buffers.device)
    return taken / iterations


def make_samplers(peer: Peer, passes: Sequence[str], buffers: Buffers) -> dict[str, Sampler]:
    """Warmed-up samplers of a peer by pass; with CUDA graphs only of ``GRAPH_PASSES``."""
    x, grad = buffers.pairs[0]
    with peer.active():
        peer.prepare(x)
        peer.backward(x, peer.forward(x), grad)
    if buffers.case.graphs:
        with peer.active():
            return {
                name: _capture(partial(RUNS[name], peer, _with_new_leaves(buffers.pairs)), buffers.device)
                for name in GRAPH_PASSES
                if name in passes
            }
    kept = max(1, MAX_KEPT_BYTES // (4 * buffers.case.bytes))
    return {
        name: calibrate(
            partial(take_sample, peer, name, buffers), kept if name == "backward" else MAX_ITERATIONS
        )
        for name in passes
    }


def _with_new_leaves(pairs: Pairs) -> Pairs:
    """The same inputs for one capture: in a live graph a leaf's gradient belongs to that graph's stream."""
    return [(x.detach().requires_grad_(), grad) for x, grad in pairs]


def make_copy_sampler(buffers: Buffers) -> Sampler:
    """Warmed-up sampler of :func:`run_copy`."""
    if buffers.case.graphs:
        return _capture(lambda: run_copy(buffers.pairs), buffers.device)

    def sample(count: int) -> float:
        pairs = buffers.take(count)
        return seconds(lambda: run_copy(pairs), buffers.device) / count

    return calibrate(sample)


def calibrate(sample: Callable[[int], float], most: int = MAX_ITERATIONS) -> Sampler:
    """A sampler with as many iterations as fill ``SAMPLE_SECONDS``, at most ``most``.

    Args:
        sample: takes a number of iterations and returns the seconds per iteration.
    """
    taken = sample(1)  # the first is often slow, and only decides if one iteration is enough
    if taken < 50 * SAMPLE_SECONDS:
        taken = min(sample(1) for _ in range(3))
    iterations = max(1, min(most, MAX_ITERATIONS, math.ceil(SAMPLE_SECONDS / taken)))
    return Sampler(lambda: sample(iterations), iterations)


def _capture(run: Callable[[], object], device: torch.device) -> Sampler:
    """A CUDA graph of ``GRAPH_ITERATIONS`` runs; a sample is one replay."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):  # compile and allocate before the capture
            run()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(GRAPH_ITERATIONS):
            run()
    graph.replay()
    return Sampler(lambda: seconds(graph.replay, device) / GRAPH_ITERATIONS, GRAPH_ITERATIONS)


def interleave(samplers: Sequence[Sampler], rounds: int | None, budget: float) -> Iterator[list[float]]:
    """The samples of each round in the order of ``samplers``, taken in alternating order.

    Without ``rounds`` there are as many as start within ``budget`` seconds, and at least ``MIN_ROUNDS``.
    """
    begin = time.perf_counter()
    for done in itertools.count():
        if rounds is None and done >= MIN_ROUNDS and time.perf_counter() - begin > budget or done == rounds:
            return
        samples = [0.0] * len(samplers)
        order = range(len(samplers))
        for i in order if done % 2 == 0 else reversed(order):
            samples[i] = samplers[i].sample()
        yield samples


def quartiles(samples: Sequence[float]) -> Quartiles:
    """Quartiles; a single sample is repeated three times."""
    if len(samples) == 1:
        samples = [samples[0]] * 2
    return Quartiles(*statistics.quantiles(samples, n=4, method="inclusive"))
