"""The metric over its data against the definition: batches, copies, merges, devices."""

import copy
import math
import pickle
import warnings

import pytest
import torch
from torch import nn
from usage.definition import (
    NAMES,
    Parallel,
    assert_ratios,
    definition,
    layer_inputs,
    watched,
)

from jumpstart_kernels import JumpstartReLU
from jumpstart_kernels.nn.activation import LayerExtrema
from jumpstart_kernels.usage.metric import UnitUsage


@pytest.mark.parametrize("activation", [JumpstartReLU, nn.ReLU])
def test_ratios_are_those_of_the_definition(target, activation):
    _, device = target
    inputs = layer_inputs()
    expected = definition(inputs)
    assert all(0 < value < 1 for name, value in expected.items() if name != "point_linear_ratio")
    model = Parallel(*(activation() for _ in inputs)).eval()
    metric = watched(model, [x.to(device) for x in inputs])
    assert_ratios(metric, expected)
    assert dict(metric.report()) == pytest.approx(expected)


def test_ratios_of_a_hand_made_case():
    # Points down, units across. Point 0 is dead in layer 0 only, point 1 linear in both, point 2 nonlinear in
    # layer 0 and dead in layer 1, point 3 nonlinear in both.
    first = torch.tensor([[-1.0, 0.0], [1.0, 2.0], [1.0, -1.0], [2.0, 0.0]])
    second = torch.tensor([[3.0, 1.0, -1.0], [1.0, 1.0, 1.0], [0.0, -1.0, -2.0], [1.0, 0.5, -1.0]])
    report = watched(Parallel(nn.ReLU(), nn.ReLU()).eval(), [first, second]).report()
    assert report.unit_status["activations.0"].tolist() == [1, 1]
    assert report.unit_status["activations.1"].tolist() == [1, 1, 1]
    assert report.point_status.tolist() == [[-1, 1], [0, 0], [1, -1], [1, 1]]
    assert dict(report) == pytest.approx(
        dict(zip(NAMES, [0, 0, 1, 2 / 4, 1 / 4, 1 / 4, 2 / 8, 2 / 8, 4 / 8, 5 / 8], strict=True))
    )


def test_a_unit_is_dead_or_linear_on_all_of_the_data():
    model = Parallel(nn.ReLU()).eval()
    batches = [[torch.tensor([[-1.0, 1.0, -1.0, 2.0]])], [torch.tensor([[0.0, 2.0, 1.0, 0.0]])]]
    assert watched(model, *batches).report().unit_status["activations.0"].tolist() == [-1, 0, 1, 1]


@pytest.mark.parametrize("sizes", [(12,), (5, 7), (1, 10, 1), (4, 0, 8)])
def test_batches_give_what_one_batch_gives(sizes):
    inputs = layer_inputs()
    model = Parallel(*(JumpstartReLU() for _ in inputs)).eval()
    batches = list(zip(*(x.split(sizes) for x in inputs), strict=True))
    assert_ratios(watched(model, *batches), definition(inputs))


def test_float64_is_not_rounded():
    x = torch.tensor([[1e-300, -1e-300]], dtype=torch.float64)
    assert watched(Parallel(nn.ReLU()), [x]).report().unit_status["activations.0"].tolist() == [0, -1]


def test_nan_counts_as_nonlinear_and_is_reported():
    nan = math.nan
    x = torch.tensor([[nan, -1.0, 1.0], [-1.0, -1.0, 1.0]])
    report = watched(Parallel(nn.ReLU()), [x], [-x.abs()]).report()
    assert report.unit_status["activations.0"].tolist() == [1, -1, 1]
    assert report.point_status[:, 0].tolist() == [1, 1, 1, -1]
    assert str(report).endswith("units that saw a NaN, counted as nonlinear: 1")


def test_forward_returns_the_ratios_of_the_batch_and_adds_it():
    inputs = layer_inputs()
    batches: list[dict[str, LayerExtrema]] = []
    model = Parallel(*(JumpstartReLU() for _ in inputs)).eval()
    for i, relu in enumerate(model.activations):
        relu._watchers.append(lambda extrema, i=i: batches[-1].update({str(i): extrema}))
    for part in zip(*(x.split((8, 4)) for x in inputs), strict=True):
        batches.append({})
        model(*part)
    metric = UnitUsage()
    first, second = (metric(batch) for batch in batches)
    assert {k: float(v) for k, v in first.items()} == pytest.approx(definition([x[:8] for x in inputs]))
    assert {k: float(v) for k, v in second.items()} == pytest.approx(definition([x[8:] for x in inputs]))
    assert_ratios(metric, definition(inputs))


def test_merge_state_adds_the_data_of_another_metric():
    inputs = layer_inputs()
    model = Parallel(*(nn.ReLU() for _ in inputs))
    first = watched(model, [x[:5] for x in inputs])
    first.compute()  # whose result must not outlive the merge
    first.merge_state(watched(model, [x[5:] for x in inputs]))
    first.merge_state(UnitUsage())
    assert_ratios(first, definition(inputs))
    empty = UnitUsage()
    empty.merge_state(first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_ratios(empty, definition(inputs))
    with pytest.raises(ValueError, match="differ: activations.1, activations.2, activations.3"):
        first.merge_state(watched(Parallel(nn.ReLU()), inputs[:1]))
    with pytest.raises(TypeError, match="must be a UnitUsage, got dict"):
        first.merge_state({})


def test_copies_keep_the_data_and_reset_forgets_it():
    inputs = layer_inputs()
    model = Parallel(*(nn.ReLU() for _ in inputs))
    metric = watched(model, inputs)
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), metric.clone()):
        assert_ratios(twin, definition(inputs))
        with twin.watch(model):
            model(*inputs)
        assert len(twin.report().point_status) == 24
    metric.reset()
    with pytest.raises(RuntimeError, match="has seen no data"):
        metric.report()
    other = nn.Sequential(nn.ReLU())
    with metric.watch(other):
        other(inputs[0])
    assert_ratios(metric, definition(inputs[:1]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("metric_device", ["cpu", "cuda"])
def test_metric_and_model_may_be_on_different_devices(metric_device):
    inputs = layer_inputs()
    model = Parallel(*(JumpstartReLU() for _ in inputs)).eval()
    metric = UnitUsage().to(metric_device)
    with metric.watch(model):
        model(*(x.cuda() for x in inputs))
    assert metric.unit_max.device.type == metric_device
    assert_ratios(metric, definition(inputs))
    metric.to("cuda")
    with metric.watch(model):
        model(*(x.cuda() for x in inputs))
    assert_ratios(metric, definition(inputs))


def test_the_layers_of_all_updates_are_the_same():
    model = nn.Sequential(nn.ReLU())
    metric = watched(model, [torch.ones(2, 3)])
    with (
        pytest.raises(
            ValueError, match="must have the layers and units of the first update; these differ: 0"
        ),
        metric.watch(model),
    ):
        model(torch.ones(2, 4))
    with pytest.raises(ValueError, match="these differ: 0, other"):
        metric({"other": LayerExtrema(*torch.ones(4, 3))})
    assert len(metric.report().point_status) == 2
