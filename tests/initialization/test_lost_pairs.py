"""looks_linear_: pairs that no layer would read as such, so that there are none."""

import pytest
import torch
import torch.nn.functional as F
from initialization.networks import LINEAR, double, initialize
from torch import nn
from torch.nn.utils import parametrizations

import jumpstart_kernels as jk


@pytest.mark.parametrize(("layer", "reason"), [
    (lambda: nn.Conv1d(8, 8, 1, groups=4), "it has groups"),
    (lambda: nn.ConvTranspose1d(8, 8, 1), "it is transposed"),
    (lambda: parametrizations.weight_norm(nn.Conv1d(8, 8, 1)), "it is parametrized"),
    (lambda: type("Own", (nn.Conv1d,), {})(8, 8, 1), "it is no layer of a kind that it knows"),
])  # fmt: skip
def test_layers_that_are_left(layer, reason):
    torch.manual_seed(0)
    layer = layer()
    before = [each.clone() for each in layer.parameters()]
    model, report = initialize(nn.Conv1d(2, 8, 1), nn.ReLU(), layer, nn.ReLU(), nn.Conv1d(8, 2, 1))
    assert report["2"] == ("", "", "", reason)
    assert all(map(torch.equal, layer.parameters(), [each.double() for each in before]))
    where = f"2 ({type(layer).__name__})"
    assert report["0"] == ("units", "units", "", f"its pairs would not get past {where}")
    assert report["4"].reads == "units" and not report.is_linear
    assert torch.isfinite(model(torch.randn(3, 2, 5).double())).all()


def test_skip():
    model, _ = double(*LINEAR["leaky"])
    before = model[2].weight.clone()
    report = jk.looks_linear_(model, skip=["2"])
    assert report["2"].reason == "it is skipped"
    assert torch.equal(model[2].weight, before)
    assert report["0"].reason == "its pairs would not get past 2 (Linear)"
    assert not report.is_linear


def test_pairs_that_only_the_caller_would_see_are_none():
    _, report = initialize(nn.Linear(4, 8), nn.ReLU())
    assert report["0"].reason == "its pairs would not get past the output"
    assert list(report.notes) == ["1 (ReLU): its units are no pairs"]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            features = self.first(x).relu()
            return self.last(features), features

    report = jk.looks_linear_(Net())
    assert report["first"].makes == "pairs" and report["last"].reads == "pairs"
    assert list(report.notes) == ["the model returns pairs, of which the difference alone is linear"]


class Deep(nn.Module):
    """40 layers with a call behind each ReLU."""

    def __init__(self, call, width=32):
        super().__init__()
        self.call = call
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(40))
        self.last = nn.Linear(width, 3)

    def forward(self, x):
        for layer in self.layers:
            x = self.call(layer(x).relu(), x)
        return self.last(x)


@pytest.mark.parametrize(("call", "is_linear"), [
    (lambda x, before: 1.5 * x, True),
    (lambda x, before: x.mul(other=1.5), True),
    (lambda x, before: torch.mul(input=x, other=1.5), True),
    (lambda x, before: x / 2, True),
    (lambda x, before: 0 + x, True),
    (lambda x, before: sum([x]), True),
    (lambda x, before: x.to(torch.float64), True),
    (lambda x, before: 2 / (1 + x), False),
    (lambda x, before: 0 - x, False),
    (lambda x, before: -1.5 * x, False),
    (lambda x, before: torch.div(x, 0.1, rounding_mode="floor"), False),
    (lambda x, before: (9 * x).to(torch.int).to(torch.float64), False),
    (lambda x, before: F.normalize(x), False),
])  # fmt: skip
def test_calls_keep_pairs_or_there_are_none(call, is_linear):
    """Pairs that a layer read as units would be the same units twice, and half the rank in each layer."""
    torch.manual_seed(0)
    model, x = Deep(call).double(), torch.randn(40, 32).double()
    report = jk.looks_linear_(model)
    assert report.is_linear == is_linear
    assert {each.makes for name, each in report.items() if name != "last"} == {
        "pairs" if is_linear else "units"
    }
    y = torch.randn_like(x)
    with torch.no_grad():
        assert torch.allclose(model(x + y), model(x) + model(y)) == is_linear


@pytest.mark.parametrize(("add", "is_linear"), [
    (lambda x, y: torch.add(x, y, alpha=0.5), True), (lambda x, y: x.add(y, alpha=3), True),
    (lambda x, y: x + 3 * y, True), (lambda x, y: x.sub(y, alpha=0.5), True),
    (lambda x, y: torch.add(x, y, alpha=-1), False),
])  # fmt: skip
def test_a_sum_with_a_factor(add, is_linear):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(64, 96), nn.Linear(64, 96)
            self.middle, self.last = nn.Linear(96, 96), nn.Linear(96, 32)

        def forward(self, x):
            return self.last(self.middle(add(self.one(x).relu(), self.other(x).relu())).relu())

    model, x = Net().double(), torch.randn(2000, 64).double()
    report = jk.looks_linear_(model)
    assert report.is_linear == is_linear and report["middle"].reads == ("pairs" if is_linear else "units")
    assert model(x).square().mean().item() == pytest.approx(1, rel=0.1) or not is_linear


def test_parts_are_initialized_one_by_one_no_worse_than_by_he():
    torch.manual_seed(0)
    parts = [nn.Sequential(nn.Linear(32, 32), nn.ReLU()) for _ in range(40)]
    x = torch.randn(40, 32)
    cosines = []
    for initialize_part in (lambda part: nn.init.kaiming_normal_(part[0].weight), jk.looks_linear_):
        for part in parts:
            initialize_part(part)
            nn.init.zeros_(part[0].bias)
        cosines.append(jk.sample_cosines(nn.Sequential(*parts), x)["39.1"])
    assert cosines[1] < cosines[0] + 0.01


@pytest.mark.parametrize("call", [torch.abs, torch.square, lambda x: x * x, lambda x: x + 1, lambda x: -x])
def test_calls_that_would_make_twins_alike_are_not_followed(call):
    """``V |z| − V |−z|`` would be zero, and all units behind it dead."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.last(F.relu(self.second(call(F.relu(self.first(x)) + call(self.first(x))))))

    model = Net()
    report = jk.looks_linear_(model)
    assert report["second"].reads == "units" and not report.is_linear
    assert model(torch.randn(50, 4)).std() > 0.01
