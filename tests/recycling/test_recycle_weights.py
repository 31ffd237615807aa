"""Where fresh weights come from."""

import copy
import math

import pytest
import torch
from recycling.recorded import kill, record
from recycling.recycle_models import X, mlp
from torch import nn

import jumpstart_kernels as jk


def test_weights_are_drawn_as_pytorch_does():
    model = nn.Sequential(nn.Linear(400, 300), nn.ReLU(), nn.Linear(300, 2))
    kill(model[0], slice(None))
    with torch.no_grad():
        model[0].weight.fill_(5)
    jk.recycle(model, None, record(model, torch.randn(3, 400)))
    bound = 1 / math.sqrt(400)
    for drawn in (model[0].weight, model[0].bias):
        assert float(drawn.detach().abs().max()) < bound
        assert float(drawn.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_generators():
    model, others = mlp(), []
    kill(model[0], [1])
    usage = record(model, X)
    for seed in (0, 0, 1):
        other, state = copy.deepcopy(model), torch.get_rng_state()
        jk.recycle(other, None, usage, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(torch.get_rng_state(), state)
        others.append(other[0].weight)
    assert torch.equal(others[0], others[1]) and not torch.equal(others[1], others[2])
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        jk.recycle(other := copy.deepcopy(model), None, usage)
        drawn.append((other[0].weight, torch.rand(1)))
    assert torch.equal(drawn[0][0], drawn[1][0]) and torch.equal(drawn[0][1], drawn[1][1])


def test_initialize():
    def orthogonal(layer):
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)

    model = mlp().bfloat16()
    kill(model[0], slice(None))
    jk.recycle(model, None, record(model, X.bfloat16()), initialize=orthogonal)
    assert model[0].weight.dtype == torch.bfloat16 and not model[0].bias.any()
    close_to = torch.eye(4)
    torch.testing.assert_close(
        model[0].weight.float().T @ model[0].weight.float(), close_to, rtol=0, atol=0.02
    )
