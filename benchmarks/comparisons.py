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
from benchmarks.models import build_convnet, build_mlp, build_resnet50, pre_activations
from jumpstart_kernels.bench import definition
from jumpstart_kernels.bench.authors import attach, load_regularization
from jumpstart_kernels.demo.training import build_network
from jumpstart_kernels.nn import records
from jumpstart_kernels.ops.arguments import Record
from jumpstart_kernels.ops.composite import composite_extrema
from jumpstart_kernels.ops.slack import slacks, sum_slacks

PLAIN = "plain"
JUMPSTART = "Jumpstart"
FUSED_BIAS = "Jumpstart, fused bias"
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
        *make_variants(plain),
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
    variants = [
        *make_variants(build_resnet50(batch_norm=False, skips=False, **options)),
        Variant("BatchNorm + skips", build_resnet50(batch_norm=True, skips=True, **options)),
    ]
    network = "two blocks of resnet50" if quick else "resnet50"
    return _compare(network, variants, (samples, 3, image_size, image_size), 1000, device)


def make_convnet_comparison(
    device: torch.device, samples: int | None = None, quick: bool = False
) -> Comparison:
    """A plain convolutional network for 32×32 images (``quick``: a sixteenth of its channels)."""
    variants = make_variants(build_convnet(divisor=16 if quick else 1))
    network = "narrow convnet" if quick else "convnet"
    return _compare(network, variants, (samples or 64, 3, 32, 32), 10, device)


def make_mlp_comparison(device: torch.device, samples: int | None = None, quick: bool = False) -> Comparison:
    """Four hidden layers of 1024 units (``quick``: 32)."""
    variants = make_variants(build_mlp(784, 10, units=32 if quick else 1024))
    return _compare("narrow mlp" if quick else "mlp", variants, (samples or 256, 784), 10, device)


def make_variants(plain: nn.Module) -> list[Variant]:
    """A network, and the same with Jumpstart, whose layers add the biases or leave them to PyTorch."""
    return [
        Variant(PLAIN, plain),
        Variant(JUMPSTART, jk.replace_relu(copy.deepcopy(plain), fuse_bias=False), jumpstart_penalty),
        Variant(FUSED_BIAS, jk.replace_relu(copy.deepcopy(plain), fuse_bias=True), jumpstart_penalty),
    ]


def _compare(
    network: str, variants: list[Variant], shape: tuple[int, ...], classes: int, device: torch.device
) -> Comparison:
    """On a GPU in bfloat16, and images in channels_last."""
    cuda = device.type == "cuda"
    layout = torch.channels_last if cuda and len(shape) == 4 else torch.contiguous_format
    for variant in variants:
        module: Any = variant.model  # the signature of to() lacks memory_format
        module.to(device, memory_format=layout)
    x = torch.randn(shape, device=device).contiguous(memory_format=layout)
    y = torch.randint(classes, shape[:1], device=device)
    return Comparison(network, x, y, torch.bfloat16 if cuda else torch.float32, variants)


def jumpstart_penalty(model: nn.Module) -> Penalty:
    return partial(jk.penalty, model)


def authors_penalty(regularization: Any, model: nn.Module) -> Penalty:
    attached = attach(regularization, model)
    return lambda: attached.loss


def find_failure(comparison: Comparison, variant: Variant) -> str | None:
    """How a network's loss or gradients differ from the definition, in float64; None if they do not.

    With random biases: those that are initialized to zero would hide what is wrong with them.
    """
    if variant.regularize is None:
        return None
    x, y = comparison.x[:CHECKED_SAMPLES].double(), comparison.y[:CHECKED_SAMPLES]
    model, plain = (copy.deepcopy(each.model).double() for each in (variant, comparison.variants[0]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
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
