"""``python -m fuzz``, from ``tests/``: a campaign, its progress, its failures, its results as JSON."""

import argparse
import datetime
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before any kernel is decorated

from fuzz.campaign import Tally, plan
from fuzz.modes import MODES
from fuzz.processes import run
from jumpstart_kernels.bench.machine import describe
from jumpstart_kernels.ops import backends

SCHEMA = 1


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=_positive, default=1000, metavar="N", help="default: 1000")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the whole campaign; default: 0")
    parser.add_argument("--jobs", type=_positive, default=1, metavar="J", help="processes; default: 1")
    parser.add_argument("--only", action="append", choices=list(MODES), help="a mode; may be repeated")
    parser.add_argument("--group", metavar="MODE/INDEX", help="run one group again, as a failure names it")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the results here")
    arguments = parser.parse_args(words)
    arguments.groups = _groups(parser, arguments)
    return arguments


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def _groups(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[tuple[str, int, int]]:
    """Mode, index and cases of every group to run."""
    if arguments.group is not None:
        mode, _, index = arguments.group.partition("/")
        if mode not in MODES or not index.isdecimal():
            parser.error(f"argument --group: must be MODE/INDEX, got {arguments.group!r}")
        return [(mode, int(index), MODES[mode].group)]
    modes = []
    for name in dict.fromkeys(arguments.only or MODES):
        reason = backends.unavailable(MODES[name].backend or "native", "cpu")
        if reason and arguments.only:
            parser.error(f"mode {name} cannot run: {reason}")
        elif reason:
            print(f"mode {name} is left out: {reason}")
        else:
            modes.append(MODES[name])
    return plan(arguments.cases, modes)


def show_progress(
    groups: list[tuple[str, int, int]], results: Iterator[tuple[str, Tally]]
) -> Iterator[tuple[str, Tally]]:
    """Yield the results, with a progress bar per mode if ``rich`` is installed."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        yield from results
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        totals: dict[str, int] = {}
        for mode, _, cases in groups:
            totals[mode] = totals.get(mode, 0) + cases
        bars = {mode: progress.add_task(mode, total=total) for mode, total in totals.items()}
        for mode, tally in results:
            progress.advance(bars[mode], tally.cases[mode] + tally.left_out)
            yield mode, tally


def summarize(tally: Tally, seed: int, words: Sequence[str]) -> dict[str, Any]:
    """The results for the JSON file."""
    return {
        "schema": SCHEMA,
        "date": datetime.date.today().isoformat(),
        "seed": seed,
        "cases": sum(tally.cases.values()),
        "modes": dict(tally.cases),
        "values_only": tally.values_only,
        "left_out": tally.left_out,
        "redrawn": tally.redrawn,
        "largest_error": tally.worst,
        "met": dict(sorted(tally.seen.items())),
        "failures": [asdict(failure) for failure in tally.failures],
        "machine": describe(torch.device("cpu"), ["python", "-m", "fuzz", *words]),
    }


def main(words: Sequence[str] | None = None) -> int:
    """Run a campaign; returns 1 if a case fails."""
    words = sys.argv[1:] if words is None else list(words)
    arguments = parse_arguments(words)
    tally = Tally()
    results = run(arguments.groups, arguments.seed, arguments.jobs)
    for _, part in show_progress(arguments.groups, results):
        tally.add(part)
        for failure in part.failures:
            again = f"python -m fuzz --seed {failure.seed} --group {failure.mode}/{failure.group}"
            print(f"{again}\n  case {failure.case}: {failure.message}\n  {failure.details}", flush=True)
    for mode, count in tally.cases.items():
        print(f"{mode:16} {count:6} cases, largest error {tally.worst[mode]:.2g} of what is allowed")
    print(f"{sum(tally.cases.values())} cases, {len(tally.failures)} failures")
    print(f"{tally.values_only} of them without gradients, which random ties or rounding leave open")
    print(f"{tally.left_out} more left out, for which no draw had gradients that rounding cannot change")
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(summarize(tally, arguments.seed, words), indent=1) + "\n")
    return int(bool(tally.failures))


if __name__ == "__main__":
    sys.exit(main())
