"""Models of which tickets are made, and a training."""

import torch
import torch.nn.functional as F
from torch import nn

import jumpstart_kernels as jk


def mlp(*sizes, seed=0):
    torch.manual_seed(seed)
    layers = []
    for inputs, outputs in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn():
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.ConvTranspose2d(6, 4, 3, groups=2)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(64, 3))


def train(model, steps=5, seed=0, optimizer=None):
    generator = torch.Generator().manual_seed(seed)
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(steps):
        x, y = torch.randn(16, 5, generator=generator), torch.randint(3, (16,), generator=generator)
        loss = F.cross_entropy(model(x), y)
        if any(isinstance(module, jk.JumpstartReLU) for module in model.modules()):
            loss = loss + 0.1 * jk.penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return optimizer
