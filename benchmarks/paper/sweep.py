"""A sweep: tasks in several processes, the longest first, each one's result stored as soon as it is there."""

import argparse
import json
import multiprocessing
import os
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

from jumpstart_kernels.bench.machine import describe, keep_memory
from jumpstart_kernels.cli_inputs import CommandError

SCHEMA = 1
Record = dict[str, Any]


def sweep(
    work: Callable[[Any], list[Record]],
    tasks: Mapping[str, Any],
    output: Path,
    settings: Record,
    jobs: int,
    command: list[str],
) -> Record:
    """Run ``work`` on each task that ``output`` has no result of yet; what all of them gave.

    Args:
        work: a function at the top of a module, of one task; gives the records of its runs.
        tasks: by name, the longest first.
        output: a JSON file. If it is there with the same settings, the sweep goes on from it.
        settings: what decides the results, for JSON.
        jobs: processes, of one thread each.
        command: words of the command, for the record.

    Raises:
        CommandError: ``output`` has results of other settings.
    """
    machine = describe(torch.device("cpu"), command)
    machine |= {"threads": 1, "jobs": jobs, "keeps_memory": True}
    record = continued(output, {"schema": SCHEMA, "machine": machine, "settings": settings, "tasks": {}})
    left = {name: task for name, task in tasks.items() if name not in record["tasks"]}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(jobs, context, initializer=_prepare) as pool,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        bar = progress.add_task(
            "networks trained at once", total=len(tasks), completed=len(tasks) - len(left)
        )
        futures = {pool.submit(partial(_timed, work), task): name for name, task in left.items()}
        try:
            for future in as_completed(futures):
                record["tasks"][futures[future]] = future.result()
                record["left"] = len(tasks) - len(record["tasks"])
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
    """The status of ``python -m benchmarks.paper.MODULE``: 2, and one line, for a mistake of the user's."""
    words = sys.argv[1:] if words is None else words
    arguments = parse_arguments(words)
    try:
        record = run(arguments, ["python", "-m", f"benchmarks.paper.{module}", *words])
    except (CommandError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if "tasks" in record:
        print(f"{len(record['tasks'])} tasks, {seconds_of(record):.0f} s of processor time")
    return 0


def runs_of(record: Record) -> list[Record]:
    """The runs of all tasks."""
    return [run for task in record["tasks"].values() for run in task["runs"]]


def seconds_of(record: Record) -> float:
    """Processor time of all tasks."""
    return sum(task["seconds"] for task in record["tasks"].values())


def _prepare() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # decayed weights end there, where arithmetic takes many times as long
    keep_memory(torch.device("cpu"))


def _timed(work: Callable[[Any], list[Record]], task: Any) -> Record:
    begin = time.process_time()  # whatever else the machine does
    runs = work(task)
    return {"seconds": round(time.process_time() - begin, 1), "runs": runs}


def continued(output: Path, record: Record) -> Record:
    """The record of ``output``, or that given, if there is none yet.

    Raises:
        CommandError: that of ``output`` is of other settings.
    """
    record = json.loads(json.dumps(record))  # as it would be read
    output.parent.mkdir(parents=True, exist_ok=True)
    if not output.exists():
        return record
    there = json.loads(output.read_text())
    if any(there.get(key) != record[key] for key in ("schema", "settings")):
        raise CommandError(f"{output} has results of other settings: remove it, or name another --output")
    return there


def write(output: Path, record: Record) -> None:
    """Whole or not at all."""
    part = output.with_name(output.name + ".part")
    part.write_text(json.dumps(record, separators=(",", ":")) + "\n")
    os.replace(part, output)
