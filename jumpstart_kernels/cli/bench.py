"""The command ``bench``: its arguments, validated before any work."""

import argparse
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch

from jumpstart_kernels.bench import run
from jumpstart_kernels.bench.authors import REPOSITORY, load_regularization
from jumpstart_kernels.bench.cases import (
    DTYPES,
    HEALTHS,
    LAUNCH_BOUND,
    LAYOUTS,
    PASSES,
    Health,
    has_channels_last,
    select_cases,
    shape_name,
)
from jumpstart_kernels.bench.peers import (
    COMPILED,
    LINKED,
    ONLY_BIAS,
    ONLY_LINKED,
    ONLY_RELU,
    PEERS,
    cannot_compile,
    default_backends,
)
from jumpstart_kernels.cli.errors import CommandError
from jumpstart_kernels.cli.inputs import find_device, positive
from jumpstart_kernels.nn import LAYERS
from jumpstart_kernels.ops import backends

SELECTIONS = {
    "quick": "a few cases, in less than a minute",
    "all": "every dtype, layout and shape",
    "sweep": "sizes from launch- to bandwidth-bound, for the figures",
}
SECONDS = {"default": 4.0, "quick": 2.0, "all": 4.0, "sweep": 3.0}  # per case


def add_bench(commands: argparse._SubParsersAction) -> None:
    text = "time and memory of the layer, compared with nn.ReLU and other peers"
    parser = commands.add_parser("bench", help=text, description=text)
    for name, meaning in SELECTIONS.items():
        parser.add_argument(f"--{name}", action="store_true", help=meaning)
    repeated = {
        "--shape": ("NxC[x...]", parse_shape, None, "of the input"),
        "--dtype": ("", str, tuple(DTYPES), "of the input"),
        "--layout": ("", str, LAYOUTS, "of the input in memory"),
        "--health": ("", str, tuple(HEALTHS), "of the units: see --unhealthy; dead: all of them"),
        "--pass": ("", str, PASSES, "what to time"),
        "--peer": ("", str, PEERS, "what to time besides nn.ReLU and a copy"),
        "--backend": ("", str, tuple(backends.BACKENDS), "of the peer jumpstart"),
    }
    for option, (metavar, kind, choices, meaning) in repeated.items():
        parser.add_argument(
            option,
            action="append",
            default=[],
            type=kind,
            choices=choices,
            metavar=metavar or None,
            help=f"{meaning}; may be repeated",
        )
    parser.add_argument(
        "--authors", type=Path, metavar="PATH", help=f"a checkout of {REPOSITORY}, to time as well"
    )
    parser.add_argument(
        "--graphs",
        action="store_true",
        help=f"also time inputs of up to {LAUNCH_BOUND:,} elements as CUDA graphs",
    )
    parser.add_argument(
        "--unhealthy",
        type=_fraction,
        metavar="F",
        help="a further --health: this fraction of the units dead and as many linear; unhealthy: "
        f"{HEALTHS['unhealthy'].dead:g}",
    )
    text = "default: relu; ratios of a linked one are to cat(g(x), g(-x)) in PyTorch"
    parser.add_argument("--activation", choices=(*LAYERS, *LINKED), default="relu", help=text)
    text = "every linked activation, one after the other"
    parser.add_argument("--linked", action="store_true", help=text)
    text = "add a bias to every input, one value for each unit; ratios are then to bias + nn.ReLU"
    parser.add_argument("--bias", action="store_true", help=text)
    parser.add_argument("--rounds", type=positive, metavar="N", help="default: by --seconds")
    parser.add_argument("--seconds", type=_seconds, metavar="S", help="budget per case; default: 2 to 4")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the inputs; default: 0")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: cuda if available")
    text = "do not change the CPU's memory allocator: timings include page faults"
    parser.add_argument("--system-allocator", action="store_true", help=text)
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the results here")
    parser.set_defaults(run=bench)


def bench(arguments: argparse.Namespace) -> int:
    """Run the benchmark; returns the exit status."""
    selections = [name for name in SELECTIONS if getattr(arguments, name)]
    if len(selections) > 1:
        raise CommandError(f"--{selections[0]} and --{selections[1]} exclude each other")
    selection = selections[0] if selections else "default"
    device = find_device(arguments.device)
    if device.type not in ("cpu", "cuda"):
        raise CommandError(f"--device must be a cpu or cuda device, got {arguments.device!r}")
    if arguments.graphs and device.type != "cuda":
        raise CommandError(f"--graphs needs a CUDA device, got {device}")
    for shape in arguments.shape:
        if not has_channels_last(shape) and arguments.layout == ["channels_last"]:
            raise CommandError(f"--layout channels_last needs a 4-D or 5-D --shape, got {shape_name(shape)}")
    if arguments.output is not None and not arguments.output.absolute().parent.is_dir():
        raise CommandError(f"--output: there is no folder {arguments.output.parent}")
    if arguments.authors is not None:
        try:
            load_regularization(arguments.authors)
        except ValueError as error:
            raise CommandError(f"--authors {error}") from error
    if find_spec("rich") is None:
        raise CommandError("the benchmark needs rich: pip install jumpstart_kernels[bench]")
    if arguments.linked and arguments.activation != "relu":
        raise CommandError("--linked and --activation exclude each other")
    activations = tuple(LINKED) if arguments.linked else (arguments.activation,)
    if arguments.bias and activations[0] in LINKED:
        raise CommandError(f"--bias does not go with --activation {activations[0]}")
    peers = _peers(arguments, activations[0], device, selection)
    names = _backends(arguments, device, selection) if {"jumpstart", "linked"} & {*peers} else []
    cases = [
        case
        for activation in activations
        for case in select_cases(
            device.type,
            selection=selection,
            shapes=arguments.shape,
            dtypes=arguments.dtype,
            layouts=arguments.layout,
            graphs=arguments.graphs,
            healths=_healths(arguments),
            activation=activation,
            bias=arguments.bias,
        )
    ]
    return run(
        cases,
        device=device,
        peers=peers,
        backends=names,
        passes=[name for name in PASSES if name in (getattr(arguments, "pass") or PASSES)],
        rounds=arguments.rounds,
        budget=SECONDS[selection] if arguments.seconds is None else arguments.seconds,
        seed=arguments.seed,
        authors=arguments.authors,
        output=arguments.output,
        command=["python", "-m", "jumpstart_kernels", *arguments.words],
        system_allocator=arguments.system_allocator,
    )


def _healths(arguments: argparse.Namespace) -> list[Health]:
    """Those asked for, each once; none for the default."""
    asked = [HEALTHS[name] for name in arguments.health]
    if arguments.unhealthy is not None:
        asked.append(Health(arguments.unhealthy, arguments.unhealthy))
    return list(dict.fromkeys(asked))


def _peers(arguments: argparse.Namespace, activation: str, device: torch.device, selection: str) -> list[str]:
    asked = list(dict.fromkeys(arguments.peer))
    if "authors" in asked and arguments.authors is None:
        raise CommandError(f"--peer authors needs --authors PATH, a checkout of {REPOSITORY}")
    unfit = _unfit_peers(activation, arguments.bias)
    reason = cannot_compile(device.type)
    for name in asked:
        if name in unfit:
            raise CommandError(f"--peer {name} {unfit[name]}")
        if name in COMPILED and reason is not None:
            raise CommandError(f"--peer {name}: {reason}")
    if asked:
        return asked
    absent = set(unfit)
    if arguments.authors is None:
        absent.add("authors")
    if reason is not None or selection == "quick":  # compiling takes longer than these cases
        absent.update(COMPILED)
    return [name for name in PEERS if name not in absent]


def _unfit_peers(activation: str, bias: bool) -> dict[str, str]:
    """The peers that there are not for an activation, with or without a bias, and why."""
    unfit: dict[str, str] = {}
    if activation != "relu":
        unfit = dict.fromkeys(ONLY_RELU, f"is of relu, and not of --activation {activation}")
    elif bias:
        unfit = dict.fromkeys(ONLY_RELU, "has no --bias")
    if activation in LINKED:
        return unfit
    unfit |= dict.fromkeys(ONLY_LINKED, "needs a linked --activation")
    return unfit if bias else unfit | dict.fromkeys(ONLY_BIAS, "needs --bias")


def _backends(arguments: argparse.Namespace, device: torch.device, selection: str) -> list[str]:
    for name in arguments.backend:
        reason = backends.unavailable(name, device.type)
        if reason is not None:
            raise CommandError(f"--backend {name} cannot run on {device.type}: {reason}")
    if arguments.backend:
        return list(dict.fromkeys(arguments.backend))
    available = default_backends(device.type)
    if selection != "all" and len(available) > 1:
        available.remove("reference")  # slow by design, for tests
    return available


def parse_shape(text: str) -> tuple[int, ...]:
    """``"64x64x56x56"`` as a shape of two to five dimensions."""
    words = text.split("x")
    if not 2 <= len(words) <= 5 or not all(word.isdecimal() and int(word) > 0 for word in words):
        raise argparse.ArgumentTypeError(
            f"must be 2 to 5 positive sizes joined by x, as in 256x1024 or 64x64x56x56, got {text!r}"
        )
    shape = tuple(map(int, words))
    if math.prod(shape) == shape[1]:
        raise argparse.ArgumentTypeError(f"must have more than one value for each unit, got {text!r}")
    return shape


def _seconds(text: str) -> float:
    return _number(text, "a positive number of seconds", lambda value: 0 < value < float("inf"))


def _fraction(text: str) -> float:
    return _number(text, "a fraction from 0 to 0.5", lambda value: 0 <= value <= 0.5)


def _number(text: str, allowed: str, fits: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not fits(value):
        raise argparse.ArgumentTypeError(f"must be {allowed}, got {text!r}")
    return value
