"""What the host takes for eager calls on a GPU, measured without one.

    python -m benchmarks.host_time --output host_time.json
    python -m benchmarks.host_time --run jumpstart_kernels bench --device cuda --graphs

CUDA's runtime is replaced by a stand-in that launches nothing (``cuda_runtime.cpp``), so that time is the
host's alone: Python, PyTorch, the extension, autograd with its thread for the device. Results mean nothing.
``--run`` runs any module so, in which launches and captures of graphs that a GPU would refuse are errors
(``streams.cpp``), with ``--devices 2`` on two of them (``devices.cpp``). Matrix products do nothing,
convolutions run without cuDNN, and Triton does not run. Needs a CUDA build of torch, and the extension built
with it: ``make gpu-package`` leaves both in ``build/matrix/oldest``.
"""

import argparse
import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import jumpstart_kernels as jk
from benchmarks.host_time.runtime import DEVICES, MOST_DEVICES, PRELOAD, Runtime, build, find_runtime
from benchmarks.kernels import check_output_and_gpu
from jumpstart_kernels.bench import SCHEMA, heading
from jumpstart_kernels.bench.cases import PASSES, Case
from jumpstart_kernels.bench.files import write_results
from jumpstart_kernels.bench.machine import describe
from jumpstart_kernels.bench.measure import figures_of
from jumpstart_kernels.bench.peer import Outputs, Peer
from jumpstart_kernels.bench.peers import first_definition, make_peers, plain_definition
from jumpstart_kernels.bench.timing import RUNS, Buffers, interleave, make_samplers
from jumpstart_kernels.building.recipe import find_cuda_home
from jumpstart_kernels.cli.inputs import not_negative, positive
from jumpstart_kernels.ops import backends

LAYERS = 50  # one behind the other, with one penalty
CASES = (  # with one kernel in the forward, and with two
    *((Case((256, 4), bias=bias), 1) for bias in (False, True)),
    *((Case((256, 1024), bias=bias), 1) for bias in (False, True)),
    *((Case((16, 64, 28, 28), "bfloat16", "channels_last", bias=bias), 1) for bias in (False, True)),
    (Case((256, 4)), LAYERS),
)
COUNTED = 20  # iterations whose calls are counted


def run_module(parser: argparse.ArgumentParser, words: list[str]) -> int:
    """Run a module as ``python -m`` does."""
    if not words:
        parser.error("--run takes a module, and what it is to be given")
    torch.backends.cudnn.enabled = False
    sys.argv = list(words)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    return 0


REMEDY = "make gpu-package makes an environment that has one, build/matrix/oldest/venv"


class WithoutPenalty(Peer):
    """The forward alone of a Jumpstart layer, and its backward without a penalty."""

    def active(self) -> AbstractContextManager:
        assert self.model is not None
        blocks = ExitStack()
        blocks.enter_context(super().active())
        blocks.enter_context(jk.no_record(self.model))
        return blocks


def make_stack(layers: int) -> list[Peer]:
    """PyTorch's layers, and Jumpstart's with one penalty for all."""
    plain = nn.Sequential(*(nn.ReLU() for _ in range(layers)))
    model = nn.Sequential(*(jk.JumpstartReLU() for _ in range(layers)))

    def forward(x: Tensor) -> Outputs:
        return model(x), jk.penalty(model)

    return [
        Peer(f"{layers} nn.ReLU", lambda x: (plain(x),), plain_definition("relu")),
        Peer(f"{layers} JumpstartReLU", forward, first_definition("relu"), backend="native", model=model),
    ]


def all_peers(case: Case, layers: int, device: torch.device) -> list[Peer]:
    peers = make_stack(layers) if layers > 1 else make_peers(("jumpstart",), ["native"], case, device)
    *_, jumpstart = peers
    name, model = f"{jumpstart.name} without penalty", jumpstart.model
    assert model is not None
    layer = model if layers > 1 else model[-1]  # type: ignore[index]  # behind the one that has its bias
    definition = plain_definition("relu")
    alone = WithoutPenalty(
        name, lambda x: (layer(x),), definition, backend="native", bias=jumpstart.bias, model=model
    )
    return [*peers, alone]


def count(peer: Peer, name: str, buffers: Buffers, runtime: Runtime) -> dict[str, float]:
    """What one iteration of a pass calls."""

    def calls() -> dict[str, int]:
        allocations = torch.cuda.memory_stats()["allocation.all.allocated"]
        return {"allocations": allocations, **runtime.calls()}

    pairs = buffers.take(COUNTED)
    with peer.active():
        before = calls()
        RUNS[name](peer, pairs)
        after = calls()
    counts = {each: (number - before.get(each, 0)) / COUNTED for each, number in after.items()}
    return {each: number for each, number in counts.items() if number >= 0.5}


def measure(case: Case, layers: int, rounds: int, runtime: Runtime, device: torch.device) -> dict[str, Any]:
    """The record of a case."""
    buffers = Buffers(case, device)
    peers = all_peers(case, layers, device)
    samplers = {
        (peer.name, name): sampler
        for peer in peers
        for name, sampler in make_samplers(peer, PASSES, buffers).items()
    }
    columns = zip(*interleave(list(samplers.values()), rounds, 0), strict=True)
    figures: dict[str, dict[str, Any]] = {peer.name: {} for peer in peers}
    for ((peer, name), sampler), column in zip(samplers.items(), columns, strict=True):
        figures[peer][name] = figures_of(column, sampler.iterations)
    return {
        "shape": list(case.shape),
        "dtype": case.dtype,
        "layout": case.layout,
        "bias": case.bias,
        "layers": layers,
        "rounds": rounds,
        "peers": [
            {
                "name": peer.name,
                "passes": figures[peer.name],
                "calls": {name: count(peer, name, buffers, runtime) for name in RUNS},
            }
            for peer in peers
        ],
    }


def write_table(record: dict[str, Any]) -> Iterator[str]:
    """A record in lines: microseconds, ratios to the first peer, calls; the environment has no ``rich``."""
    yield f"\n{heading_of(record)}"
    plain = record["peers"][0]["passes"]
    yield f"{'':40} {'pass':18} {'µs':>8} {'ratio':>6} {'allocations':>11} {'launches':>8}  other calls"
    for peer in record["peers"]:
        for name, figures in peer["passes"].items():
            calls = dict(peer["calls"].get(name, {}))
            launches = sum(calls.pop(each) for each in list(calls) if "LaunchKernel" in each)
            median, reference = figures["median"], plain[name]["median"]
            line = f"{peer['name']:40} {name:18} {median * 1e6:8.2f} {median / reference:6.2f}"
            if name in peer["calls"]:
                line += f" {calls.pop('allocations', 0):11g} {launches:8g}  "
                line += ", ".join(f"{number:g} {each.removeprefix('cuda')}" for each, number in calls.items())
            yield line


def heading_of(record: dict[str, Any]) -> str:
    case = Case(tuple(record["shape"]), record["dtype"], record["layout"], bias=record["bias"])
    return str(case) if record["layers"] == 1 else f"{case}, {record['layers']} layers"


def start_with_stand_in(parser: argparse.ArgumentParser, words: Sequence[str], devices: str) -> None:
    """Build the stand-in and begin again with it, unless that has been done."""
    if torch.version.cuda is None:
        parser.error(f"needs a CUDA build of torch, which {torch.__version__} is not: {REMEDY}")
    torch_folder = Path(torch.__file__).parent
    runtime, toolkit = find_runtime(torch_folder.parent), find_cuda_home()
    if runtime is None:
        parser.error(
            "needs CUDA's runtime as pip installs it with torch: there is no nvidia/*/lib/libcudart.so"
        )
    if toolkit is None:
        parser.error("needs the CUDA toolkit, for its headers: set CUDA_HOME")
    library = build(runtime, torch_folder / "lib", toolkit)
    command = [sys.executable, "-m", "benchmarks.host_time", *words]
    os.execve(sys.executable, command, {**os.environ, PRELOAD: str(library), DEVICES: devices})


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print a table for each case, write the results as they come."""
    words = sys.argv[1:] if words is None else list(words)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.host_time", description=__doc__.partition("\n")[0] if __doc__ else None
    )
    parser.add_argument("--rounds", type=positive, default=31, help="samples of each pass; default: 31")
    parser.add_argument(
        "--launch",
        type=not_negative,
        default=0,
        metavar="NS",
        help="nanoseconds that a launch takes; default: 0",
    )
    parser.add_argument("--case", type=int, action="append", choices=range(len(CASES)), help="only this case")
    parser.add_argument(
        "--devices",
        type=int,
        choices=range(1, MOST_DEVICES + 1),
        default=1,
        metavar="N",
        help=f"GPUs that there are, up to {MOST_DEVICES}; default: 1",
    )
    parser.add_argument(
        "--run", nargs=argparse.REMAINDER, metavar="MODULE", help="run this module with the words behind it"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="file for the results")
    arguments = parser.parse_args(words)
    devices = str(arguments.devices)
    if not Runtime.is_loaded() or os.environ.get(DEVICES, "1") != devices:
        start_with_stand_in(parser, words, devices)
    if arguments.run is not None:
        return run_module(parser, arguments.run)
    check_output_and_gpu(parser, arguments.output)
    reason = backends.unavailable("native", "cuda")
    if reason is not None:
        parser.error(f"needs the native CUDA kernels: {reason}")
    runtime = Runtime()
    runtime.set_launch_time(arguments.launch)
    device = torch.device("cuda", 0)
    command = ["python", "-m", "benchmarks.host_time", *words]
    results: dict[str, Any] = {"schema": SCHEMA, "machine": describe(device, command), "cases": []}
    print(heading(results["machine"]))
    for index in arguments.case or range(len(CASES)):
        torch.manual_seed(0)
        results["cases"].append(measure(*CASES[index], arguments.rounds, runtime, device))
        print(*write_table(results["cases"][-1]), sep="\n", flush=True)
        if arguments.output is not None:
            write_results(arguments.output, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
