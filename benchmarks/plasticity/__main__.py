"""Does Jumpstart keep a network learning, task after task? Ten techniques, three problems, two optimizers.

    python -m benchmarks.plasticity --data UCI_FOLDER --images cifar10_jpeg.npz \\
        --output benchmarks/results/plasticity.json

Every technique is tuned with all its learning rates and strengths on seeds of their own; the best setting by
the mean score over all tasks is then run on other seeds. An interrupted run resumes. The report is drawn by
``python -m benchmarks.plasticity.report``.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.paper.sweep import Record, runs_of, seconds_of, sweep
from benchmarks.plasticity.optimizers import OPTIMIZERS
from benchmarks.plasticity.selection import of, ranked, summary
from benchmarks.plasticity.settings import DEPTH, SETTINGS, TUNING_SEEDS, load_problem, schedule
from benchmarks.plasticity.techniques import COMBINED, TECHNIQUES, Technique, combined
from benchmarks.plasticity.training import Run, train
from jumpstart_kernels.cli.errors import CommandError
from jumpstart_kernels.cli.inputs import positive

SEEDS = 5


@dataclass(frozen=True)
class Job:
    """Networks that train as one."""

    problem: str
    optimizer: str
    technique: str
    """A key of ``TECHNIQUES``, or ``COMBINED``."""
    base: tuple[str, float] | None
    """Of ``COMBINED``: the technique below Jumpstart, and its strength."""
    runs: tuple[Run, ...]
    tuning: bool
    data: Path | None
    images: Path | None
    quick: bool

    @property
    def name(self) -> str:
        """Unique."""
        return f"{'tune' if self.tuning else 'test'} {self.problem} {self.optimizer} {self.technique}"


def technique_of(name: str, base: tuple[str, float] | None) -> Technique:
    return combined(*base) if base else TECHNIQUES[name]


def work(job: Job) -> list[Record]:
    """Train a job's networks. Of a tuning run only summaries are kept."""
    problem = load_problem(job.problem, job.data, job.images, job.quick)
    technique = technique_of(job.technique, job.base)
    runs = train(job.runs, problem, technique, job.optimizer, schedule(job.problem, job.quick))
    described = {"problem": job.problem, "optimizer": job.optimizer, "technique": job.technique}
    described |= {"tuning": job.tuning, "base": job.base[0] if job.base else None}
    records = []
    for run in runs:
        if job.tuning:
            last = {name: values[-1] for name, values in run.items() if isinstance(values, list)}
            kept = {name: value for name, value in (run | last).items() if name not in ("scores", "measured")}
        else:
            kept = run
        records.append(described | kept | summary(run, problem.regression))
    return records


def tuning_runs(problem: str, optimizer: str, technique: Technique) -> tuple[Run, ...]:
    """Every learning rate with every strength and λ, on the seeds for tuning."""
    return tuple(
        Run(seed, rate, strength, lam)
        for seed in TUNING_SEEDS
        for rate in SETTINGS[problem].rates[optimizer]
        for strength in technique.strengths
        for lam in technique.lams
    )


def is_regression(problem: str) -> bool:
    return problem == "slowly_changing_regression"


def best_base(runs: Sequence[Record], problem: str, optimizer: str) -> tuple[str, float]:
    """The best technique but Jumpstart in tuning, and its strength."""
    regression = is_regression(problem)
    found = []
    for name in TECHNIQUES:
        if name != "jumpstart":
            (_, strength, _), score = ranked(of(runs, problem, optimizer, name, True), regression)[0]
            found.append((score if regression else -score, name, strength))
    _, name, strength = min(found)
    return name, strength


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
    common = {"data": arguments.data, "images": arguments.images, "quick": quick}
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


def final_job(
    runs: Sequence[Record],
    problem: str,
    optimizer: str,
    name: str,
    base: tuple[str, float],
    seeds: int,
    common: Record,
) -> Job:
    """The best setting of a technique, on seeds of their own."""
    (rate, strength, lam), _ = ranked(
        of(runs, problem, optimizer, name, tuning=True), is_regression(problem)
    )[0]
    again = tuple(Run(seed, rate, strength, lam) for seed in range(seeds))
    return Job(problem, optimizer, name, base if name == COMBINED else None, again, False, **common)


if __name__ == "__main__":
    sys.exit(main())
