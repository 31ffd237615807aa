"""What becomes of images and gradients on their way through a network."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jumpstart_kernels as jk
from benchmarks.paper.cifar_networks import convolutions
from benchmarks.paper.sweep import Record


def diagnose(model: nn.Sequential, x: Tensor, y: Tensor) -> Record:
    """Of a network in training mode; the network stays as it is.

    Args:
        model: of :func:`~benchmarks.paper.cifar_networks.build_network`.
        x: images ``[N, 3, H, W]``, standardized.
        y: their labels, ``[N]``.

    Returns:
        ``cosines``: mean cosine between two images by activation, of its input;
        ``gradients``: norm of the loss's gradient over that of the weights, by convolution, None for weights
        that are all 0;
        ``rank``: effective rank of the inputs of the classifier.
    """
    names = [name for name, module in model.named_modules() if is_activation(module)]
    twin = copy.deepcopy(model).train()  # BatchNorm does nothing in eval() before the first step
    body, usage = twin[:-1], jk.UnitUsage(cosines=True)
    with jk.no_record(twin), usage.watch(body, layers=names):
        features = body(x)
        F.cross_entropy(twin[-1](features), y).backward()
    cosines = usage.report().cosines
    gradients = []
    for layer in convolutions(twin):
        assert layer.weight.grad is not None
        weight = layer.weight.norm().item()
        gradients.append(float(f"{layer.weight.grad.norm().item() / weight:.4g}") if weight else None)
    return {
        "cosines": [round(cosines[name], 4) for name in names],
        "gradients": gradients,
        "rank": round(effective_rank(features.detach()), 3),
    }


def is_activation(module: nn.Module) -> bool:
    """Whether it is one of a ResNet's activations."""
    known = (nn.ReLU, nn.LeakyReLU, nn.SELU, jk.LinkedReLU, jk.JumpstartReLU, jk.JumpstartLeakyReLU)
    return isinstance(module, (*known, jk.JumpstartLinkedReLU))


def effective_rank(features: Tensor) -> float:
    """Exponential of the entropy of the singular values of ``[N, features]``.

    Roy, Vetterli, *The effective rank*, EUSIPCO 2007.
    """
    values = torch.linalg.svdvals(features.double())
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())
