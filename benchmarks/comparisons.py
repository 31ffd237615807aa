"""The networks whose training steps are compared, and the check of their losses."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import jumpstart_kernels as jk
from benchmarks.models import build_resnet50, pre_activations
from jumpstart_kernels.bench import definition
from jumpstart_kernels.bench.authors import attach, load_regularization
from jumpstart_kernels.demo.training import build_network
from jumpstart_kernels.nn import records
from jumpstart_kernels.ops.arguments import Record
from jumpstart_kernels.ops.composite import composite_extrema
from jumpstart_kernels.ops.slack import slacks, sum_slacks

PLAIN = "plain"
LAM = 0.1  # penalty weight; its value does not change the time
CHECKED_SAMPLES = 16

Penalty = Callable[[], Tensor]  # of the last forward
criterion = nn.CrossEntropyLoss()


@dataclass
class Variant:
    """A network, and how its penalty is computed, if it has one."""

    name: str
    model: nn.Module
    regularize: Callable[[nn.Module], Penalty] | None = None


@dataclass
class Comparison:
    """Networks of one kind, the first of them plain, and their batch. ``dtype`` is autocast's or float32."""

    network: str
    x: Tensor
    y: Tensor
    dtype: torch.dtype
    variants: list[Variant]


class FusibleReLU(jk.JumpstartReLU):
    """The layer in operations that a compiler can fuse with its neighbours, for ``[N, C]`` in training."""

    def forward(self, x: Tensor) -> Tensor:
        points, units = x.shape
        extrema = composite_extrema(x, 1, False, self.tie_breaking)
        slack_sums = sum_slacks(slacks(extrema, self.margin), units)
        records.add(self, Record(slack_sums, extrema, units, points, self.margin))
        return torch.relu(x)


def make_thin_comparison(
    device: torch.device,
    samples: int | None = None,
    authors: Path | None = None,
    quick: bool = False,
    fusible: bool = False,
) -> Comparison:
    """The demo's 50 layers of 4 units.

    Args:
        device: where networks and batch are.
        samples: of the batch; by default 256.
        authors: a checkout of the authors' code, to compare with it.
        quick: use 6 layers.
        fusible: also compare with :class:`FusibleReLU` in place of the operator.
    """
    features, classes, depth = 30, 2, 6 if quick else 50
    samples = samples or 256
    plain = build_network(features, classes, depth=depth)
    variants = [
        Variant(PLAIN, plain),
        Variant("Jumpstart", jk.replace_relu(copy.deepcopy(plain)), jumpstart_penalty),
        Variant("BatchNorm", build_network(features, classes, depth=depth, batch_norm=True)),
    ]
    if fusible:
        layers = [FusibleReLU() if isinstance(each, nn.ReLU) else each for each in copy.deepcopy(plain)]
        variants.append(Variant("Jumpstart, fusible", nn.Sequential(*layers), jumpstart_penalty))
    if authors is not None:
        regularization = load_regularization(authors)
        variants.append(
            Variant("authors' code", copy.deepcopy(plain), partial(authors_penalty, regularization))
        )
    for variant in variants:
        variant.model.to(device)
    x, y = torch.randn(samples, features, device=device), torch.randint(classes, (samples,), device=device)
    return Comparison(f"{depth}x4", x, y, torch.float32, variants)


def make_resnet_comparison(
    device: torch.device, samples: int | None = None, image_size: int | None = None, quick: bool = False
) -> Comparison:
    """ResNet-50 (``quick``: two narrow blocks). By default images have ImageNet's size only on a GPU."""
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
        module: Any = variant.model  # the signature of to() lacks memory_format
        module.to(device, memory_format=layout)
    x = torch.randn(samples, 3, image_size, image_size, device=device).contiguous(memory_format=layout)
    y = torch.randint(1000, (samples,), device=device)
    return Comparison(
        "two blocks of resnet50" if quick else "resnet50",
        x,
        y,
        torch.bfloat16 if cuda else torch.float32,
        variants,
    )


def jumpstart_penalty(model: nn.Module) -> Penalty:
    return partial(jk.penalty, model)


def authors_penalty(regularization: Any, model: nn.Module) -> Penalty:
    attached = attach(regularization, model)
    return lambda: attached.loss


def find_failure(comparison: Comparison, variant: Variant) -> str | None:
    """How a network's loss or gradients differ from the definition, in float64; None if they do not."""
    if variant.regularize is None:
        return None
    x, y = comparison.x[:CHECKED_SAMPLES].double(), comparison.y[:CHECKED_SAMPLES]
    model, plain = (copy.deepcopy(each.model).double() for each in (variant, comparison.variants[0]))
    plain.load_state_dict(model.state_dict())
    penalty = variant.regularize(model)
    loss = criterion(model(x), y) + LAM * penalty()
    output, layers = pre_activations(plain, x)
    expected = criterion(output, y) + LAM * definition.penalty(layers)
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
