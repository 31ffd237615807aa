"""One case, measured: check every peer, then time those that are right, side by side."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from jumpstart_kernels.bench.cases import DTYPES, Case
from jumpstart_kernels.bench.check import Check
from jumpstart_kernels.bench.memory import peak_bytes, saved_bytes
from jumpstart_kernels.bench.peers import RELU, Peer
from jumpstart_kernels.bench.report import does_not_run
from jumpstart_kernels.bench.timing import (
    Buffers,
    Sampler,
    interleave,
    make_copy_sampler,
    make_samplers,
    quartiles,
    run_both,
)

Record = dict[str, Any]  # as in the JSON file: see docs/benchmarks.md


def measure(
    case: Case,
    peers: Sequence[Peer],
    passes: Sequence[str],
    device: torch.device,
    *,
    rounds: int | None = None,
    budget: float = 4.0,
    on_round: Callable[[], None] = lambda: None,
) -> Record:
    """The record of one case.

    Args:
        case: the input.
        peers: what to run, ``nn.ReLU`` among it. One whose results are wrong is not timed: its record has
            ``failure``, and no figure.
        passes: of ``"forward"``, ``"backward"`` and ``"forward+backward"``.
        device: where.
        rounds: samples of each peer and pass; by default as many as fit into ``budget``.
        budget: seconds.
        on_round: called after every round.
    """
    failures = _check(case, peers, device)
    buffers = Buffers(case, device)
    copy = make_copy_sampler(buffers)
    samplers: dict[str, dict[str, Sampler]] = {}
    memory: dict[str, tuple[int, int | None]] = {}
    for peer in peers:
        if peer.name not in failures:
            try:
                samplers[peer.name] = make_samplers(peer, passes, buffers)
                pairs = buffers.take(1)
                with peer.active():
                    saved = saved_bytes(peer, pairs[0][0])
                    memory[peer.name] = saved, peak_bytes(partial(run_both, peer, pairs), device)
            except Exception as error:
                failures[peer.name] = does_not_run(error)
    keys = [(name, each) for name in samplers if name not in failures for each in samplers[name]]
    everything = [copy, *(samplers[name][each] for name, each in keys)]
    taken = []
    for samples in interleave(everything, rounds, budget):
        taken.append(samples)
        on_round()
    columns = list(zip(*taken, strict=True))

    size = DTYPES[case.dtype].itemsize
    copied = figures_of(columns[0], copy.iterations, 2 * case.bytes)
    figures: dict[str, Record] = {peer.name: {} for peer in peers}
    for (name, each), column in zip(keys, columns[1:], strict=True):
        peer = next(peer for peer in peers if peer.name == name)
        moved = _moved(peer.model_bytes(case.elements, size), each)
        figures[name][each] = figures_of(column, samplers[name][each].iterations, moved)
    for passes_of in figures.values():
        for each, record in passes_of.items():
            plain = figures.get(RELU, {}).get(each)
            record["ratio"] = record["median"] / plain["median"] if plain else None
    return {
        "shape": list(case.shape),
        "dtype": case.dtype,
        "layout": case.layout,
        "graphs": case.graphs,
        "unhealthy": case.unhealthy,
        "bytes": case.bytes,
        "rounds": len(taken),
        "copy": copied,
        "peers": [_peer_record(peer, failures, memory, figures) for peer in peers],
    }


def _check(case: Case, peers: Sequence[Peer], device: torch.device) -> dict[str, str]:
    """What is wrong, by peer."""
    check = Check(case, device)
    found = {peer.name: check.failure(peer) for peer in peers}
    return {name: failure for name, failure in found.items() if failure is not None}


def _peer_record(
    peer: Peer,
    failures: dict[str, str],
    memory: dict[str, tuple[int, int | None]],
    figures: dict[str, Record],
) -> Record:
    failure = failures.get(peer.name)
    saved, peak = memory.get(peer.name, (None, None)) if failure is None else (None, None)
    return {
        "name": peer.name,
        "backend": peer.backend,
        "failure": failure,
        "saved_bytes": saved,
        "peak_bytes": peak,
        "passes": {} if failure else figures[peer.name],
    }


def figures_of(samples: Sequence[float], iterations: int, moved: float | None = None) -> Record:
    """Median and quartiles in seconds, and GB/s where the bytes moved are known."""
    lower, median, upper = quartiles(samples)
    return {
        "median": median,
        "quartiles": [lower, upper],
        "iterations": iterations,
        "gigabytes_per_second": None if moved is None else moved / median / 1e9,
    }


def _moved(moved: tuple[float, float] | None, name: str) -> float | None:
    if moved is None:
        return None
    return {"forward": moved[0], "backward": moved[1], "forward+backward": sum(moved)}[name]
