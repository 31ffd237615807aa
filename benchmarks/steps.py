"""What Jumpstart costs in a whole training step: zero_grad, forward, loss, backward, optimizer.

    python -m benchmarks.steps --output benchmarks/results/cpu_steps.json

Networks of one kind take their steps in turn, and the table shows medians and their ratio to the plain one.
Before that, loss and gradients with each penalty are compared with the definition, in float64.
"""

import argparse
import copy
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import jumpstart_kernels as jk
from benchmarks.models import build_resnet50, definition_penalty, pre_activations
from jumpstart_kernels.bench import SCHEMA, heading
from jumpstart_kernels.bench.authors import REPOSITORY, attach, load_regularization
from jumpstart_kernels.bench.machine import describe
from jumpstart_kernels.bench.measure import figures_of
from jumpstart_kernels.bench.memory import peak_bytes
from jumpstart_kernels.bench.report import bytes_text, does_not_run, seconds_text
from jumpstart_kernels.bench.timing import Sampler, calibrate, interleave, seconds
from jumpstart_kernels.cli_inputs import CommandError, find_device, positive
from jumpstart_kernels.demo.training import build_network

NETWORKS = ("50x4", "resnet50")
MODES = ("eager", "compiled")
PLAIN = "plain"
LAM = 0.1  # weight of the penalty: its size changes no time
CHECKED_SAMPLES = 16

Penalty = Callable[[], Tensor]  # of the model's last forward
criterion = nn.CrossEntropyLoss()


@dataclass
class Variant:
    """A network, and how its penalty comes about, where its loss has one."""

    name: str
    model: nn.Module
    regularize: Callable[[nn.Module], Penalty] | None = None


@dataclass
class Setting:
    """Networks of one kind, the first of them plain, and their input; ``dtype`` is autocast's, or float32."""

    network: str
    x: Tensor
    y: Tensor
    dtype: torch.dtype
    variants: list[Variant]


def make_thin_setting(device: torch.device, authors: Path | None = None, quick: bool = False) -> Setting:
    """The demo's 50 layers of 4 units (``quick``: 6 layers), a batch of 256."""
    features, classes, samples, depth = 30, 2, 256, 6 if quick else 50
    plain = build_network(features, classes, depth=depth)
    variants = [
        Variant(PLAIN, plain),
        Variant("Jumpstart", jk.replace_relu(copy.deepcopy(plain)), jumpstart_penalty),
        Variant("BatchNorm", build_network(features, classes, depth=depth, batch_norm=True)),
    ]
    if authors is not None:
        regularization = load_regularization(authors)
        variants.append(
            Variant("authors' code", copy.deepcopy(plain), partial(authors_penalty, regularization))
        )
    for variant in variants:
        variant.model.to(device)
    x, y = torch.randn(samples, features, device=device), torch.randint(classes, (samples,), device=device)
    return Setting("50x4", x, y, torch.float32, variants)


def make_resnet_setting(
    device: torch.device, samples: int | None = None, image_size: int | None = None, quick: bool = False
) -> Setting:
    """ResNet-50 (``quick``: two narrow blocks); by default a batch of ImageNet's size on a GPU alone."""
    cuda = device.type == "cuda"
    samples, image_size = samples or (128 if cuda else 8), image_size or (224 if cuda else 64)
    options: dict[str, Any] = {"width": 8, "blocks": (1, 1)} if quick else {}
    plain = build_resnet50(batch_norm=False, skips=False, **options)
    variants = [
        Variant(PLAIN, plain),
        Variant("Jumpstart", jk.replace_relu(copy.deepcopy(plain)), jumpstart_penalty),
        Variant("BatchNorm + skips", build_resnet50(batch_norm=True, skips=True, **options)),
    ]
    layout = torch.channels_last if cuda else torch.contiguous_format
    for variant in variants:
        variant.model.to(device, memory_format=layout)
    x = torch.randn(samples, 3, image_size, image_size, device=device).contiguous(memory_format=layout)
    y = torch.randint(1000, (samples,), device=device)
    return Setting("resnet50", x, y, torch.bfloat16 if cuda else torch.float32, variants)


def jumpstart_penalty(model: nn.Module) -> Penalty:
    return partial(jk.penalty, model)


def authors_penalty(regularization: Any, model: nn.Module) -> Penalty:
    attached = attach(regularization, model)
    return lambda: attached.loss


def find_failure(setting: Setting, variant: Variant) -> str | None:
    """How a network's loss or gradients differ from the definition's, in float64; None where they do not."""
    if variant.regularize is None:
        return None
    x, y = setting.x[:CHECKED_SAMPLES].double(), setting.y[:CHECKED_SAMPLES]
    model, plain = (copy.deepcopy(each.model).double() for each in (variant, setting.variants[0]))
    plain.load_state_dict(model.state_dict())
    penalty = variant.regularize(model)
    loss = criterion(model(x), y) + LAM * penalty()
    output, layers = pre_activations(plain, x)
    expected = criterion(output, y) + LAM * definition_penalty(layers)
    message = _difference("loss", loss, expected)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    expected_gradients = torch.autograd.grad(expected, list(plain.parameters()))
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        message = message or _difference("gradient", gradient, expected_gradient)
    return message


def _difference(name: str, actual: Tensor, expected: Tensor) -> str | None:
    error = (actual - expected).abs().max().item()
    right = error <= 1e-8 * (1 + expected.abs().max().item())  # false for NaN
    return None if right else f"wrong {name}: differs from the definition by {error:.3g}"


def make_step(setting: Setting, variant: Variant, mode: str) -> Callable[[], None]:
    """A training step of a variant on the setting's batch."""
    x, y, model = setting.x, setting.y, variant.model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    penalty = None if variant.regularize is None else variant.regularize(model)
    autocast = partial(torch.autocast, x.device.type, setting.dtype, enabled=setting.dtype != torch.float32)

    def compute_loss() -> Tensor:
        with autocast():
            loss = criterion(model(x), y)
        return loss if penalty is None else loss + LAM * penalty()

    compiled = torch.compile(compute_loss, dynamic=False) if mode == "compiled" else compute_loss

    def step() -> None:
        optimizer.zero_grad()
        compiled().backward()
        optimizer.step()

    return step


def measure(setting: Setting, mode: str, rounds: int | None, budget: float) -> dict[str, Any]:
    """The record of one kind of network in one mode."""
    torch._dynamo.reset()
    device = setting.x.device
    failures: dict[str, str | None] = {}
    samplers: dict[str, Sampler] = {}
    peaks: dict[str, int | None] = {}
    for variant in setting.variants:
        try:
            failures[variant.name] = find_failure(setting, variant)
            if failures[variant.name] is None:
                step = make_step(setting, variant, mode)
                for _ in range(3):  # compiles, and finds its memory
                    step()
                samplers[variant.name] = calibrate(partial(_sample, step, device))
                peaks[variant.name] = peak_bytes(step, device)
        except Exception as error:
            failures[variant.name] = does_not_run(error)
    samplers = {name: sampler for name, sampler in samplers.items() if failures[name] is None}
    taken = list(interleave(list(samplers.values()), rounds, budget)) if samplers else []
    figures = {
        name: figures_of([samples[i] for samples in taken], sampler.iterations)
        for i, (name, sampler) in enumerate(samplers.items())
    }
    plain = figures.get(PLAIN)
    for record in figures.values():
        record["ratio"] = record["median"] / plain["median"] if plain else None
    return {
        "network": setting.network,
        "mode": mode,
        "input": list(setting.x.shape),
        "dtype": str(setting.dtype).removeprefix("torch."),
        "rounds": len(taken),
        "variants": [
            {
                "name": name,
                "failure": failures[name],
                "peak_bytes": peaks.get(name),
                "step": figures.get(name),
            }
            for name in failures
        ],
    }


def _sample(step: Callable[[], None], device: torch.device, count: int) -> float:
    def run() -> None:
        for _ in range(count):
            step()

    return seconds(run, device) / count


def make_table(record: dict[str, Any]) -> Any:
    """A record as a table of ``rich``."""
    from rich.table import Table

    size = "x".join(map(str, record["input"]))
    table = Table(
        title=f"{record['network']}, {record['mode']}, {size}, {record['dtype']}",
        caption=f"{record['rounds']} rounds; ratio to {PLAIN}",
        title_justify="left",
        caption_justify="left",
    )
    for header in ("network", "step", "ratio", "peak"):
        table.add_column(header, justify="left" if header == "network" else "right", no_wrap=True)
    for variant in record["variants"]:
        step = variant["step"]
        if step is None:
            table.add_row(variant["name"], "no figure")
            continue
        lower, upper = step["quartiles"]
        table.add_row(
            variant["name"],
            f"{seconds_text(step['median'])} ±{(upper - lower) / 2 / step['median']:3.0%}",
            "" if step["ratio"] is None else f"{step['ratio']:.2f}",
            bytes_text(variant["peak_bytes"]),
        )
    return table


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.steps", description=__doc__.partition("\n")[0]
    )
    choices = {"--network": (NETWORKS, NETWORKS), "--mode": (MODES, MODES[:1])}
    for option, (allowed, default) in choices.items():
        text = f"may be repeated; default: {' and '.join(default)}"
        parser.add_argument(option, action="append", choices=allowed, help=text)
    parser.add_argument("--authors", type=Path, metavar="PATH", help=f"a checkout of {REPOSITORY}")
    parser.add_argument(
        "--batch-size", type=positive, metavar="N", help="of resnet50; default: 128, on the CPU 8"
    )
    parser.add_argument(
        "--image-size", type=positive, metavar="N", help="of resnet50; default: 224, on the CPU 64"
    )
    parser.add_argument("--quick", action="store_true", help="a few layers, to see that it runs")
    parser.add_argument("--rounds", type=positive, metavar="N", help="default: by --seconds")
    parser.add_argument(
        "--seconds", type=positive, default=15, metavar="S", help="for each network; default: 15"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: cuda where there is one")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the results here")
    arguments = parser.parse_args(words)
    arguments.network = arguments.network or list(NETWORKS)
    arguments.mode = arguments.mode or list(MODES[:1])
    if arguments.output is not None and not arguments.output.absolute().parent.is_dir():
        parser.error(f"argument --output: there is no folder {arguments.output.parent}")
    try:
        arguments.device = find_device(arguments.device)
        if arguments.authors is not None:
            load_regularization(arguments.authors)
    except CommandError as error:
        parser.error(str(error))
    except ValueError as error:
        parser.error(f"argument --authors: {error}")
    return arguments


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print a table of each network and mode, write the results; 1 where one is wrong."""
    words = sys.argv[1:] if words is None else list(words)
    arguments = parse_arguments(words)
    from rich.console import Console

    console = Console(highlight=False)
    command = ["python", "-m", "benchmarks.steps", *words]
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "machine": describe(arguments.device, command),
        "networks": [],
    }
    console.print(heading(results["machine"]), markup=False, soft_wrap=True)
    wrong = False
    for network in arguments.network:
        for mode in arguments.mode:
            torch.manual_seed(0)
            setting = (
                make_thin_setting(arguments.device, arguments.authors, arguments.quick)
                if network == "50x4"
                else make_resnet_setting(
                    arguments.device, arguments.batch_size, arguments.image_size, arguments.quick
                )
            )
            record = measure(setting, mode, arguments.rounds, arguments.seconds)
            results["networks"].append(record)
            console.print(make_table(record))
            for variant in record["variants"]:
                if variant["failure"] is not None:
                    wrong = True
                    console.print(f"  {variant['name']}: {variant['failure']}", markup=False, soft_wrap=True)
            if arguments.output is not None:
                arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
