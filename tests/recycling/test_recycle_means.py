"""What units put out on average, and constants, stay in the biases of the layers that read them."""

import copy

import pytest
import torch
from recycling.recorded import kill, record
from recycling.recycle_models import IMAGES, Cat, X, alive, close, mlp
from torch import nn

import jumpstart_kernels as jk


@pytest.mark.parametrize(
    "activation", [nn.GELU, nn.SiLU, nn.Tanh, nn.ELU, nn.LeakyReLU, jk.JumpstartLeakyReLU]
)
def test_the_mean_is_kept(activation):
    """Of a unit that is constant nothing is lost; of others the mean output of the reader is as before."""
    model = mlp(activation)
    with torch.no_grad():
        model[0].weight[2] = 0
        model[0].bias[2] = 0.01
        model[0].weight[4] *= 1e-3
        model[0].bias[4] = -0.02
    usage = record(model, X)
    before = model[:3](X)
    report = jk.recycle(model, None, usage, tau=0.1)
    assert report.recycled["1"].tolist() == [2, 4]
    assert (report.unchanged, report.on_average, report.changed) == (0, 2, 0)
    close(model[:3](X).mean(0), before.mean(0))
    assert not torch.allclose(model[:3](X), before)


def test_means_of_several_layers():
    """A layer that reads units of two others, those of one twice, gets the sum of all their means."""
    torch.manual_seed(0)
    model = alive(Cat())
    with torch.no_grad():
        for layer, unit, constant in ((model.a, 1, 0.02), (model.b, 0, 0.03), (model.b, 3, 0.05)):
            layer.weight[unit], layer.bias[unit] = 0, constant
    given = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters())
    model(X).square().sum().backward()
    optimizer.step()
    model.load_state_dict(given.state_dict())
    squares = optimizer.state[model.c.weight]["exp_avg_sq"].clone()
    report = jk.recycle(model, optimizer, record(model, X), example_inputs=X)
    assert {name: units.tolist() for name, units in report.by_layer.items()} == {"a": [1], "b": [0, 3]}
    close(model(X), given(X))
    fresh = [1, 3, 6, 9]
    live = [i for i in range(11) if i not in fresh]
    after = optimizer.state[model.c.weight]["exp_avg_sq"]
    assert torch.equal(after[:, live], squares[:, live])
    close(after[:, fresh], squares[:, live].mean(1, keepdim=True).expand(3, 4))


def test_without_keep_mean():
    model = mlp()
    with torch.no_grad():
        model[0].weight[2] = 0
        model[0].bias[2] = 0.01
    bias = model[2].bias.clone()
    report = jk.recycle(model, None, record(model, X), keep_mean=False)
    assert report.changed == 1 and torch.equal(model[2].bias, bias)


@pytest.mark.parametrize("kind", ["reader pads", "no bias", "norm behind", "transposed"])
def test_means_that_a_reader_cannot_take_exactly(kind):
    torch.manual_seed(0)
    reader = {
        "reader pads": [nn.Conv2d(4, 3, 3, padding=1)],
        "no bias": [nn.Conv2d(4, 3, 3, bias=False)],
        "norm behind": [nn.Conv2d(4, 3, 3, bias=False), nn.BatchNorm2d(3)],
        "transposed": [nn.ConvTranspose2d(4, 3, 3)],
    }[kind]
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), *reader).double()
    model(IMAGES)
    with torch.no_grad():
        model[0].weight[1] = 0
        model[0].bias[1] = 0.01
    given = copy.deepcopy(model).eval()
    report = jk.recycle(model, None, record(model, IMAGES))
    exact = kind == "norm behind"
    assert (report.on_average, report.changed) == ((1, 0) if exact else (0, 1))
    y, before = model.eval()(IMAGES), given(IMAGES)
    if kind == "reader pads":
        close(y[..., 1:-1, 1:-1], before[..., 1:-1, 1:-1])
    assert exact == torch.allclose(y, before, rtol=1e-12, atol=1e-12)


def test_a_norm_behind_the_activation():
    """It makes a constant of a dead unit, which is no zero, and goes into the bias."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 3)).double()
    model(X)
    with torch.no_grad():
        model[2].bias.uniform_(1, 2)
    kill(model[0], [3])
    given = copy.deepcopy(model).eval()
    report = jk.recycle(model, None, record(model, X))
    assert report.unchanged == 1
    close(model.eval()(X), given(X))
    assert model[2].bias[3] == 0


class Peeked(nn.Module):
    """A layer without bias, whose output a norm reads, and something else."""

    def __init__(self):
        super().__init__()
        self.a, self.relu, self.b = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3, bias=False)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        y = self.b(self.relu(self.a(x)))
        return self.norm(y) + y


def test_a_norm_takes_no_mean_that_others_see():
    torch.manual_seed(0)
    model = alive(Peeked())
    with torch.no_grad():
        model.a.weight[2], model.a.bias[2] = 0, 0.01
    mean = model.norm.running_mean.clone()
    report = jk.recycle(model, None, record(model, X))
    assert report.changed == report.total == 1
    assert torch.equal(model.norm.running_mean, mean)
