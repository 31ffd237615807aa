"""A soak test: do memory, tensors or graphs leak in 100,000 training steps of a small model?

    python -m benchmarks.soak --output benchmarks/results/soak.json

Every phase trains the same model in another mode, with the events of real training between steps: smaller
last batches, evaluations, forwards that no penalty claims, usage reports, forwards that fail. A phase is flat
if memory grows by less than 1 MiB in its second half, and no graph or tensor is left over.
"""

import argparse
import ctypes
import gc
import itertools
import json
import platform
import re
import statistics
import sys
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import jumpstart_kernels as jk
from jumpstart_kernels.bench import SCHEMA, heading
from jumpstart_kernels.bench.machine import describe
from jumpstart_kernels.cli.inputs import positive

PHASES = {"eager": 0.5, "checkpointed": 0.25, "compiled": 0.25}  # with their shares of the steps
MAX_GROWTH = 2**20  # bytes
SAMPLES = 20  # per phase
WARM_UP = 100  # steps before the first sample
BATCH, LAST_BATCH, CLASSES = 16, 5, 3

# Intervals of the events, in steps.
LAST_BATCH_EVERY, EVALUATE_EVERY, UNCLAIMED_EVERY, FAIL_EVERY, USAGE_EVERY = 13, 50, 41, 97, 500


class Head(nn.Module):
    """Linear layers with a functional ReLU, for ``replace_relu`` to find."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(32, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(F.relu(self.hidden(x)))


class Checkpointed(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.body, x, use_reentrant=False)


class Interrupted(Exception):
    """Raised by a forward that fails."""


def make_model(phase: str) -> nn.Module:
    """Two convolutions and two linear layers with ReLUs of all kinds, for inputs ``[N, 2, 8, 8]``."""
    convolutions = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, stride=2, padding=1)
    )
    parts: list[nn.Module] = [convolutions, nn.Sequential(nn.ReLU(inplace=True), nn.Flatten()), Head()]
    if phase == "checkpointed":
        parts = [Checkpointed(convolutions), parts[1], Checkpointed(parts[2])]
    return jk.replace_relu(nn.Sequential(*parts))


class Trainer:
    """Trains a model, and keeps track of the graphs of its forwards that are alive."""

    def __init__(self, phase: str, compiler: str = "inductor") -> None:
        torch.manual_seed(0)
        self.model = make_model(phase)
        self.fails = self.model.get_submodule("1")
        self.call: Callable[[Tensor], Tensor] = self.model
        self.compiled = phase == "compiled"
        if self.compiled:
            torch._dynamo.reset()
            self.call = torch.compile(self.model, fullgraph=True, dynamic=True, backend=compiler)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.x = torch.randn(BATCH, 2, 8, 8)
        self.y = torch.randint(CLASSES, (BATCH,))
        self.anchor = torch.ones((), requires_grad=True)
        self.graphs: weakref.WeakSet[Any] = weakref.WeakSet()

    def train_step(self, number: int) -> None:
        """Step ``number``, and the events that are due after it."""
        size = LAST_BATCH if number % LAST_BATCH_EVERY == 0 else BATCH
        loss = F.cross_entropy(self.forward(size), self.y[:size]) + 0.1 * jk.penalty(self.model)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if number % EVALUATE_EVERY == 0:
            self.model.eval()
            self.forward(BATCH)
            self.model.train()
            with torch.no_grad():
                self.forward(BATCH)
        if number % UNCLAIMED_EVERY == 0:
            self.forward(BATCH)
            jk.clear_records(self.model)
        if number % FAIL_EVERY == 0:
            self.fail()
        if number % USAGE_EVERY == 0:
            jk.unit_usage(self.model, [self.x])

    def forward(self, size: int) -> Tensor:
        """Logits. An object at the root of their graph lives as long as any part of the graph."""
        x = self.x[:size] * self.anchor
        if x.grad_fn is not None:
            root = _Root()
            x.grad_fn.metadata.update(root=root)  # type: ignore[attr-defined]  # typed as a method
            self.graphs.add(root)
        return self.call(x)

    def fail(self) -> None:
        """A forward that fails after the first layers, or after the last one if it is compiled."""

        def interrupt(*_: Any) -> None:
            raise Interrupted

        handle = None if self.compiled else self.fails.register_forward_hook(interrupt)
        try:
            self.forward(BATCH)
            interrupt()
        except Interrupted:
            jk.clear_records(self.model)
        finally:
            if handle is not None:
                handle.remove()


class _Root:
    """An object to refer to weakly."""


def sample(step: int, trainer: Trainer) -> dict[str, int | None]:
    """What is alive after a step, without garbage."""
    gc.collect()
    return {
        "step": step,
        "resident_bytes": resident_bytes(),
        "tensors": sum(issubclass(kind, Tensor) for kind in map(type, gc.get_objects())),
        "graphs": len(trainer.graphs),
    }


def resident_bytes() -> int | None:
    """Memory of this process after its allocator returned what is free; None if the system does not tell.

    Pages of files are not counted, since the system drops and reloads those of code at any time.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:  # not Linux
        return None
    kibibytes = re.search(r"^RssAnon:\s*(\d+) kB$", status, re.MULTILINE)
    return None if kibibytes is None else int(kibibytes[1]) * 1024


def run_phase(
    phase: str,
    steps: int,
    trainer: Trainer,
    count: int = SAMPLES,
    report: Callable[[int], object] = lambda step: None,
) -> dict[str, Any]:
    """Train for ``steps`` after a warm-up and take ``count`` samples; returns the record of the phase."""
    for number in range(1, WARM_UP + 1):
        trainer.train_step(number)
    samples = [sample(0, trainer)]
    for i in range(count):
        end = steps * (i + 1) // count
        for step in range(steps * i // count + 1, end + 1):
            trainer.train_step(WARM_UP + step)
        samples.append(sample(end, trainer))
        report(end)
    return {"phase": phase, "steps": steps, "samples": samples, **judge(samples)}


def judge(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The growth of memory over the second half, its range, and whether the phase is flat.

    Growth is the median of the slopes between samples (Theil-Sen), so that what grows once, such as a table
    of the interpreter, counts only in the range.
    """
    half = samples[len(samples) // 2 :]
    growth = span = None
    if all(entry["resident_bytes"] is not None for entry in half):
        memory = [(entry["step"], entry["resident_bytes"]) for entry in half]
        growth = round(median_slope(memory) * half[-1]["step"] / 2)
        span = max(value for _, value in memory) - min(value for _, value in memory)
    tensors = {entry["tensors"] for entry in half}
    left = max(entry["graphs"] for entry in samples)
    flat = (growth is None or growth < MAX_GROWTH) and len(tensors) == 1 and left == 0
    return {"second_half_growth_bytes": growth, "second_half_range_bytes": span, "flat": flat}


def median_slope(points: Sequence[tuple[int, int]]) -> float:
    """The median slope over all pairs of points."""
    return statistics.median((d - b) / (c - a) for (a, b), (c, d) in itertools.combinations(points, 2))


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=positive, default=100_000, metavar="N", help="default: 100000")
    parser.add_argument(
        "--only", action="append", choices=list(PHASES), help="a phase to run; may be repeated"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="file for the results")
    arguments = parser.parse_args(words)
    if arguments.steps < 2 * SAMPLES * len(PHASES):
        parser.error(f"argument --steps: must be {2 * SAMPLES * len(PHASES)} or more, got {arguments.steps}")
    return arguments


def main(words: Sequence[str] | None = None) -> int:
    """Run the phases, print and write the results; returns 1 if a phase is not flat."""
    words = sys.argv[1:] if words is None else list(words)
    arguments = parse_arguments(words)
    from rich.console import Console
    from rich.progress import Progress

    console = Console(highlight=False)
    torch.set_num_threads(1)  # a second thread does not help layers this small
    machine = describe(torch.device("cpu"), ["python", "-m", "benchmarks.soak", *words])
    results: dict[str, Any] = {"schema": SCHEMA, "machine": machine, "phases": []}
    console.print(heading(machine), markup=False, soft_wrap=True)
    shares = {phase: share for phase, share in PHASES.items() if phase in (arguments.only or PHASES)}
    total = sum(shares.values())
    with Progress(console=Console(stderr=True)) as progress:
        for phase, share in shares.items():
            steps = round(arguments.steps * share / total)
            bar = progress.add_task(phase, total=steps)
            record = run_phase(phase, steps, Trainer(phase), report=partial(_advance, progress, bar))
            results["phases"].append(record)
            console.print(describe_phase(record), soft_wrap=True)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    return int(not all(record["flat"] for record in results["phases"]))


def _advance(progress: Any, bar: Any, step: int) -> None:
    progress.update(bar, completed=step)


def describe_phase(record: dict[str, Any]) -> str:
    """The result of a phase in one line."""
    growth, last = record["second_half_growth_bytes"], record["samples"][-1]
    memory = "memory unknown" if growth is None else f"memory {growth / 2**10:+.0f} KiB in the second half"
    verdict = "flat" if record["flat"] else "NOT FLAT"
    return (
        f"{record['phase']:14}{record['steps']:8} steps: {memory}, {last['tensors']} tensors and "
        f"{last['graphs']} graphs alive: {verdict}"
    )


if __name__ == "__main__":
    sys.exit(main())
