"""Does Jumpstart keep a network learning, task after task? Ten techniques, three problems, two optimizers.

    python -m benchmarks.plasticity --data UCI_FOLDER --images cifar10_jpeg.npz \\
        --output benchmarks/results/plasticity.json

Every technique is tuned with all its learning rates and strengths on seeds of their own; the best setting by
the mean score over the tasks of tuning is then run on other seeds, for all tasks. An interrupted run resumes.
The report is drawn by ``python -m benchmarks.plasticity.report``.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.paper.sweep import Record, runs_of, seconds_of, sweep
from benchmarks.plasticity.jobs import Job, best_base, final_job, tuning_runs, work
from benchmarks.plasticity.optimizers import OPTIMIZERS
from benchmarks.plasticity.settings import DEPTH, SETTINGS, TUNING_SEEDS, load_problem
from benchmarks.plasticity.techniques import COMBINED, TECHNIQUES, combined
from jumpstart_kernels.cli.errors import CommandError
from jumpstart_kernels.cli.inputs import positive

SEEDS = 5


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plasticity", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="of UCI's optdigits; without it, scikit-learn's digits"
    )
    parser.add_argument(
        "--images", type=Path, metavar="FILE.npz", help="CIFAR-10 as JPEG files; without it, digits"
    )
    parser.add_argument("--seeds", type=positive, default=SEEDS, metavar="N", help=f"default: {SEEDS}")
    parser.add_argument("--jobs", type=positive, default=2, metavar="N", help="processes; default: 2")
    parser.add_argument("--quick", action="store_true", help="small networks and few steps, for tests")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json", help="file of the results")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if words is None else words
    arguments = parse_arguments(words)
    try:
        record = run(arguments, ["python", "-m", "benchmarks.plasticity", *words])
    except (CommandError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(record['tasks'])} jobs, {seconds_of(record):.0f} s of CPU time")
    return 0


def run(arguments: argparse.Namespace, command: list[str]) -> Record:
    quick = arguments.quick
    common: dict[str, Any] = {"data": arguments.data, "images": arguments.images, "quick": quick}
    settings = {
        "problems": {name: asdict(setting) for name, setting in SETTINGS.items()},
        "strengths": {name: [*t.strengths, *t.lams] for name, t in TECHNIQUES.items()},
        "depth": DEPTH,
        "tuning_seeds": TUNING_SEEDS,
        "seeds": arguments.seeds,
        "images": arguments.images is not None,
        "quick": quick,
    }
    pairs = [(problem, optimizer) for problem in SETTINGS for optimizer in OPTIMIZERS]
    for problem in SETTINGS:
        load_problem(problem, **common)  # an error here is one line, not one of a process's
    jobs: dict[str, Job] = {}

    def swept(further: Iterable[Job]) -> Record:
        jobs.update({job.name: job for job in further})
        return sweep(work, jobs, arguments.output, settings, arguments.jobs, command)

    tuning = [
        Job(*pair, name, None, tuning_runs(*pair, technique), True, **common)
        for pair in pairs
        for name, technique in TECHNIQUES.items()
    ]
    runs = runs_of(swept(sorted(tuning, key=lambda job: -len(job.runs))))
    bases = {pair: best_base(runs, *pair) for pair in pairs}
    runs = runs_of(
        swept(
            Job(*pair, COMBINED, base, tuning_runs(*pair, combined(*base)), True, **common)
            for pair, base in bases.items()
        )
    )
    return swept(
        final_job(runs, *pair, name, bases[pair], arguments.seeds, common)
        for pair in pairs
        for name in (*TECHNIQUES, COMBINED)
    )


if __name__ == "__main__":
    sys.exit(main())
