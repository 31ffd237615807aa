"""looks_linear_: what pairs pass through, what they do not, and what the report says of it."""

import pytest
import torch
import torch.nn.functional as F
from initialization.networks import LINEAR, Viewed, double, initialize, is_odd, resnet
from surgery.link_models import MODELS as LINKED
from surgery.link_models import build as build_linked
from surgery.link_models import outputs
from surgery.models import MODELS
from torch import nn

import jumpstart_kernels as jk
from benchmarks.models import build_convnet, pre_activations

PLAIN = {name: case for name, case in MODELS.items() if name != "transformer"}  # it has no trace


def test_max_pooling_leaves_the_model_odd():
    model, x = double(lambda: build_convnet(divisor=8), (3, 32, 32))
    report = jk.looks_linear_(model)
    assert is_odd(model, x)
    assert not report.is_linear
    assert len(report.notes) == 5 and all("MaxPool2d" in note for note in report.notes)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_skip_connections_leave_the_model_odd_and_as_large(batch_norm):
    model, x = double(lambda: resnet(batch_norm=batch_norm, skips=True), (3, 16, 16))
    report = jk.looks_linear_(model)
    assert is_odd(model, x)
    assert not report.is_linear
    _, seen = pre_activations(model, x)
    assert all(0.3 < each.square().mean().sqrt() < 4 for each in seen)


def test_mirrored_units_that_are_read_directly():
    """They are twice as far from each other as behind a ReLU."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.direct, self.behind = nn.Linear(4, 8), nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x):
            x = self.first(x)
            return self.direct(x), self.behind(x.relu())

    model = Net().double()
    report = jk.looks_linear_(model)
    assert report.is_linear
    for each in model(torch.randn(2000, 4).double()):
        assert each.square().mean().item() == pytest.approx(1, rel=0.1)


def test_shared_weights_are_left():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    _, report = initialize(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(4, 2))
    assert [bool(each.makes) for each in report.values()] == [False, False, True]


def test_one_layer_called_twice():
    """On the input and on pairs it has no pairs to read; on pairs alone it has."""
    layer, relu = nn.Linear(4, 4), nn.ReLU()
    _, report = initialize(layer, relu, layer, relu, nn.Linear(4, 2))
    assert report["0"].reads == "units"
    assert "called on units of different kinds" in str(report)
    model, report = initialize(nn.Linear(4, 4), relu, layer, relu, layer, relu, nn.Linear(4, 2))
    assert report["2"].reads == "pairs" and report.is_linear
    assert is_odd(model, torch.randn(5, 4).double())


def test_units_that_are_added_to_units_without_pairs():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(64, 96), nn.Linear(64, 96)
            self.last = nn.Linear(96, 32)

        def forward(self, x):
            return self.last(F.relu(self.one(x) + self.other(x)))

    report = jk.looks_linear_(Net(), skip=["other"])
    assert report["one"].reason == "its units meet those of other, which are no pairs"
    model = Net().double()
    assert jk.looks_linear_(model).is_linear
    x = torch.randn(1000, 64).double()
    assert model(x).square().mean().item() == pytest.approx(1, rel=0.1)  # a sum of two is twice as large


def test_linked_units_are_pairs_of_all_units():
    linked, recording = jk.LinkedReLU(unit_dim=-1), jk.JumpstartLinkedReLU(unit_dim=-1)
    model, report = initialize(nn.Linear(6, 5), linked, nn.Linear(10, 4), recording, nn.Linear(8, 2))
    assert report.is_linear
    assert [each.reads for each in report.values()] == ["units", "pairs", "pairs"]
    v = model[2].weight[:, :5].detach()
    torch.testing.assert_close(v @ v.T, torch.eye(4).double())
    x, y = torch.randn(2, 3, 6).double()
    torch.testing.assert_close(model(x + y), model(x) + model(y))


def test_after_link_relu():
    model, x = double(*LINEAR["resnet50 without skips"])
    jk.link_relu(model)
    assert jk.looks_linear_(model).is_linear
    assert is_odd(model, x)


def test_linked_units_in_an_unknown_dimension():
    layers = nn.Linear(6, 5), jk.LinkedReLU(), nn.Linear(10, 4)
    _, report = initialize(*layers)
    assert report["2"].reads == "units" and "which units it links" in str(report)
    report = jk.looks_linear_(nn.Sequential(*layers).double(), torch.zeros(2, 6).double())
    assert report["2"].reads == "pairs" and report.is_linear


def test_nonlinear_layers_that_it_does_not_know_are_noted():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent, self.last = nn.GRU(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.last(self.recurrent(x)[0])

    report = jk.looks_linear_(Net())
    assert report["last"].makes and not report["recurrent"].makes
    assert not report.is_linear


@pytest.mark.parametrize("name", [*LINKED, *PLAIN])
@pytest.mark.parametrize("shapes", [False, True], ids=["", "shapes"])
def test_what_is_said_to_be_linear_is(name, shapes):
    """Models with whatever linking and replacing are tested on, norms with random weights included."""
    if name in LINKED:
        model, x = build_linked(*LINKED[name][:2])
    else:
        model, x = PLAIN[name][0](), torch.randn(PLAIN[name][1])
    model, x = model.double().eval(), x.double()
    report = jk.looks_linear_(model, x if shapes else None)
    y = torch.randn_like(x)
    with torch.no_grad():
        zero, one, other, both = (outputs(model, each) for each in (0 * x, x, y, x + y))
    for at_zero, at_x, at_y, at_both in zip(zero, one, other, both, strict=True):
        affine = torch.allclose(at_both + at_zero, at_x + at_y)
        assert affine >= report.is_linear
        assert torch.isfinite(at_x).all() and at_x.std() < 100


def test_what_is_overwritten_and_read_is_noted():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            x = self.first(x)
            return self.last(F.relu(self.second(F.relu(x, inplace=True)) + x))

    report = jk.looks_linear_(Net())
    assert any("in place" in note for note in report.notes)
    layers = [nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 2)]
    assert jk.looks_linear_(nn.Sequential(*layers)).is_linear


def test_a_view_needs_example_inputs():
    report = jk.looks_linear_(Viewed())
    assert report["last"].reads == "units" and "example_inputs" in str(report)
    model, x = double(Viewed, (2, 7))
    report = jk.looks_linear_(model, x)
    assert report["last"].reads == "pairs" and report.is_linear
    y = torch.randn_like(x)
    torch.testing.assert_close(model(x + y), model(x) + model(y))


def test_dense_layers_of_a_transformer_run():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), layer, nn.Linear(8, 2))
    report = jk.looks_linear_(model)
    assert report["0"].makes == "pairs" and not report["3.linear1"].makes
    assert torch.isfinite(model(torch.randn(3, 5, 4))).all()
    assert not report.is_linear


def test_the_report():
    _, report = initialize(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 3))
    assert len(report) == 2 and list(report) == ["0", "3"]
    assert str(report) == (
        "looks_linear_: 2 layers set, 0 left as they are\n"
        "  0  reads units, makes pairs (center)\n"
        "  3  reads pairs, makes units: no ReLU follows its units\n"
        "the model is a linear function of what its first layers read"
    )
    assert str(jk.looks_linear_(nn.Identity())) == "looks_linear_: 0 layers set, 0 left as they are"
