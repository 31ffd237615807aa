"""Layers that go altogether: what passes units on, what is linear, and what must stay."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jumpstart_kernels.pruning import load_pruned, permutation_prune

X = torch.randn(96, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
OTHER = torch.randn(50, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@torch.no_grad()
def pass_on(layer):
    """Make a layer hand on what it reads, scaled; a convolution by the middle of its kernel."""
    layer.weight.zero_()
    rows = layer.weight
    for dim in rows.shape[2:]:
        rows = rows.select(2, dim // 2)
    rows.copy_(torch.diag(torch.rand(len(rows)) + 0.5))
    layer.bias.zero_()


def deep(inplace=False, sizes=(4, 6, 6, 6, 3)):
    torch.manual_seed(0)
    layers = []
    for inputs, outputs in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace)]
    return nn.Sequential(*layers[:-1]).double()


def check(model, result, gone, x=X, other=OTHER):
    assert {layer.name for layer in result.report.layers if not layer.kept} == set(gone)
    for inputs in (x, other):
        torch.testing.assert_close(result.model(inputs), model(inputs), rtol=1e-8, atol=1e-8)
    result.model(inputs).square().sum().backward()
    parameters = dict(result.model.named_parameters())
    assert not [name for name in gone for key in parameters if key.startswith(f"{name}.")]


@pytest.mark.parametrize("inplace", [False, True])
def test_passed_on(inplace):
    model = deep(inplace)
    pass_on(model[2])
    result = permutation_prune(model, [X])
    check(model, result, ["2"])
    assert isinstance(result.model[2], nn.LeakyReLU if inplace else nn.Identity)
    layer = result.report.layers[1]
    assert (layer.kept, layer.passed_on, layer.passing, layer.note) == (0, 6, 6, "")


@pytest.mark.parametrize("inplace", [False, True])
def test_several_in_a_row(inplace):
    model = deep(inplace)
    pass_on(model[2])
    pass_on(model[4])
    check(model, permutation_prune(model, [X]), ["2", "4"])


def test_linear_and_dead_units():
    model = deep()
    pass_on(model[2])
    with torch.no_grad():
        model[2].weight[:2] = torch.randn(2, 6)
        model[2].bias[:2] = 30
        model[2].bias[2] = -1e3
    result = permutation_prune(model, [X])
    check(model, result, ["2"])
    assert result.report.layers[1].linear == 2


@pytest.mark.parametrize("padding", [0, 1])
def test_convolutions(padding):
    torch.manual_seed(0)
    kernel = 1 + 2 * padding
    layers = [nn.Conv2d(2, 5, 3), nn.ReLU(inplace=True), nn.Conv2d(5, 5, kernel, padding=padding)]
    layers += [nn.BatchNorm2d(5), nn.ReLU(inplace=True), nn.Conv2d(5, 3, 3), nn.Flatten(2)]
    model = nn.Sequential(*layers).double().eval()
    pass_on(model[2])
    x = torch.randn(20, 2, 6, 6, dtype=torch.float64)
    result = permutation_prune(model, [x])
    check(model, result, ["2"], x, torch.randn(3, 2, 9, 7, dtype=torch.float64))
    assert isinstance(result.model[3], nn.LeakyReLU)


class Skipped(nn.Module):
    """What is passed on is read together with what it passes on."""

    def __init__(self, join):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.join = nn.Linear(4, 6), nn.Linear(6, 6), join
        self.c = nn.Linear(12 if join == "cat" else 6, 3)
        pass_on(self.b)

    def forward(self, x):
        x = F.relu(self.a(x))
        y = self.b(x).relu_()
        return self.c(torch.cat([x, y], 1) if self.join == "cat" else x * 2 - y)


def test_concatenated_with_what_it_passes_on():
    model = Skipped("cat").double()
    with torch.no_grad():
        model.b.weight.mul_(50)  # 12 columns read what 6 units say: the layer goes if it costs nothing
    result = permutation_prune(model, [X])
    check(model, result, ["b"])


@pytest.mark.parametrize("tolerance", [0.3, 2.0])
def test_units_before_a_layer_that_is_gone_can_go_later(tolerance):
    for model in (Skipped("cat").double(), deep(), deep(True)):
        if isinstance(model, nn.Sequential):
            pass_on(model[2])
            pass_on(model[4])
        expected = model(X).argmax(1)
        result = permutation_prune(model, [X], tolerance=tolerance, max_flips=30)
        assert result.report.flips == int((result.model(X).argmax(1) != expected).sum()) <= 30
        assert result.report.removed > 6
        result.model.train()(X).square().sum().backward()


def test_layers_of_a_sum_stay():
    model = Skipped("sum").double()
    result = permutation_prune(model, [X])
    check(model, result, [])


def refused(model, x=X):
    (note,) = {
        layer.note for layer in permutation_prune(model, [x]).report.layers if "passed on" in layer.note
    }
    return note


def test_what_would_grow_stays():
    model = deep(sizes=(4, 24, 2, 24, 3))
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].weight[:, :2] = torch.eye(2)
        model[2].bias.zero_()
    assert "would grow" in refused(model)


def test_strides_stay():
    """With one position they change nothing, but with more."""
    layers = [nn.Conv2d(2, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 1, stride=2), nn.ReLU(), nn.Conv2d(6, 3, 1)]
    torch.manual_seed(0)
    model = nn.Sequential(*layers).double()
    pass_on(model[2])
    assert "changes the shape" in refused(model, torch.randn(400, 2, 1, 1, dtype=torch.float64))


class Referring(nn.Module):
    """Finds its layers in a list, or asks one for its width."""

    def __init__(self, listed):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        pass_on(self.b)
        self.layers = [self.a, self.b] if listed else None

    def forward(self, x):
        for layer in self.layers or (self.a, self.b)[: self.b.in_features]:
            x = F.relu(layer(x))
        return self.c(x)


@pytest.mark.parametrize("listed", [True, False])
def test_a_layer_of_which_the_forward_needs_more_stays(listed):
    model = Referring(listed).double()
    result = permutation_prune(model, [X])
    check(model, result, [])
    assert result.report.layers[1].note


@pytest.mark.parametrize("inplace", [False, True])
def test_saved_with_two_names(inplace, tmp_path):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = deep(inplace)
            self.again = self.layers[2]

        def forward(self, x):
            return self.layers(x)

    model = Named()
    pass_on(model.again)
    result = permutation_prune(model, [X])
    check(model, result, ["layers.2"])
    assert result.model.again is result.model.layers[2]
    result.save(tmp_path / "pruned.pt")
    loaded = load_pruned(Named(), tmp_path / "pruned.pt")
    assert torch.equal(loaded(OTHER), result.model(OTHER))
    assert type(loaded.again) is type(result.model.again)
    loaded(X).square().sum().backward()


@pytest.mark.parametrize("inplace", [False, True])
def test_saved_when_pruned_again(inplace, tmp_path):
    """The second file names the layer that went the first time, too."""
    model = deep(inplace)
    pass_on(model[2])
    first = permutation_prune(model, [X])
    check(model, first, ["2"])
    first.save(tmp_path / "first.pt")
    path = tmp_path / "second.pt"
    for given in (first.model, load_pruned(deep(inplace), tmp_path / "first.pt")):
        second = permutation_prune(given, [X], tolerance=2, max_flips=20)
        second.save(path)
        for fresh in (deep(inplace), load_pruned(deep(inplace), tmp_path / "first.pt")):
            assert torch.equal(load_pruned(fresh, path)(OTHER), second.model(OTHER))


def test_refused_attempts_leave_no_trace():
    """A layer that nearly passes on, but decides."""
    model = deep()
    pass_on(model[2])
    with torch.no_grad():
        model[2].bias.copy_(torch.tensor([-1.0, 0.5, -0.5, -2, 0.3, -0.1]))
        model[4].weight.mul_(30)
    before = copy.deepcopy(model.state_dict())
    result = permutation_prune(model, [X], tolerance=0.5)
    for key, tensor in result.model.state_dict().items():
        if result.report.removed == 0:
            assert torch.equal(tensor, before[key])
    assert result.report.flips == 0
