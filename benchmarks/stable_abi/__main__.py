"""The CPU kernels on the stable ABI of libtorch: one binary for all versions, and what it costs.

    python -m benchmarks.stable_abi --output benchmarks/results/stable_abi.json

Builds, compares the results with today's extension to the bit, here and in other Pythons, and measures layers
without a penalty and a training step of the 50-layer network with it. The layers differ only in how they call
the operator. See docs/stable_abi.md.
"""

import argparse
import copy
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import jumpstart_kernels as jk
from benchmarks import steps
from benchmarks.comparisons import PLAIN, Comparison, Variant, jumpstart_penalty
from benchmarks.stable_abi import check
from benchmarks.stable_abi.build import ROOT, TARGET, Built, build_kernels, build_native, build_stable
from benchmarks.stable_abi.operators import Operator, load
from jumpstart_kernels.bench import SCHEMA, heading
from jumpstart_kernels.bench.cases import BOTH, Case
from jumpstart_kernels.bench.machine import describe, keep_memory
from jumpstart_kernels.bench.measure import measure
from jumpstart_kernels.bench.peer import Outputs, Peer
from jumpstart_kernels.bench.peers import plain_definition, plain_peer
from jumpstart_kernels.cli.inputs import positive
from jumpstart_kernels.demo.training import build_network
from jumpstart_kernels.ops import OVERLOADS
from jumpstart_kernels.ops.arguments import ForwardResult, Record

SHAPES = ((256, 4), (256, 1024), (1024, 1024), (4096, 4096))
TODAY, DISPATCHER = "native, shortcut (today)", "native, dispatcher"
DEVICE = torch.device("cpu")


class RoutedReLU(jk.JumpstartReLU):
    """The layer with an operator of one's choice where it has its shortcut."""

    def __init__(self, operator: Operator) -> None:
        super().__init__()
        self.operator = operator

    def _run_eagerly(self, x: Tensor, bias: Tensor | None, unit_dim: int, options: Any) -> Any:
        points, margin, _, _, kind = options
        arguments = ("relu", 0.0, unit_dim, points == "position", margin, kind)
        result = ForwardResult(*self.operator(x, bias, *arguments))
        units = x.shape[unit_dim]
        count = result.extrema.shape[1] - units
        return result.output, Record(result.slack_sums, result.extrema, units, count, margin)


def make_layers(library: Path) -> dict[str, jk.JumpstartReLU]:
    """The layer by every route, by name."""
    operators: dict[str, Operator] = {DISPATCHER: OVERLOADS["native"]}
    operators |= {f"stable ABI, {name}": operator for name, operator in load(library).items()}
    return {TODAY: jk.JumpstartReLU(), **{name: RoutedReLU(each) for name, each in operators.items()}}


def measure_layers(
    layers: dict[str, jk.JumpstartReLU], shape: tuple[int, ...], rounds: int | None, budget: float
) -> dict[str, Any]:
    """The record of one shape, without a penalty: records would pile up."""
    case = Case(shape)

    def make_peer(name: str, layer: nn.Module) -> Peer:
        def forward(x: Tensor) -> Outputs:
            return (layer(x),)

        return Peer(name, forward, plain_definition("relu"))

    peers = [plain_peer(case, DEVICE), *(make_peer(name, layer) for name, layer in layers.items())]
    with ExitStack() as stack:
        for layer in layers.values():
            stack.enter_context(jk.no_record(layer))
        return measure(case, peers, ("forward", BOTH), DEVICE, rounds=rounds, budget=budget)


def measure_steps(layers: dict[str, jk.JumpstartReLU], rounds: int | None, budget: float) -> dict[str, Any]:
    """The record of a training step of 50 layers of 4 units, with the penalty."""
    plain = build_network(30, 2)
    variants = [Variant(PLAIN, plain)]
    for name, layer in layers.items():
        model = [copy.deepcopy(layer if isinstance(each, nn.ReLU) else each) for each in plain]
        variants.append(Variant(name, nn.Sequential(*model), jumpstart_penalty))
    x, y = torch.randn(256, 30), torch.randint(2, (256,))
    comparison = Comparison("50x4", x, y, torch.float32, variants)
    return steps.measure(comparison, "eager", "sgd", rounds, budget)


def check_everywhere(library: Path, folder: Path, pythons: Sequence[str]) -> list[dict[str, Any]]:
    """:mod:`benchmarks.stable_abi.check` here and in other Pythons, against the extension here."""
    expected = folder / "expected.pt"
    torch.save(check.run_all(OVERLOADS["native"]), expected)
    found = []
    for python in [sys.executable, *pythons]:
        command = [python, "-m", "benchmarks.stable_abi.check", str(library), str(expected)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def build(folder: Path) -> dict[str, Any]:
    """Build both libraries, unless an earlier run has; return what is stored of them."""
    record = folder / "built.json"
    if not record.exists():
        kernels = folder / "kernels"
        seconds = build_kernels(kernels)
        libraries = {"stable": build_stable(folder, kernels), "native": build_native(folder, kernels)}
        built = {name: describe_build(library) for name, library in libraries.items()}
        record.write_text(json.dumps({"kernel_seconds": seconds, **built}))
    return json.loads(record.read_text())


def describe_build(built: Built) -> dict[str, Any]:
    kinds = {"stable ABI": r"(aoti_)?torch_", "Python": "_?Py", "other libtorch": ""}
    names: dict[str, list[str]] = {kind: [] for kind in kinds}
    for name in built.torch_symbols:
        names[next(kind for kind, start in kinds.items() if re.match(start, name))].append(name)
    return {
        "file": built.path.name,
        "bytes": built.bytes,
        "host_seconds": built.seconds,
        "symbols": {kind: len(of_kind) for kind, of_kind in names.items()},
        "stable_abi_symbols": names["stable ABI"],
    }


def make_table(results: dict[str, Any]) -> str:
    """Ratios to plain ReLU, as in docs/stable_abi.md.

    On a machine that others use, too: of the layers those of lower quartiles, whose samples were not
    interrupted; of the step, which nearly always is, those of medians.
    """

    def ratios(figures: dict[str, Any]) -> dict[str, float]:
        plain, *others = figures.items()
        return {name: each["quartiles"][0] / plain[1]["quartiles"][0] for name, each in others}

    columns = {
        f"{'×'.join(map(str, case['shape']))}{'' if name == BOTH else ' forward'}": ratios(
            {peer["name"]: peer["passes"][name] for peer in case["peers"]}
        )
        for case in results["cases"]
        for name in ("forward", BOTH)
    }
    variants = results["network"]["variants"][1:]
    columns["step of 50 × 4"] = {each["name"]: each["step"]["ratio"] for each in variants}
    rows = [["", *columns], ["---"] * (len(columns) + 1)]
    for name in columns["step of 50 × 4"]:
        rows.append([name, *(f"{of[name]:.2f}" for of in columns.values())])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stable_abi", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="PATH",
        help="another Python, with another torch, to load the library in; may be repeated",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="FOLDER",
        help="where to build; what an earlier run built there is used again",
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="default: PyTorch's own choice")
    parser.add_argument("--rounds", type=positive, metavar="N", help="default: as many as fit in --seconds")
    parser.add_argument("--seconds", type=positive, default=40, metavar="S", help="per case; default: 40")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="file for the results")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Build, compare, measure, print and write; returns 1 if results differ."""
    words = sys.argv[1:] if words is None else list(words)
    arguments = parse_arguments(words)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    machine = describe(DEVICE, ["python", "-m", "benchmarks.stable_abi", *words], keep_memory(DEVICE))
    print(heading(machine))
    results: dict[str, Any] = {"schema": SCHEMA, "machine": machine, "target": list(TARGET)}
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        results |= build(folder)
        library = folder / results["stable"]["file"]
        results["checks"] = check_everywhere(library, folder, arguments.python)
        print(json.dumps({name: results[name] for name in ("kernel_seconds", "stable", "native", "checks")}))
        torch.manual_seed(0)
        layers = make_layers(library)
    results["cases"] = [
        measure_layers(layers, shape, arguments.rounds, arguments.seconds) for shape in SHAPES
    ]
    # Longer: a sample is a whole step, which is interrupted more often.
    results["network"] = measure_steps(layers, arguments.rounds, 3 * arguments.seconds)
    print(make_table(results), end="")
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    return int(any(each["differences"] for each in results["checks"]))


if __name__ == "__main__":
    sys.exit(main())
