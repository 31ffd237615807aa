"""Which layers make units together and which read them, and what keeps units as they are."""

import pytest
import torch
import torch.nn.functional as F
from pruning.planted import batches, build
from pruning.prune_models import CASES, PLAIN, mlp
from torch import nn

from jumpstart_kernels.pruning import permutation_prune
from jumpstart_kernels.pruning.unit_sets import Structure
from jumpstart_kernels.surgery.flow.inputs import trace_calls


def structure(model, x):
    graphs = trace_calls(model.eval(), x)
    return Structure(model, [graphs[0], *graphs[2:], graphs[1]])


@pytest.mark.parametrize("name", PLAIN)
def test_sets_that_can_be_cut(name):
    case = CASES[name]
    found = structure(build(case), batches(case)[0]).sets
    cut = [set(units.producers) for units in found if not units.obstacle]
    assert cut == [set(units.layers + units.inner) for units in case.sets]


def test_residual():
    case = PLAIN["residual"]
    stem, _, _, trunk, *_ = structure(build(case), batches(case)[0]).sets
    assert stem.producers == ["stem.0", "blocks.0.conv2"]
    assert set(stem.norms) == {"stem.1", "blocks.0.bn2"}
    assert {reader.layer for reader in stem.readers} == {
        "blocks.0.conv1",
        "blocks.1.conv1",
        "blocks.1.shortcut",
    }
    assert len(stem.sites) == 2
    assert [reader.layer for reader in trunk.readers] == ["blocks.2.conv1", "fc"]


def test_columns_of_flattened_units():
    case = PLAIN["conv_net"]
    found = structure(build(case), batches(case)[0])
    assert [found.readers[name].factor for name in ("4", "8", "10")] == [1, 4, 1]


def test_linked_units_are_read_twice():
    case = CASES["linked_mlp"]
    found = structure(build(case), batches(case)[0])
    assert [run.size for run in found.readers["2"].value.runs] == [8, 8]
    assert all(site.linked for site in found.sets[0].sites)


class Two(nn.Module):
    """Two layers, and something between them."""

    def __init__(self, change, units=8, inputs=8, parameter=None):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, units), nn.Linear(inputs, 6), nn.Linear(6, 3)
        self.change, self.parameter = change, parameter
        self.register_buffer("places", torch.arange(units))

    def forward(self, x):
        return self.c(F.relu(self.b(self.change(self, F.relu(self.a(x))))))


BETWEEN = {
    "a parameter": (lambda m, x: x * m.parameter, {"parameter": nn.Parameter(torch.ones(8))}),
    "a slice": (lambda m, x: x[:, 2:6], {"inputs": 4}),
    "chunks": (lambda m, x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1], {"inputs": 4}),
    "split": (lambda m, x: x.split(4, 1)[1], {"inputs": 4}),
    "an index": (lambda m, x: x[:, m.places], {}),
    "index_select": (lambda m, x: x.index_select(1, m.places), {}),
    "softmax": (lambda m, x: x.softmax(1), {}),
    "normalize": (lambda m, x: F.normalize(x), {}),
    "a mean": (lambda m, x: x - x.mean(1, keepdim=True), {}),
    "flip": (lambda m, x: x.flip(1), {}),
    "a product": (lambda m, x: x @ m.a.weight, {"inputs": 4}),
    "einsum": (lambda m, x: torch.einsum("nc,cd->nd", x, m.a.weight), {"inputs": 4}),
    "linear": (lambda m, x: F.linear(x, m.parameter), {"parameter": nn.Parameter(torch.randn(8, 8))}),
    "its size": (lambda m, x: x / x.shape[1], {}),
    "zeros": (lambda m, x: x + torch.zeros_like(x)[:, :1], {}),
    "a stack": (lambda m, x: torch.stack([x, x]).sum(0), {}),
    "a view": (lambda m, x: x.view(-1, 2, 4).transpose(1, 2).reshape(-1, 8), {}),
    "what it does not know": (lambda m, x: x + m.places.to(x.dtype), {}),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_units_that_something_else_reads_stay(name):
    change, options = BETWEEN[name]
    torch.manual_seed(0)
    model = Two(change, **options)
    x = torch.randn(64, 4)
    first = next(units for units in structure(model, x).sets if units.name == "a")
    assert first.obstacle
    result = permutation_prune(model, [x], tolerance=2, max_flips=64)
    kept = {layer.name: layer.kept for layer in result.report.layers}
    assert kept["a"] == 8 and kept["b"] < 6
    result.model.train()(x).sum().backward()


def hooked(model):
    model[1].register_forward_hook(lambda module, inputs, output: output * torch.ones(8))


SETTINGS = {
    "weight_norm": lambda model: nn.utils.parametrizations.weight_norm(model[2]),
    "spectral_norm": lambda model: nn.utils.parametrizations.spectral_norm(model[2]),
    "a hook of a ReLU": hooked,
    "a hook of a layer": lambda model: model[2].register_forward_hook(lambda module, inputs, output: None),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_layers_with_more_than_weights_stay(name):
    torch.manual_seed(0)
    model = mlp()
    SETTINGS[name](model)
    x = torch.randn(64, 4)
    try:
        result = permutation_prune(model, [x], tolerance=2, max_flips=64)
    except ValueError as error:
        assert "a layer that can be cut" in str(error)
        return
    assert result.model[0].out_features == 8
    result.model.train()(x).sum().backward()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.c.weight = self.b.weight

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.d(F.relu(self.c(F.relu(self.b(x)))))


class Repeated(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.c(F.relu(self.b(F.relu(self.b(x)))))


class Lengthwise(nn.Module):
    """A linear layer along the positions of a convolution's units."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (
            nn.Conv1d(2, 5, 1),
            nn.Linear(8, 6),
            nn.Linear(6, 4),
            nn.Linear(20, 3),
        )

    def forward(self, x):
        x = F.relu(self.c(F.relu(self.b(F.relu(self.a(x))))))
        return self.d(x.flatten(1))


class InTraining(nn.Module):
    """A layer that makes, reads or norms units in training alone."""

    def __init__(self, how):
        super().__init__()
        self.a, self.b, self.c, self.how = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3), how
        self.side, self.norm = nn.Linear(6, 3), nn.BatchNorm1d(6)
        self.first, self.second = nn.Linear(3, 6), nn.Linear(6, 3)

    def forward(self, x):
        y = self.a(x)
        if self.training and self.how == "makes":
            y = y + self.b(x)
        if self.training and self.how == "norms":
            y = self.norm(y)
        y = F.relu(y)
        z = self.side(y) if self.training and self.how == "reads" else 0
        return self.second(F.relu(self.first(F.relu(self.c(y) + z))))


OTHERS = {
    "tied weights": (Tied, (4,), {"a", "b", "c"}),
    "called twice": (Repeated, (4,), {"a", "b"}),
    "along positions": (Lengthwise, (2, 8), {"a", "c"}),
    "made in training": (lambda: InTraining("makes"), (4,), {"a"}),
    "normed in training": (lambda: InTraining("norms"), (4,), {"a"}),
    "read in training": (lambda: InTraining("reads"), (4,), {"a", "c"}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_layers_that_stay(name):
    make, shape, stay = OTHERS[name]
    torch.manual_seed(0)
    model, x = make(), torch.randn(64, *shape)
    assert stay <= {units.name for units in structure(model, x).sets if units.obstacle}
    model.train()
    try:
        result = permutation_prune(model, [x], tolerance=2, max_flips=64)
    except ValueError as error:
        assert "a layer that can be cut" in str(error)
        return
    kept = {layer.name: layer.units - layer.kept for layer in result.report.layers}
    assert not any(kept.get(each) for each in stay)
    result.model.train()(x).sum().backward()


def test_groups_stay():
    torch.manual_seed(0)
    for first, second in ((6, 9), (6, 6), (3, 6)):
        layers = [nn.Conv2d(2, first, 1), nn.ReLU(), nn.Conv2d(first, second, 3, groups=3), nn.ReLU()]
        model = nn.Sequential(*layers, nn.Conv2d(second, 5, 1), nn.ReLU(), nn.Conv2d(5, 3, 1))
        result = permutation_prune(model, [torch.randn(20, 2, 5, 5)], tolerance=2, max_flips=100)
        if (first, second) == (3, 6):
            assert result.report.layers[0].note == "2 (Conv2d) has groups"
        assert (result.model[2].in_channels, result.model[2].out_channels) == (first, second)
        assert result.report.layers[2].kept < 5


@pytest.mark.parametrize("norm", [nn.LayerNorm([6, 5, 5]), nn.GroupNorm(2, 6), nn.LocalResponseNorm(2)])
def test_norms_over_units_stay(norm):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 1), nn.ReLU(), norm, nn.Conv2d(6, 5, 1), nn.ReLU(), nn.Conv2d(5, 3, 1)
    )
    result = permutation_prune(model, [torch.randn(20, 2, 5, 5)], tolerance=2, max_flips=100)
    first, second, _ = result.report.layers
    assert first.kept == 6 and first.note
    assert second.kept < 5


def test_optional_arguments_without_shapes_are_no_other_layout():
    """Behind a pool, flattening gives each unit one column, in whatever way the model is called."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(2, 6, 3), nn.Linear(6, 3)

        def forward(self, x, log=False, scale=None):
            x = self.fc(F.adaptive_avg_pool2d(F.relu(self.conv(x)), 1).flatten(1))
            return x.log_softmax(1) if log else x

    found = structure(Model(), torch.randn(2, 2, 6, 6)).sets
    assert [units.obstacle for units in found] == ["", "the model returns it"]
