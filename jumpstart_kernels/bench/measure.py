"""Measures one case: checks every peer, then times the correct ones, interleaved."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from jumpstart_kernels.bench.cases import DTYPES, Case
from jumpstart_kernels.bench.check import Check
from jumpstart_kernels.bench.memory import peak_bytes, saved_bytes
from jumpstart_kernels.bench.peer import Peer
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
        peers: what to run, first what the ratios refer to. One whose results are wrong is not timed: its
            record has ``failure``, and no figure.
        passes: of :data:`~jumpstart_kernels.bench.cases.PASSES`.
        device: where.
        rounds: samples of each peer and pass; by default as many as fit into ``budget``.
        budget: seconds per case.
        on_round: called after every round.
    """
    failures = _check(case, peers, device)
    buffers = Buffers(case, device)
    copy = make_copy_sampler(buffers)
    timed: list[tuple[Peer, str, Sampler]] = []
    memory: dict[str, Record] = {}
    for peer in peers:
        if peer.name in failures:
            continue
        try:
            samplers = make_samplers(peer, passes, buffers)
            memory[peer.name] = _memory(peer, buffers)
        except Exception as error:
            failures[peer.name] = does_not_run(error)
        else:
            timed += [(peer, name, sampler) for name, sampler in samplers.items()]
    rows = []
    for samples in interleave([copy, *(sampler for *_, sampler in timed)], rounds, budget):
        rows.append(samples)
        on_round()
    copied, *columns = zip(*rows, strict=True)

    figures: dict[str, Record] = {peer.name: {} for peer in peers}
    for (peer, name, sampler), column in zip(timed, columns, strict=True):
        figures[peer.name][name] = figures_of(column, sampler.iterations, _moved(peer, name, case))
    plain = figures[peers[0].name]
    for each in figures.values():
        for name, record in each.items():
            record["ratio"] = record["median"] / plain[name]["median"] if plain else None
    return {
        "shape": list(case.shape),
        "dtype": case.dtype,
        "layout": case.layout,
        "graphs": case.graphs,
        "health": case.health,
        "dead": case.dead,
        "linear": case.linear,
        "activation": case.activation,
        "bias": case.bias,
        "bytes": case.bytes,
        "rounds": len(rows),
        "copy": figures_of(copied, copy.iterations, 2 * case.bytes),
        "peers": [
            {
                "name": peer.name,
                "backend": peer.backend,
                "failure": failures.get(peer.name),
                **memory.get(peer.name, {"saved_bytes": None, "peak_bytes": None}),
                "passes": figures[peer.name],
            }
            for peer in peers
        ],
    }


def _check(case: Case, peers: Sequence[Peer], device: torch.device) -> dict[str, str]:
    """Failures by peer."""
    check = Check(case, device)
    found = {peer.name: check.failure(peer) for peer in peers}
    return {name: failure for name, failure in found.items() if failure is not None}


def _memory(peer: Peer, buffers: Buffers) -> Record:
    pairs = buffers.take(1)
    with peer.active():
        saved = saved_bytes(peer, pairs[0][0])
        return {
            "saved_bytes": saved,
            "peak_bytes": peak_bytes(partial(run_both, peer, pairs), buffers.device),
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


def _moved(peer: Peer, name: str, case: Case) -> float | None:
    moved = peer.model_bytes(case.elements, DTYPES[case.dtype].itemsize)
    if moved is None:
        return None
    return {"forward": moved[0], "backward": moved[1]}.get(name, sum(moved))
