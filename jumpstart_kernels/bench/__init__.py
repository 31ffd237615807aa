"""``python -m jumpstart_kernels bench``: the cost of the layer on this machine, compared with its peers."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from jumpstart_kernels.bench.cases import Case
from jumpstart_kernels.bench.files import write_results
from jumpstart_kernels.bench.machine import describe, keep_memory
from jumpstart_kernels.bench.measure import measure
from jumpstart_kernels.bench.peers import make_peers
from jumpstart_kernels.bench.report import failures, make_table
from jumpstart_kernels.bench.timing import current

SCHEMA = 1  # of the JSON file
TABLE_WIDTH = 160  # a narrower terminal wraps the lines; no number is cut
BUSY = 0.3  # load average per core above which a run warns


def run(
    cases: Sequence[Case],
    *,
    device: torch.device,
    peers: Sequence[str],
    backends: Sequence[str],
    passes: Sequence[str],
    rounds: int | None = None,
    budget: float = 4.0,
    seed: int = 0,
    authors: Path | None = None,
    output: Path | None = None,
    command: Sequence[str] = (),
    system_allocator: bool = False,
) -> int:
    """Measure cases, print a table for each, and write the results.

    Args:
        cases: the cases to measure.
        device: the device to run on.
        peers: names in :data:`~jumpstart_kernels.bench.peers.PEERS`, besides ``nn.ReLU`` and a copy.
        backends: of the peer ``"jumpstart"``.
        passes: names in :data:`~jumpstart_kernels.bench.cases.PASSES`.
        rounds: samples of each peer and pass; by default as many as fit into ``budget`` seconds per case.
        seed: of the random inputs.
        authors: a checkout of the authors' code, for the peer ``"authors"``.
        output: a JSON file, rewritten after each case.
        command: the command line, for the file.
        system_allocator: do not change the memory allocator of the CPU
            (:func:`~jumpstart_kernels.bench.machine.keep_memory`).

    Returns:
        The exit status: 0, or 1 if a peer computed a wrong result and has no figures.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.text import Text

    console = Console(highlight=False)
    wide = Console(highlight=False, width=max(console.width, TABLE_WIDTH))
    keeps_memory = not system_allocator and keep_memory(device)
    machine = describe(device, command, keeps_memory)
    results: dict[str, Any] = {"schema": SCHEMA, "machine": machine, "cases": []}
    console.print(heading(results["machine"]), markup=False, soft_wrap=True)
    wrong = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        current(device),
        Progress(*columns, console=console, refresh_per_second=4, transient=True) as progress,
    ):
        whole = progress.add_task("cases", total=len(cases))
        for i, case in enumerate(cases):
            torch.manual_seed(seed + i)
            task = progress.add_task(str(case), total=rounds)
            record = measure(
                case,
                make_peers(peers, backends, case, device, authors),
                passes,
                device,
                rounds=rounds,
                budget=budget,
                on_round=partial(progress.advance, task),
            )
            results["cases"].append(record)
            with wide.capture() as table:
                wide.print(make_table(record, list(passes)))
            progress.console.print(Text.from_ansi(table.get()), soft_wrap=True)
            for line in failures(record):
                progress.console.print(f"  {line}", markup=False, soft_wrap=True, style="red")
                wrong += 1
            if output is not None:
                write_results(output, results)
            progress.remove_task(task)
            progress.advance(whole)
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return 1 if wrong else 0


def heading(machine: dict[str, Any]) -> str:
    """The heading of the tables: the machine, and a warning if it is busy."""
    kernels = machine["instruction_set"] if machine["device_type"] == "cpu" else None
    heading = f"{machine['device']}, {machine['threads']} threads, "
    heading += f"native kernels for {kernels}, " if kernels else ""
    heading += f"torch {machine['torch']}"
    load = machine["load_average"]
    if load is not None and load > BUSY * machine["cpu_cores"]:
        heading += f"\nwarning: load average {load:.1f}: the machine is busy, timings are unreliable"
    return heading
