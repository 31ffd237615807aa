"""The performance goals of the project, and whether the stored results meet them.

python -m benchmarks.goals [FOLDER]
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import nan, prod
from pathlib import Path
from typing import NamedTuple

from benchmarks.result_files import DEVICE_NAMES, FOLDER, Record, Results, is_healthy, load, optimizer_of
from jumpstart_kernels.bench.cases import BOTH

LARGE = 256 * 2**20  # bytes: bandwidth-bound on a GPU
LAUNCH_BOUND = ((256, 4), (256, 1024))

Measure = Callable[[Results, str], float | None]  # of a backend; None: not measured; NaN: a case failed


class Goal(NamedTuple):
    """A bound on a measured figure, for each of ``backends``."""

    device_type: str
    text: str
    measure: Measure
    limit: float
    at_least: bool = False
    backends: tuple[str, ...] = ("native",)
    percent: bool = False


class Verdict(NamedTuple):
    goal: Goal
    backend: str
    measured: float | None

    @property
    def met(self) -> bool | None:
        """None if nothing was measured; a failed case misses the goal."""
        if self.measured is None:
            return None
        return self.measured >= self.goal.limit if self.goal.at_least else self.measured <= self.goal.limit


def worst_ratio(pass_: str, wanted: Callable[[Record], bool], *, bias: bool = False) -> Measure:
    """The largest ratio to ``nn.ReLU`` over the operator's cases that ``wanted`` selects.

    With ``bias`` these are the cases with one, and the ratio is that to bias + ``nn.ReLU``.
    """

    def measure(results: Results, backend: str) -> float | None:
        ratios = [
            None if figures is None else figures["ratio"]
            for _, figures in _figures(results.cases(bias=bias), wanted, backend, pass_)
        ]
        return _worst(max, ratios)

    return measure


def worst_linked_ratio(wanted: Callable[[Record], bool], *, to_compiled: bool = False) -> Measure:
    """The largest ratio of a linked layer, without a penalty, over the cases that ``wanted`` selects.

    It is relative to ``cat(g(x), g(−x))`` in PyTorch, or to its compiled form.
    """

    def measure(results: Results, backend: str) -> float | None:
        ratios: list[float | None] = []
        for case in filter(wanted, [] if results.linked is None else results.linked["cases"]):
            by_name = {peer["name"]: peer["passes"].get(BOTH) for peer in case["peers"]}
            linked = [
                figures
                for name, figures in by_name.items()
                if name.startswith("Linked") and name.endswith(f" {backend}")
            ]
            compiled = [figures for name, figures in by_name.items() if name.endswith(", compiled")]
            if None in linked + compiled:
                ratios.append(None)
            elif linked and to_compiled:
                ratios += [linked[0]["median"] / each["median"] for each in compiled]
            elif linked:
                ratios.append(linked[0]["ratio"])
        return _worst(max, ratios)

    return measure


def least_share_of_copy(wanted: Callable[[Record], bool]) -> Measure:
    """The smallest fraction of a copy's bandwidth, in model bytes, over the cases that ``wanted`` selects."""

    def measure(results: Results, backend: str) -> float | None:
        field = "gigabytes_per_second"
        shares = [
            None if figures is None else figures[field] / case["copy"][field]
            for case, figures in _figures(results.cases(), wanted, backend, BOTH)
        ]
        return _worst(min, shares)

    return measure


def _figures(
    cases: Iterable[Record], wanted: Callable[[Record], bool], backend: str, pass_: str
) -> Iterator[tuple[Record, Record | None]]:
    """Those wanted that have healthy units and the backend, with its figures, or None if it failed."""
    for case in filter(wanted, filter(is_healthy, cases)):
        for peer in case["peers"]:
            if peer["backend"] == backend:
                yield case, peer["passes"].get(pass_)


def _worst(choose: Callable, figures: list[float | None]) -> float | None:
    if None in figures:
        return nan
    return choose(figures) if figures else None


def step_ratio(network: str, samples: int, variant: str, other: str, mode: str = "eager") -> Measure:
    """The median step time of a variant relative to another one, with SGD.

    Args:
        network: its name in the results.
        samples: of a batch.
        variant: its name, and ``other`` likewise.
        mode: of the step.
    """

    def measure(results: Results, backend: str) -> float | None:
        for record in results.networks():
            found = (record["network"], record["input"][0], record["mode"], optimizer_of(record))
            if found == (network, samples, mode, "sgd"):
                steps = {each["name"]: each["step"] for each in record["variants"]}
                if variant not in steps:  # in files from before there was the variant
                    return None
                if any(steps.get(name) is None for name in (variant, other)):
                    return nan
                return steps[variant]["median"] / steps[other]["median"]
        return None

    return measure


def large(case: Record) -> bool:
    return case["bytes"] >= LARGE and case["dtype"] in ("bfloat16", "float32") and not case["graphs"]


def launch_bound(graphs: bool) -> Callable[[Record], bool]:
    least, most = (prod(shape) for shape in LAUNCH_BOUND)
    return lambda case: case["graphs"] == graphs and least <= prod(case["shape"]) <= most


def of_shapes(*shapes: tuple[int, ...]) -> Callable[[Record], bool]:
    return lambda case: (
        tuple(case["shape"]) in shapes and case["dtype"] == "float32" and case["layout"] == "contiguous"
    )


GPU = ("native", "triton")
GOALS = (
    Goal(
        "cuda",
        "256 MiB and more, bf16 and fp32: forward + backward",
        worst_ratio(BOTH, large),
        0.88,
        backends=GPU,
    ),
    Goal("cuda", "256 MiB and more: forward", worst_ratio("forward", large), 1.03, backends=GPU),
    Goal("cuda", "256 MiB and more: backward", worst_ratio("backward", large), 0.72, backends=GPU),
    Goal(
        "cuda",
        "256 MiB and more: bandwidth in model bytes, relative to a copy",
        least_share_of_copy(large),
        0.92,
        True,
        GPU,
        True,
    ),
    Goal("cuda", "256x4 to 256x1024, eager", worst_ratio(BOTH, launch_bound(False)), 2.0, backends=GPU),
    Goal("cuda", "256x4 to 256x1024, CUDA graph", worst_ratio(BOTH, launch_bound(True)), 1.5, backends=GPU),
    Goal(
        "cuda",
        "step of plain ResNet-50, relative to the same without Jumpstart",
        step_ratio("resnet50", 128, "Jumpstart", "plain"),
        0.95,
    ),
    Goal(
        "cuda",
        "step of plain ResNet-50, relative to one with BatchNorm and skips",
        step_ratio("resnet50", 128, "Jumpstart", "BatchNorm + skips"),
        1.0,
    ),
    Goal(
        "cuda",
        "256 MiB and more with a bias, relative to bias + ReLU: forward + backward",
        worst_ratio(BOTH, large, bias=True),
        0.6,
        backends=GPU,
    ),
    Goal(
        "cuda",
        "step of plain ResNet-50 with its biases fused, relative to the same without Jumpstart",
        step_ratio("resnet50", 128, "Jumpstart, fused bias", "plain"),
        0.95,
    ),
    Goal(
        "cuda",
        "compiled step of plain ResNet-50 with its biases fused, relative to the same without Jumpstart",
        step_ratio("resnet50", 128, "Jumpstart, fused bias", "plain", "compiled"),
        1.0,
    ),
    Goal(
        "cuda",
        "linked activations, 256 MiB and more, relative to cat(g(x), g(-x))",
        worst_linked_ratio(large),
        0.6,
        backends=GPU,
    ),
    Goal(
        "cuda",
        "linked activations, 256 MiB and more, relative to the same compiled",
        worst_linked_ratio(large, to_compiled=True),
        1.0,
        backends=GPU,
    ),
    Goal(
        "cpu",
        "fp32 64x64x56x56 and 4096x4096",
        worst_ratio(BOTH, of_shapes((64, 64, 56, 56), (4096, 4096))),
        0.7,
    ),
    Goal(
        "cpu",
        "fp32 64x64x56x56 and 4096x4096 with a bias, relative to bias + ReLU",
        worst_ratio(BOTH, of_shapes((64, 64, 56, 56), (4096, 4096)), bias=True),
        0.6,
    ),
    Goal(
        "cpu",
        "linked activations, fp32 64x64x56x56 and 4096x4096, relative to cat(g(x), g(-x))",
        worst_linked_ratio(of_shapes((64, 64, 56, 56), (4096, 4096))),
        0.6,
    ),
    Goal(
        "cpu",
        "linked activations, fp32 64x64x56x56 and 4096x4096, relative to the same compiled",
        worst_linked_ratio(of_shapes((64, 64, 56, 56), (4096, 4096)), to_compiled=True),
        1.0,
    ),
    Goal("cpu", "fp32 1024x1024", worst_ratio(BOTH, of_shapes((1024, 1024))), 0.85),
    Goal("cpu", "fp32 256x1024", worst_ratio(BOTH, of_shapes((256, 1024))), 1.0),
    Goal("cpu", "fp32 256x4", worst_ratio(BOTH, of_shapes((256, 4))), 2.0),
    Goal(
        "cpu",
        "step of 50 layers of 4 units, relative to the same without Jumpstart",
        step_ratio("50x4", 256, "Jumpstart", "plain"),
        1.15,
    ),
)


def verdicts(folder: Path = FOLDER) -> Iterator[Verdict]:
    """Every goal with the figure measured in the results of ``folder``."""
    results = {device_type: load(device_type, folder) for device_type in DEVICE_NAMES}
    for goal in GOALS:
        for backend in goal.backends:
            yield Verdict(goal, backend, goal.measure(results[goal.device_type], backend))


def rows(folder: Path = FOLDER) -> Iterator[tuple[str, str, str, str, str]]:
    """Device, figure, goal, measured, met, as text; measured is empty if it was not measured."""
    for goal, backend, measured in verdicts(folder):
        met = Verdict(goal, backend, measured).met
        what = f"{goal.text}, {backend}" if len(goal.backends) > 1 else goal.text
        bound = f"{'≥' if goal.at_least else '≤'} {_number(goal.limit, goal.percent)}"
        yield (
            DEVICE_NAMES[goal.device_type],
            what,
            bound,
            "" if measured is None else "failed" if measured != measured else _number(measured, goal.percent),
            {None: "", True: "met", False: "missed"}[met],
        )


def _number(value: float, percent: bool) -> str:
    return f"{value:.0%}" if percent else f"{value:.2f}"


def print_table(folder: Path, device_type: str | None = None) -> None:
    """Print the goals of one device type, or of all."""
    table = [("device", "ratio to nn.ReLU, or as stated", "goal", "measured", "result")]
    table += [row for row in rows(folder) if device_type is None or row[0] == DEVICE_NAMES[device_type]]
    widths = [max(len(row[i]) for row in table) for i in range(5)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main(words: Sequence[str] | None = None) -> int:
    """Print the table. The exit status is 0 even if a goal is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.goals",
        description="Print the goals and whether the stored results meet them.",
    )
    parser.add_argument("results", nargs="?", type=Path, default=FOLDER, help="folder of the results")
    parser.add_argument("--device", choices=tuple(DEVICE_NAMES), help="print only the goals of this device")
    arguments = parser.parse_args(words)
    if not arguments.results.is_dir():
        parser.error(f"argument results: there is no folder {arguments.results}")
    print_table(arguments.results, arguments.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
