"""Extrema of a model's layers, and each layer's contribution to the penalty."""

import contextlib
import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import jumpstart_kernels as jk
from jumpstart_kernels.nn.activation import LayerExtrema
from jumpstart_kernels.ops import backends
from jumpstart_kernels.usage.watching import LayerWatch


class Twice(nn.Module):
    """A convolution, one ReLU used twice, and a wide layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.relu = nn.ReLU()
        self.wide = nn.Linear(12, 40)
        self.last = nn.ReLU()

    def forward(self, x):
        return self.last(self.wide(self.relu(self.relu(self.conv(x)) - 0.1).flatten(1)))


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return Twice()


X = torch.randn(7, 2, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("replaced", [False, True])
def test_extrema_are_those_of_the_pre_activations(replaced):
    model = make_model()
    with torch.no_grad():
        first = model.conv(X)
        second = first.relu() - 0.1
        third = model.wide(second.relu().flatten(1))
    if replaced:
        model = jk.replace_relu(model)
    model.train()
    found = jk.layer_extrema(model, X)
    assert list(found) == ["relu", "relu#2", "last"]
    for extrema, x in zip(found.values(), (first, second, third), strict=True):
        units, points = x.transpose(0, 1).flatten(1), x.flatten(1)
        assert torch.equal(extrema.unit_max, units.amax(1)) and torch.equal(extrema.unit_min, units.amin(1))
        assert torch.equal(extrema.point_max, points.amax(1)) and torch.equal(
            extrema.point_min, points.amin(1)
        )
    assert model.training and all(not module._forward_pre_hooks for module in model.modules())
    if replaced:
        with pytest.raises(RuntimeError, match="has recorded"):
            jk.penalty(model)  # it left no record


@pytest.mark.parametrize("replaced", [False, True])
def test_extrema_of_a_model_with_a_compiled_part_that_has_run(replaced):
    """Compiled code does not see hooks added later."""
    inner = make_model()
    inner = jk.replace_relu(inner) if replaced else inner
    expected = jk.layer_extrema(inner, X)
    model = nn.Sequential(torch.compile(inner, backend="eager")).eval()
    with torch.no_grad():
        model(X)
    found = jk.layer_extrema(model, X)
    assert list(found) == [f"0._orig_mod.{name}" for name in expected]
    for own, other in zip(found.values(), expected.values(), strict=True):
        assert all(map(torch.equal, own, other))


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("autocast", [False, True])
def test_watching_changes_nothing(backend, autocast):
    """Output, penalty and gradients bit for bit, with a watch that collects and the parts looked at."""
    reason = backends.unavailable(backend, "cpu")
    if reason is not None:
        pytest.skip(reason)

    def results(watched):
        model = jk.replace_relu(make_model())
        with contextlib.ExitStack() as stack:
            stack.enter_context(jk.use_backend(backend))
            stack.enter_context(torch.autocast("cpu", enabled=autocast))
            if watched:
                stack.enter_context(LayerWatch(model))
                stack.enter_context(jk.UnitUsage().watch(model))
            output = model(X)
            if watched:
                jk.penalty_by_layer(model)
            value = jk.penalty(model)
            (output.float().square().sum() + value).backward()
        assert all(layer._watchers == [] and layer._records is None for layer in (model.relu, model.last))
        return [output, value, *(parameter.grad for parameter in model.parameters())]

    assert all(map(torch.equal, results(False), results(True)))


def test_report_has_the_extrema_of_the_units():
    model = make_model()
    report = jk.unit_usage(model, [X[:3], X[3:]])
    extrema = jk.layer_extrema(model, X)
    assert list(report.unit_max) == list(report.unit_min) == list(extrema)
    for name, layer in extrema.items():
        torch.testing.assert_close(report.unit_max[name], layer.unit_max)
        torch.testing.assert_close(report.unit_min[name], layer.unit_min)


def test_a_watch_collects_what_is_asked_for():
    model = jk.replace_relu(make_model())
    watch = LayerWatch(model, layers=["last"], when=lambda: not model.training)
    watch.start()
    watch.start()  # once is enough
    model(X)
    assert watch.take() == {}
    model.eval()
    model(X)
    model(X)
    assert list(watch.take()) == ["last", "last#2"]
    assert watch.take() == {}
    model(X)
    watch.stop()
    model(X)
    assert watch.take() == {}
    assert model.last._watchers == []


def test_a_watch_leaves_out_second_forwards():
    for model in (make_model(), jk.replace_relu(make_model())):
        with LayerWatch(model) as watch:
            checkpoint(model, X, use_reentrant=False).sum().backward()
            assert list(watch.take()) == ["relu", "relu#2", "last"]


@pytest.mark.parametrize("reduction", ["balanced", "mean", "sum"])
@pytest.mark.parametrize("sign_balance", [0.5, 0.2])
def test_parts_sum_to_the_penalty(reduction, sign_balance):
    """Each term equals the penalty of that term alone, where the other counts do not matter."""
    model = jk.replace_relu(make_model(), margin=0.7)
    model(X)
    options = {"reduction": reduction, "sign_balance": sign_balance}
    recorded = jk.penalty_by_layer(model, **options)
    assert jk.penalty_by_layer(model, **options) == recorded  # the records are still there
    whole = jk.penalty(model, **options).item()
    assert list(recorded) == ["relu", "last"]  # a layer used twice is one
    assert sum(map(sum, recorded.values())) == pytest.approx(whole, rel=1e-5)

    watched = jk.penalty_by_layer(jk.layer_extrema(model, X), margin=0.7, **options)
    assert list(watched) == ["relu", "relu#2", "last"]
    for term in range(4):
        first = watched["relu"][term] + watched["relu#2"][term]
        assert first == pytest.approx(recorded["relu"][term], rel=1e-5, abs=1e-9)
        assert watched["last"][term] == pytest.approx(recorded["last"][term], rel=1e-5, abs=1e-9)


def test_terms_have_their_names():
    """Dead units and linear points, by hand: s⁺ of −2 is 3, s⁻ of 2 is 3."""
    extrema = LayerExtrema(*(torch.tensor(values) for values in ([-2.0, 5.0], [-9.0, -5.0], [9.0], [2.0])))
    parts = jk.penalty_by_layer({"layer": extrema}, reduction="sum")["layer"]
    assert parts._asdict() == {
        "unit_positive": 1.5,
        "unit_negative": 0.0,
        "point_positive": 0.0,
        "point_negative": 1.5,
    }


def test_a_layer_without_points_adds_nothing():
    empty = LayerExtrema(torch.full((2,), -math.inf), torch.full((2,), math.inf), *[torch.empty(0)] * 2)
    other = LayerExtrema(*(torch.tensor(values) for values in ([-2.0], [-9.0], [9.0], [-9.0])))
    parts = jk.penalty_by_layer({"empty": empty, "other": other})
    assert parts["empty"] == (0, 0, 0, 0)
    assert parts["other"] == (1.5, 0, 0, 0)  # a mean over one unit


@pytest.mark.parametrize(
    "error, message, call",
    [
        (RuntimeError, "source must have a layer with records", lambda m: jk.penalty_by_layer(m)),
        (RuntimeError, "source must have a layer", lambda m: jk.penalty_by_layer({})),
        (TypeError, "source must be a torch.nn.Module or extrema", lambda m: jk.penalty_by_layer(3)),
        (TypeError, "a LayerExtrema for each layer, got int", lambda m: jk.penalty_by_layer({"a": 3})),
        (ValueError, "reduction must be one of", lambda m: jk.penalty_by_layer(m, reduction="norm")),
        (ValueError, "sign_balance must be in", lambda m: jk.penalty_by_layer(m, sign_balance=2)),
        (ValueError, "margin must be finite", lambda m: jk.penalty_by_layer(m, margin=-1)),
        (TypeError, "x must be a tensor, an array, .* got list", lambda m: jk.layer_extrema(m, [1.0])),
        (ValueError, "layers must be names", lambda m: jk.layer_extrema(m, X, layers=["nothing"])),
        (TypeError, "unit_dim must be an int", lambda m: jk.layer_extrema(m, X, unit_dim=1.0)),
        (TypeError, "model must be a torch.nn.Module", lambda m: jk.layer_extrema(3, X)),
    ],
)
def test_wrong_arguments(error, message, call):
    with pytest.raises(error, match=message):
        call(jk.replace_relu(make_model()))


def test_a_model_that_runs_no_layer():
    model = make_model()
    model.forward = lambda x: x
    with pytest.raises(ValueError, match="model must run a watched layer"):
        jk.layer_extrema(model, X)
