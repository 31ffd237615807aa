"""permutation_prune on networks drawn at random: no flip too many, and a model that works, or a reason."""

import copy
import pickle
import random

import pytest
import torch
from pruning.planted import same, snapshot
from surgery.test_link_relu_random import Drawn
from torch import nn

from jumpstart_kernels import replace_relu
from jumpstart_kernels.pruning import load_pruned, permutation_prune


def make(seed):
    torch.manual_seed(seed)
    model = Drawn(seed).double()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            parameter.data = torch.randn_like(parameter) / 2
            if name == "weight" and parameter.dim() > 1 and len(parameter) > 2:
                parameter.data[1] = parameter.data[0]
        if getattr(module, "bias", None) is not None and len(module.bias) > 2:
            module.bias.data[1] = module.bias.data[0]
    return model


def check(model, result, data, fresh, path):
    """All promises of a result."""
    given, smaller = copy.deepcopy(model).eval(), copy.deepcopy(result.model).eval()
    report = result.report
    with torch.no_grad():
        before, after = (torch.cat([each(x) for x in data]) for each in (given, smaller))
        assert int((before.argmax(1) != after.argmax(1)).sum()) == report.flips <= report.max_flips
        assert smaller(torch.randn(1, 2, 7, 5, dtype=torch.float64)).shape == (1, 3)
        result.save(path)
        assert torch.equal(load_pruned(fresh, path).eval()(data[0]), smaller(data[0]))
        assert torch.equal(pickle.loads(pickle.dumps(smaller))(data[0]), smaller(data[0]))
    smaller.train()
    try:
        copy.deepcopy(model).train()(data[0]).sum().backward()
    except RuntimeError:  # it overwrites what its own backward needs
        smaller(data[0])
    else:
        smaller(data[0]).sum().backward()


@pytest.mark.parametrize("tolerance", [0, 2])
@pytest.mark.parametrize("seed", range(32))
def test_drawn(seed, tolerance, tmp_path):
    generator = torch.Generator().manual_seed(seed)
    data = [torch.randn(size, 2, 4, 4, generator=generator, dtype=torch.float64) for size in (20, 4)]
    model, fresh = make(seed), Drawn(seed).double()
    if seed % 4 == 3:
        model, fresh = replace_relu(model), replace_relu(fresh)
    before = snapshot(model)
    try:
        result = permutation_prune(model, data, tolerance=tolerance, max_flips=2 * tolerance)
    except ValueError as error:
        assert "a layer that can be cut" in str(error) or "finite logits" in str(error)
        result = None
    assert same(snapshot(model), before)
    if result is not None:
        check(model, result, data, fresh, tmp_path / "pruned.pt")


class Trunk(nn.Module):
    """Blocks of linear layers, some of which hand on what they read, joined in all ways."""

    def __init__(self, seed):
        super().__init__()
        draw = random.Random(seed).randrange
        self.first, width = nn.Linear(4, 6), 6
        self.layers, self.joins = nn.ModuleList(), []
        for _ in range(5):
            self.layers.append(nn.Linear(width, 6))
            if draw(3) == 0 and width == 6:
                self.layers[-1].weight.data = torch.eye(6) * 1.5
                self.layers[-1].bias.data.zero_()
            self.joins.append("cat" if width == 6 and draw(3) == 0 else ["none", "add", "none"][draw(3)])
            if self.joins[-1] == "add" and width != 6:
                self.joins[-1] = "none"
            width = 12 if self.joins[-1] == "cat" else 6
        self.last = nn.Linear(width, 3)
        self.relu = nn.ReLU(inplace=bool(draw(2)))

    def forward(self, x):
        x = self.relu(self.first(x))
        for layer, join in zip(self.layers, self.joins, strict=True):
            y = self.relu(layer(x))
            x = torch.cat([x, y], 1) if join == "cat" else x + y if join == "add" else y
        return self.last(x)


@pytest.mark.parametrize("seed", range(16))
def test_trunks(seed, tmp_path):
    torch.manual_seed(seed)
    model, x = Trunk(seed).double(), torch.randn(80, 4, dtype=torch.float64)
    for tolerance in (0, 0.2, 2):
        result = permutation_prune(model, [x], tolerance=tolerance, max_flips=int(10 * tolerance))
        assert result.report.flips == int((result.model(x).argmax(1) != model(x).argmax(1)).sum())
        assert result.report.flips <= result.report.max_flips
        result.save(tmp_path / "pruned.pt")
        assert torch.equal(load_pruned(Trunk(seed).double(), tmp_path / "pruned.pt")(x), result.model(x))
        result.model(x).sum().backward()
