"""recycle with the package's own reports and watches."""

import copy

import pytest
import torch
from recycling.recorded import kill, record, trained
from torch import nn

import jumpstart_kernels as jk

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def make(activation=nn.ReLU):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 6), activation(), nn.Linear(6, 5), activation(), nn.Linear(5, 3)
    ).double()
    nn.init.uniform_(model[0].bias, 0.5, 1)
    nn.init.uniform_(model[2].bias, 0.5, 1)
    return model


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, jk.JumpstartReLU])
def test_unit_usage(activation):
    """What it reports is what the tests' own records are."""
    model = make(activation)
    kill(model[0], [1])
    with torch.no_grad():
        model[2].weight[3], model[2].bias[3] = 0, 0.001
    usage, own = jk.unit_usage(model, [X[:40], X[40:]], dormancy=True), record(model, X)
    for field in ("dormancy", "unit_mean"):
        for layer, values in getattr(own, field).items():
            torch.testing.assert_close(getattr(usage, field)[layer], values, rtol=1e-10, atol=1e-10)
    other = copy.deepcopy(model)
    reports = [
        jk.recycle(each, None, seen, generator=torch.Generator().manual_seed(0))
        for each, seen in ((model, usage), (other, own))
    ]
    assert all(3 in each.recycled["3"] for each in reports)
    assert reports[0].recycled["3"].tolist() == reports[1].recycled["3"].tolist()
    assert reports[0].recycled["1"].tolist() == reports[1].recycled["1"].tolist()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


def test_saturated_units():
    """A unit of tanh that is always 1 is dead, and its constant goes into the biases behind."""
    model = make(nn.Tanh)
    with torch.no_grad():
        model[0].bias[2], model[0].bias[4] = 40, -40
    given, usage = copy.deepcopy(model), jk.unit_usage(model, [X], dormancy=True)
    report = jk.recycle(model, None, usage, status="dead")
    assert report.recycled["1"].tolist() == [2, 4]
    torch.testing.assert_close(model(X), given(X), rtol=1e-12, atol=1e-12)
    usage = jk.unit_usage(given, [X])
    with pytest.raises(ValueError, match=r"usage must have unit_mean of '1', as with dormancy=True"):
        jk.recycle(given, None, usage, status="dead")
    assert jk.recycle(given, None, usage, status="dead", keep_mean=False).changed == 2


def test_relu6_is_not_silent_where_it_is_dead():
    """It may be saturated at 6."""
    model = make(nn.ReLU6)
    with torch.no_grad():
        model[0].bias[2] = 40
    given, usage = copy.deepcopy(model), jk.unit_usage(model, [X], dormancy=True)
    assert jk.recycle(model, None, usage, status="dead").recycled["1"].tolist() == [2]
    torch.testing.assert_close(model(X), given(X), rtol=1e-12, atol=1e-12)


def test_dead_needs_no_scores():
    model = make()
    kill(model[0], [1])
    assert jk.recycle(model, None, jk.unit_usage(model, [X]), status="dead").total == 1


@pytest.mark.parametrize("compiled", [False, True])
def test_watch(compiled):
    """Recycling while a model trains, by what a watch has seen of it."""
    model = make()
    kill(model[0], [1])
    model = torch.compile(model, backend="aot_eager") if compiled else model
    with jk.watch(model, every=1, window=4, warn_dead=None) as watch:
        optimizer = trained(model, X, steps=4)
        report = jk.recycle(model, optimizer, watch)
        assert 1 in report.recycled["1"].tolist() and report.unchanged >= 1
        with pytest.raises(RuntimeError, match="no forward in training has been observed"):
            watch.report()
        trained(model, X, steps=4)
        assert not bool(watch.report().dormant(0)["1"][1])


def test_a_watch_whose_window_is_not_full_is_waited_for():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    kill(model[0], [2, 5])
    before = copy.deepcopy(model.state_dict())
    with jk.watch(model, every=1, window=2, samples=30) as watch:
        for samples, full in ((0, False), (16, False), (8, False), (8, True), (16, False)):
            if samples:
                model(torch.randn(samples, 3))
            assert watch.full == full
            report = jk.recycle(model, None, watch, status="dead")
            assert report.waiting == (not full) and (report.total == 2) == full
            if not full and samples < 16:
                assert "not full" in str(report)
                assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert model[0].bias[2] > -100


@pytest.mark.parametrize(
    ("device", "options"),
    [
        ("cpu", {"fused": True}),
        pytest.param("cuda", {"fused": True}, marks=pytest.mark.gpu),
        pytest.param("cuda", {"capturable": True}, marks=pytest.mark.gpu),
    ],
)
def test_where_a_model_trains(device, options):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.to(device).parameters(), **options)
    x = torch.randn(64, 3, device=device)
    with torch.no_grad():
        model[0].bias[:5] -= 100
    with jk.watch(model, every=1, window=4, warn_dead=None) as watch:
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
        before = model(x)
        report = jk.recycle(model, optimizer, watch, status="dead")
        torch.testing.assert_close(model(x), before)
        assert set(report.by_layer["0"].tolist()) >= set(range(5))
        assert watch.report().layers["1"].dead < 5
    assert not optimizer.state[model[0].weight]["exp_avg"][:5].any()
