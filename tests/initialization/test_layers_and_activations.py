"""looks_linear_: single layers, norms and activations."""

import pytest
import torch
from initialization.networks import LINEAR, double, initialize, is_odd
from torch import nn

import jumpstart_kernels as jk
from benchmarks.models import pre_activations


def test_batch_norm_keeps_pairs_in_training():
    layers = [nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)]
    model, report = initialize(*layers, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 3))
    assert report.is_linear
    x = torch.randn(16, 2, 3, 3).double()
    for z in pre_activations(model.train(), x)[1]:
        torch.testing.assert_close(z[:, : z.shape[1] // 2], -z[:, z.shape[1] // 2 :])


def test_batch_norm_with_other_weights_for_twins_does_not():
    norm = nn.BatchNorm1d(8)
    nn.init.normal_(norm.weight)
    model, report = initialize(nn.Linear(4, 8), norm, nn.ReLU(), nn.Linear(8, 2))
    assert report["3"].reads == "units"
    assert not report.is_linear
    assert norm.weight.std() > 0.1


@pytest.mark.parametrize(("norm", "reads"), [
    (lambda: nn.GroupNorm(1, 8), "pairs"), (lambda: nn.GroupNorm(4, 8), "pairs"),
    (lambda: nn.GroupNorm(2, 8), "pairs"), (lambda: nn.InstanceNorm1d(8), "pairs"),
])  # fmt: skip
def test_norms_of_samples(norm, reads):
    model, report = initialize(nn.Conv1d(2, 8, 1), norm(), nn.ReLU(), nn.Conv1d(8, 2, 1))
    assert report["3"].reads == reads
    assert "depends on the sample" in next(iter(report.notes))
    assert is_odd(model, torch.randn(3, 2, 5).double())


def test_groups_across_the_halves_are_no_pairs():
    _, report = initialize(nn.Conv1d(2, 12, 1), nn.GroupNorm(3, 12), nn.ReLU(), nn.Conv1d(12, 2, 1))
    assert report["3"].reads == "units"


def test_kernels():
    center, valid = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3)
    strided, skipping = nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 1, stride=2)
    layers = [center, valid, strided, skipping]
    _, report = initialize(*[each for layer in layers for each in (layer, nn.ReLU())])
    assert [each.kernel for each in report.values()] == ["center", "patch", "patch", ""]
    assert torch.count_nonzero(center.weight[0, 0]) == 1 and center.weight[0, 0, 1, 1] != 0
    assert torch.count_nonzero(valid.weight) == valid.weight.numel()


def test_odd_numbers_of_units_have_no_pairs():
    model, report = initialize(nn.Linear(64, 63), nn.ReLU(), nn.Linear(63, 64), nn.ReLU(), nn.Linear(64, 1))
    assert report["0"] == ("units", "units", "", "its 63 units are an odd number")
    assert report["2"].reads == "units" and report["2"].makes == "pairs"
    assert not report.is_linear
    # The ReLU halves the mean square of what has no pairs.
    assert model[2].weight.square().sum(1).mean().item() == pytest.approx(2)
    z = model[2](model[1](model[0](torch.randn(2000, 64).double())))
    assert z.square().mean().item() == pytest.approx(1, rel=0.25)


def test_layers_without_a_relu_have_no_pairs():
    layers = nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)
    _, report = initialize(*layers)
    assert [each.makes for each in report.values()] == ["units", "units", "pairs", "units"]
    assert report["0"].reason == "no ReLU follows its units"


@pytest.mark.parametrize("layer", [nn.Linear(4, 6), nn.Conv2d(2, 4, 3, padding=1)])
def test_a_layer_alone(layer):
    before = layer.weight.clone()
    report = jk.looks_linear_(layer)
    assert report["the model itself"].makes == "units" and report.is_linear
    assert not torch.equal(layer.weight, before) and not layer.bias.any()


def test_statistics_of_a_batch_norm_that_has_trained():
    norm = nn.BatchNorm1d(8)
    model = nn.Sequential(nn.Linear(4, 8), norm, nn.ReLU(), nn.Linear(8, 2)).double()
    x, y = torch.randn(2, 64, 4).double()
    model(3 * x + 1)
    report = jk.looks_linear_(model)
    assert report["3"].reads == "pairs" and not report.is_linear
    assert list(report.notes) == [
        "1 (BatchNorm1d): its running statistics are not those of pairs, which reset_running_stats() mends"
    ]
    norm.reset_running_stats()
    assert jk.looks_linear_(model).is_linear
    model.eval()
    torch.testing.assert_close(model(x + y), model(x) + model(y))


@pytest.mark.parametrize(("activation", "makes", "is_odd_then"), [
    (nn.ReLU6, "pairs", True), (nn.Hardswish, "pairs", True), (nn.Softplus, "pairs", True),
    (nn.LogSigmoid, "pairs", True), (nn.ELU, "units", False), (nn.Mish, "units", False),
    (nn.Tanh, "units", True),
])  # fmt: skip
def test_other_activations(activation, makes, is_odd_then):
    model, report = initialize(nn.Linear(4, 8), activation(), nn.Linear(8, 2))
    assert report["0"].makes == makes
    x, y = torch.randn(2, 50, 4).double() * 4
    assert is_odd(model, x) == is_odd_then
    assert report.is_linear == torch.allclose(model(x + y), model(x) + model(y), atol=1e-6)
    assert not any("though odd" in note for note in report.notes) or is_odd_then


def test_cubic_interpolation_is_below_zero_between_samples():
    layers = [nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Upsample(scale_factor=2, mode="bicubic"), nn.ReLU()]
    model, report = initialize(*layers, nn.Conv2d(8, 1, 1))
    x, y = torch.randn(2, 2, 1, 5, 5).double()
    assert not torch.allclose(model(x + y), model(x) + model(y)) and not report.is_linear


def test_hooks_are_noted():
    model, _ = double(*LINEAR["leaky"])
    model[1].register_forward_hook(lambda module, inputs, output: output + 1)
    assert list(jk.looks_linear_(model).notes) == ["1 (LeakyReLU): it has hooks"]
    model, _ = double(*LINEAR["leaky"])
    model.register_forward_pre_hook(lambda module, inputs: (inputs[0].abs(),))
    assert list(jk.looks_linear_(model).notes) == ["the model itself has hooks"]


@pytest.mark.parametrize(("kernel", "dilation", "padding", "keeps"), [
    (2, 1, "same", True), (2, 2, "same", False), (3, 2, "same", True), (4, 3, 5, False), (4, 3, 6, True),
    (2, 2, 1, False), (3, 2, 2, True), (3, 2, 1, False),
])  # fmt: skip
def test_a_center_passes_on_every_position(kernel, dilation, padding, keeps):
    model, report = initialize(nn.Conv1d(1, 1, kernel, dilation=dilation, padding=padding))
    assert (report["0"].kernel == "center") == keeps
    if keeps:
        pulses = torch.eye(6).double().unsqueeze(1)
        assert model(pulses).abs().sum((1, 2)).min() > 0.5
