"""A sweep: tasks in several processes, longest first, each result stored as soon as it is available."""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from jumpstart_kernels.bench.files import write_results
from jumpstart_kernels.bench.machine import describe, keep_memory
from jumpstart_kernels.cli.errors import CommandError

SCHEMA = 1
CPU = torch.device("cpu")
Record = dict[str, Any]


def sweep(
    work: Callable[[Any], list[Record]],
    tasks: Mapping[str, Any],
    output: Path,
    settings: Record,
    jobs: int,
    command: list[str],
    device: torch.device = CPU,
) -> Record:
    """Run ``work`` on every task without a result in ``output``; returns the record of all tasks.

    Args:
        work: a module-level function that takes a task and returns the records of its runs.
        tasks: by name, longest first.
        output: a JSON file. If it exists with the same settings, the sweep resumes from it.
        settings: everything that determines the results; JSON-serializable.
        jobs: number of single-threaded processes.
        command: words of the command, for the record.
        device: where the tasks run, for the record.

    Raises:
        CommandError: ``output`` has results for other settings.
    """
    machine = describe(device, command)
    machine |= {"threads": 1, "jobs": jobs, "keeps_memory": True}
    record = continued(output, {"schema": SCHEMA, "machine": machine, "settings": settings, "tasks": {}})
    remaining = {name: task for name, task in tasks.items() if name not in record["tasks"]}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(jobs, context, initializer=_prepare) as pool,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        bar = progress.add_task("tasks", total=len(tasks), completed=len(tasks) - len(remaining))
        futures = {pool.submit(partial(_timed, work), task): name for name, task in remaining.items()}
        try:
            for future in as_completed(futures):
                record["tasks"][futures[future]] = future.result()
                record["remaining"] = sum(name not in record["tasks"] for name in tasks)
                write(output, record)
                progress.advance(bar)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return record


def run_command(
    module: str,
    words: Sequence[str] | None,
    parse_arguments: Callable[[Sequence[str]], argparse.Namespace],
    run: Callable[[argparse.Namespace, list[str]], Record],
) -> int:
    """Run ``python -m benchmarks.paper.MODULE``; returns 2, with a message of one line, for a user error."""
    words = sys.argv[1:] if words is None else words
    arguments = parse_arguments(words)
    try:
        record = run(arguments, ["python", "-m", f"benchmarks.paper.{module}", *words])
    except (CommandError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if "tasks" in record:
        print(f"{len(record['tasks'])} tasks, {seconds_of(record):.0f} s of CPU time")
    return 0


def runs_of(record: Record) -> list[Record]:
    """The runs of all tasks."""
    return [run for task in record["tasks"].values() for run in task["runs"]]


def seconds_of(record: Record) -> float:
    """The CPU time of all tasks."""
    return sum(task["seconds"] for task in record["tasks"].values())


def _prepare() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # weight decay ends in denormals, whose arithmetic is many times slower
    keep_memory(CPU)


def _timed(work: Callable[[Any], list[Record]], task: Any) -> Record:
    begin = time.process_time()  # independent of the load of the machine
    runs = work(task)
    return {"seconds": round(time.process_time() - begin, 1), "runs": runs}


def continued(output: Path, record: Record) -> Record:
    """The record in ``output``, or the given one if the file does not exist.

    Raises:
        CommandError: ``output`` has results for other settings.
    """
    record = json.loads(json.dumps(record))  # as it would be read back
    output.parent.mkdir(parents=True, exist_ok=True)
    if not output.exists():
        return record
    stored = json.loads(output.read_text())
    if any(stored.get(key) != record[key] for key in ("schema", "settings")):
        raise CommandError(f"{output} has results for other settings: remove it, or choose another --output")
    return stored


def write(output: Path, record: Record) -> None:
    """Write atomically, and compactly."""
    write_results(output, record, separators=(",", ":"))
