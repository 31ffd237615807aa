"""Models with and without biases in their activations, and what must be the same for both."""

import copy

import torch
from surgery.models import quietly_replace
from torch import nn

import jumpstart_kernels as jk
from jumpstart_kernels.nn.deferred_bias import DeferredBias


def mlp(*options):
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(*options), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))


def cnn():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 3, 1, padding="same"), nn.LeakyReLU()
    )


def with_and_without(model, **options):
    """The model with its biases in the activations, and the same without."""
    model = model.double()
    options = {"activations": ("relu", "leaky_relu"), **options}
    without = quietly_replace(copy.deepcopy(model), fuse_bias=False, **options)
    return quietly_replace(model, fuse_bias=True, **options), without


def fused(model):
    """The names of the layers that leave their bias to an activation."""
    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, DeferredBias) and layer.deferred_bias() is not None
    ]


def results(model, x, run=None, penalty=jk.penalty):
    """Output, penalty and gradients of a step, that of the input first."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    output = (run or model)(x.clone())
    slack = penalty(model)
    (output.square().sum() + 0.5 * slack).backward()
    return [output, torch.as_tensor(slack), x.grad, *(parameter.grad for parameter in model.parameters())]


def draw(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
