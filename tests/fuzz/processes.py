"""Runs the groups of a campaign, sequentially or in several processes."""

import logging
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

import torch

from fuzz.campaign import Tally, run_group


def prepare_process() -> None:
    """One thread, and no compiler messages that a failure repeats anyway."""
    torch.set_num_threads(1)
    logging.getLogger("torch").setLevel(logging.ERROR)


def run(groups: list[tuple[str, int, int]], seed: int, jobs: int) -> Iterator[tuple[str, Tally]]:
    """Yields each group's mode and tally on completion, in this process or in others."""
    if jobs == 1:
        prepare_process()
        for mode, index, cases in groups:
            yield mode, run_group(mode, seed, index, cases)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=prepare_process) as pool:
        futures: dict[Future[Tally], tuple[str, int]] = {
            pool.submit(run_group, mode, seed, index, cases): (mode, index) for mode, index, cases in groups
        }
        done: set[Future[Tally]] = set()
        try:
            for future in as_completed(futures):
                yield futures[future][0], future.result()
                done.add(future)
        except BrokenProcessPool as error:
            suspects = [f"{mode}/{index}" for future, (mode, index) in futures.items() if future not in done]
            names = ", ".join(suspects[: 2 * jobs])
            raise SystemExit(f"a process died in one of the groups {names}: try each with --group") from error
