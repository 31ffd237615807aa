"""What the sweep trains at once: networks of one technique on one problem with one optimizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.paper.sweep import Record
from benchmarks.plasticity.selection import KEYS, of, ranked, summary
from benchmarks.plasticity.settings import SETTINGS, TUNING_SEEDS, load_problem, schedule
from benchmarks.plasticity.techniques import COMBINED, TECHNIQUES, Technique, combined
from benchmarks.plasticity.training import Run, train


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
    runs = train(job.runs, problem, technique, job.optimizer, schedule(job.problem, job.tuning, job.quick))
    described: dict[str, Any] = {name: getattr(job, name) for name in KEYS}
    described["base"] = job.base[0] if job.base else None
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
    """The best technique without Jumpstart in tuning, and its strength."""
    regression = is_regression(problem)
    found = []
    for name, technique in TECHNIQUES.items():
        if not technique.penalized:
            (_, strength, _), score = ranked(of(runs, problem, optimizer, name, True), regression)[0]
            found.append((score if regression else -score, name, strength))
    _, name, strength = min(found)
    return name, strength


def final_job(
    runs: Sequence[Record],
    problem: str,
    optimizer: str,
    name: str,
    base: tuple[str, float],
    seeds: int,
    common: dict[str, Any],
) -> Job:
    """The best setting of a technique, on seeds of their own."""
    (rate, strength, lam), _ = ranked(
        of(runs, problem, optimizer, name, tuning=True), is_regression(problem)
    )[0]
    again = tuple(Run(seed, rate, strength, lam) for seed in range(seeds))
    return Job(problem, optimizer, name, base if name == COMBINED else None, again, False, **common)
