"""Which layers and forwards of a watched model are seen, and that watching does not alter it."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from usage.definition import (
    NAMES,
    Parallel,
    assert_ratios,
    assert_unwatched,
    definition,
    layer_inputs,
    mixed,
    network,
    status_of,
    watched,
)

from jumpstart_kernels import JumpstartReLU, clear_records, penalty
from jumpstart_kernels.nn import LAYERS
from jumpstart_kernels.nn.activation import JumpstartActivation
from jumpstart_kernels.usage.loader import unit_usage
from jumpstart_kernels.usage.metric import UnitUsage
from jumpstart_kernels.usage.watching import find_layers


def test_watching_in_eval_records_nothing_for_the_penalty():
    model = network().eval()
    watched(model, [torch.randn(5, 3)])
    with pytest.raises(RuntimeError, match="no JumpstartReLU layer of the model has recorded"):
        penalty(model)


def test_watching_in_training_leaves_outputs_penalty_and_gradients_alone():
    x = torch.randn(5, 3)
    results = []
    for watch in (False, True):
        model = network()
        metric = UnitUsage()
        if watch:
            with metric.watch(model):
                output = model(x)
        else:
            output = model(x)
        loss = output.sum() + penalty(model)
        loss.backward()
        results.append([output, loss, *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(plain, seen) for plain, seen in zip(*results, strict=True))
    assert len(metric.report().point_status) == 5


def test_nothing_stays_on_the_model():
    model = nn.Sequential(nn.Linear(3, 4), JumpstartReLU(), nn.ReLU())
    watched(model, [torch.randn(5, 3)])
    assert_unwatched(model)
    with pytest.raises(ZeroDivisionError), UnitUsage().watch(model):
        raise ZeroDivisionError
    assert_unwatched(model)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        unit_usage(model, [torch.randn(5, 4)])
    assert_unwatched(model)
    assert model.training


def test_a_forward_that_raises_leaves_no_half_of_a_batch():
    class Fragile(Parallel):
        def forward(self, *inputs: Tensor) -> list[Tensor]:
            outputs = [self.activations[0](inputs[0])]
            if inputs[1] is None:
                self.activations[2](inputs[0])
                raise ZeroDivisionError
            return [*outputs, self.activations[1](inputs[1])]

    def refuse(*_: object) -> None:
        raise ZeroDivisionError

    inputs = [mixed(12, 4), mixed(12, 3)]
    model = Fragile(JumpstartReLU(), nn.ReLU(), nn.ReLU()).eval()
    metric = UnitUsage()
    with metric.watch(model):
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                model(torch.ones(2, 4), None)
        refusal = model.register_forward_pre_hook(refuse, prepend=True)
        with pytest.raises(ZeroDivisionError):
            model(*inputs)
        refusal.remove()
        model(*inputs)
    assert_ratios(metric, definition(inputs))


@pytest.mark.parametrize("activation", [JumpstartReLU, nn.ReLU])
def test_inplace_layers_are_seen_before_they_write(activation):
    inputs = layer_inputs()
    model = Parallel(*(activation(inplace=True) for _ in inputs)).eval()
    assert_ratios(watched(model, [x.clone() for x in inputs]), definition(inputs))


@pytest.mark.parametrize("activation", [JumpstartReLU, nn.ReLU])
def test_a_module_called_twice_is_two_layers(activation):
    relu = activation()
    inputs = [mixed(12, 4), mixed(12, 3, seed=1)]
    metric = watched(Parallel(relu, relu).eval(), inputs)
    assert list(metric.report().layers) == ["activations.0", "activations.0#2"]
    assert_ratios(metric, definition(inputs))


def test_layers_chooses_any_module():
    x = torch.randn(6, 3)
    model = nn.Sequential(nn.Linear(3, 4), nn.Identity(), nn.Linear(4, 4), nn.ReLU())
    metric = watched(model, [x], layers=["1"])
    assert list(metric.report().layers) == ["1"]
    assert_ratios(metric, definition([model[0](x)]))


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_every_activation_is_watched_plain_and_with_jumpstart(layer):
    x = mixed(6, 3, 5)
    for activation in (layer.plain(), layer()):
        assert_ratios(watched(nn.Sequential(activation).eval(), [x]), definition([x]))


def test_layers_of_others_are_watched():
    class JumpstartELU(JumpstartActivation, nn.ELU):
        activation = "none"
        plain = nn.ELU

        def __init__(self):
            nn.ELU.__init__(self)
            self._set_options(1, "sample", 1.0, "single")

    assert list(find_layers(nn.Sequential(nn.Linear(2, 2), JumpstartELU()), None)) == ["1"]


@pytest.mark.parametrize("unit_dim", [-1, 2])
def test_unit_dim_of_plain_layers(unit_dim):
    x = mixed(6, 3, 5)
    metric = watched(Parallel(nn.ReLU()), [x.transpose(1, 2)], unit_dim=unit_dim)
    assert_ratios(metric, definition([x]))


def test_positions_are_reduced_to_their_sample():
    inputs = [mixed(6, 3, 5), mixed(6, 3, 2, 2, seed=1), mixed(6, 3, seed=2)]
    model = Parallel(*(JumpstartReLU(points="position") for _ in inputs)).eval()
    assert_ratios(watched(model, inputs), definition(inputs))


def test_a_layer_without_the_samples_in_dimension_0_is_left_out_of_the_points():
    inputs = [mixed(6, 3), mixed(18, 4, seed=1), mixed(6, 2, seed=2)]
    model = Parallel(*(JumpstartReLU() for _ in inputs)).eval()
    # The second layer counts the samples by chance in the second batch: out all the same.
    batches = [inputs, [inputs[0], inputs[1][:6], inputs[2]]]
    report = watched(model, *batches).report()
    matched = definition([torch.cat([inputs[0]] * 2), torch.cat([inputs[2]] * 2)])
    for name in NAMES[3:]:
        assert report[name] == pytest.approx(matched[name])
    for name in NAMES[:3]:
        assert report[name] == pytest.approx(definition(inputs)[name])
    assert report.point_layers == ("activations.0", "activations.2")
    points = torch.cat([inputs[1], inputs[1][:6]])
    counts = [sum(status_of(point) == status for point in points) for status in (-1, 0, 1)]
    assert list(report.layers["activations.1"][4:]) == [24, *counts]
    assert str(report).endswith("other number of points than most layers, not in the total: activations.1")


def test_no_layer_with_the_samples_gives_no_ratio_over_points():
    model = Parallel(nn.ReLU(), nn.ReLU())
    report = watched(model, [mixed(6, 3), mixed(4, 3)], [mixed(4, 3), mixed(6, 3)]).report()
    assert report.point_layers == ("activations.0",)
    model = Parallel(nn.ReLU(), nn.ReLU(), nn.ReLU())
    a, b = mixed(6, 3), mixed(4, 3)
    report = watched(model, [a, a, b], [b, a, a], [a, b, a]).report()
    assert all(math.isnan(report[name]) for name in NAMES[3:])
    assert not any(math.isnan(report[name]) for name in NAMES[:3])
    assert "nan" in str(report)


def test_a_model_within_itself_and_two_metrics_at_once():
    class Recursive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = JumpstartReLU()

        def forward(self, x: Tensor, depth: int = 2) -> Tensor:
            return self.relu(self(x, depth - 1) - 1) if depth else x

    x = mixed(6, 3)
    model = Recursive().eval()
    outer = UnitUsage()
    with outer.watch(model):
        inner = watched(model, [x])
    expected = definition([x - 1, torch.relu(x - 1) - 1])
    for metric in (outer, inner):
        assert metric.update_count == 1
        assert_ratios(metric, expected)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_recomputation_of_checkpointing_does_not_count(use_reentrant):
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = JumpstartReLU()

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.relu, x, use_reentrant=use_reentrant)

    x = mixed(6, 3).requires_grad_()
    model = Checkpointed()
    metric = UnitUsage()
    with metric.watch(model):
        for _ in range(2):
            model(x).sum().backward()
    clear_records(model)
    assert metric.update_count == 2
    assert_ratios(metric, definition([x.detach()]))


def test_a_compiled_model_is_watched():
    x = torch.randn(6, 3)
    model = network().eval()
    expected = dict(unit_usage(model, [x, x]))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    compiled(x)
    assert dict(watched(compiled, [x], [x]).report()) == expected
    assert dict(unit_usage(compiled, [x, x])) == expected
    plain = nn.Sequential(model[0], nn.ReLU(), model[2], nn.ReLU()).eval()
    compiled = torch.compile(plain, backend="eager", fullgraph=True)
    with torch.no_grad():
        compiled(x)  # what is compiled by now runs no hooks of its layers
    assert dict(unit_usage(compiled, [x, x])) == expected
