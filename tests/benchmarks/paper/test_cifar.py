"""``benchmarks/paper/cifar*.py``: every technique, on made-up images of two kinds."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import jumpstart_kernels as jk
from benchmarks.paper import cifar, cifar_full
from benchmarks.paper.cifar_diagnosis import diagnose, effective_rank
from benchmarks.paper.cifar_images import Images
from benchmarks.paper.cifar_networks import build_network, convolutions, tat_slope
from benchmarks.paper.cifar_penalties import PenaltyOf, order_statistics, slacks
from benchmarks.paper.cifar_techniques import TECHNIQUES, Penalty
from benchmarks.paper.cifar_training import KernelMuon, Schedule, Training, as_matrix
from benchmarks.paper.report import cifar as report
from benchmarks.paper.sweep import CPU

SMALL = Schedule(steps=4, batch_size=20, evaluations=2, width=4, blocks=(1, 1))
MUON = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")


def techniques(*names: str) -> list:
    """Parameters of a test; by default all techniques."""
    return [
        pytest.param(name, marks=MUON if TECHNIQUES[name].optimizer == "muon" else ())
        for name in names or TECHNIQUES
    ]


@pytest.fixture
def images() -> Images:
    """Dark and bright images."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % 2
    x = torch.randint(100, (80, 3, 32, 32), generator=generator) + 150 * labels.view(-1, 1, 1, 1)
    x = x.to(torch.uint8)
    return Images(x[:60], labels[:60], x[60:], labels[60:], 2)


@pytest.mark.parametrize("name", techniques())
def test_every_technique_trains(name, images):
    technique = TECHNIQUES[name]
    training = Training(technique, technique.learning_rates[0], technique.lams[-1], 0, SMALL, images, CPU)
    record = training.run(unseen=(images.x_test[:10], images.y_test[:10]), diagnosed=True)
    assert [each["step"] for each in record["course"]] == [2, 4]
    assert [each["step"] for each in record["diagnoses"]] == [0, 2, 4]
    assert record["accuracy"] == record["course"][-1]["accuracy"]
    assert all(0 <= record[f"{kind}_accuracy"] <= 1 for kind in ("train", "unseen"))
    penalties = [each["penalty"] for each in record["course"]]
    assert all(penalty > 0 for penalty in penalties) or technique.penalty is None or "selu" in name
    assert technique.penalty is not None or penalties == [0, 0]
    layers = 7
    for each in record["diagnoses"]:
        assert len(each["cosines"]) == layers and all(-1 <= value <= 1 for value in each["cosines"])
        assert len(each["gradients"]) == layers + (2 if technique.skips else 0)
        gradients = [gradient for gradient in each["gradients"] if gradient is not None]
        assert all(map(math.isfinite, gradients)) and each["rank"] >= 1
        assert len(gradients) == len(each["gradients"]) or technique.fixup
    json.dumps(record, allow_nan=False)


@pytest.mark.parametrize("name", techniques("jumpstart_adamw", "looks_linear_jumpstart_muon"))
def test_a_network_learns_to_tell_the_kinds_apart(name, images):
    schedule = replace(SMALL, steps=40, width=8)
    record = Training(TECHNIQUES[name], 5e-3, 0.1, 0, schedule, images, CPU).run()
    assert record["accuracy"] >= 0.9 and not record["diverged"]
    assert record["course"][-1]["loss"] < record["course"][0]["loss"]


def test_a_network_that_diverges_stops(images):
    record = Training(TECHNIQUES["plain_sgd"], 1e30, 0.0, 0, SMALL, images, CPU).run()
    assert record["diverged"] and len(record["course"]) < 2
    json.dumps(record, allow_nan=False)


def test_rate_and_weight_follow_their_schedules(images):
    schedule = replace(SMALL, steps=100)
    training = Training(TECHNIQUES["lam_warm_up_adamw"], 1e-3, 0.5, 0, schedule, images, CPU)
    factors, weights = [], []
    for training.step in range(101):
        factors.append(training.factor())
        weights.append(training.weight())
    assert factors[0] == 0.1 and factors[9] == factors[10] == 1 and factors[55] == pytest.approx(0.5)
    assert factors[100] == 0 and factors[10:] == sorted(factors[10:], reverse=True)
    assert weights[0] == pytest.approx(0.015) and weights[32] < weights[33] == weights[100] == 0.5


def test_penalties_of_pixels_are_the_packages(images):
    x = images.x_test[:8].float() / 255 - 0.5
    values = []
    for name in ("jumpstart_adamw", "plain_adamw"):
        torch.manual_seed(0)
        model = build_network(TECHNIQUES[name], 4, 2, x, blocks=(1, 1))
        model = model if name.startswith("jumpstart") else jk.replace_relu(model)
        model(x)
        values.append(jk.penalty(model).item())
    assert values[0] == pytest.approx(values[1]) and values[0] > 0


@pytest.mark.parametrize("points", ("sample", "position"))
@pytest.mark.parametrize("units", ("pixels", "sample_means", "quantiles"))
def test_slacks_are_those_of_the_definition(units, points):
    x = torch.randn(5, 3, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    penalty = Penalty(units=units, points=points, margin=0.7, quantile=0.05)
    found = slacks(x, penalty)
    expected = []
    for unit in x.unbind(1):
        ordered = unit.flatten().sort().values
        if units == "pixels":
            high, low = ordered[-1], ordered[0]
        elif units == "sample_means":
            high, low = unit.mean((1, 2)).max(), unit.mean((1, 2)).min()
        else:  # 6 of 120 values have to reach the margin on either side
            high, low = ordered[-6], ordered[5]
        expected.append(((0.7 - high).clamp(min=0) + (0.7 + low).clamp(min=0)) / 2)
    torch.testing.assert_close(found[0], torch.stack(expected))
    of_points = x.flatten(1) if points == "sample" else x.movedim(1, -1).reshape(-1, 3)
    high, low = of_points.amax(1), of_points.amin(1)
    torch.testing.assert_close(found[1], ((0.7 - high).clamp(min=0) + (0.7 + low).clamp(min=0)) / 2)


def test_order_statistics_pass_their_gradient_to_the_elements_they_are():
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    found, weights = order_statistics(x, [3, 36]), torch.tensor([1.0, 2.0]).double()
    (gradient,) = torch.autograd.grad((found * weights).sum(), x)
    values = [x.kthvalue(4, 1).values, x.kthvalue(37, 1).values]
    (expected,) = torch.autograd.grad((values[0] + 2 * values[1]).sum(), x)
    assert torch.equal(found, torch.stack(values, 1)) and torch.equal(gradient, expected)


def test_penalties_forget_what_they_have_seen(images):
    technique = TECHNIQUES["sample_means_adamw"]
    x = images.x_test[:4].float() / 255
    model = build_network(technique, 4, 2, x, blocks=(1, 1))
    penalty = PenaltyOf(model, technique)
    model(x)
    first = penalty()
    assert not penalty.inputs and first.requires_grad
    model.eval()(x)
    assert not penalty.inputs


def test_the_slope_of_tat_is_that_of_its_authors():
    # dks 0.1.2: 49 times _leaky_relu_cmap(c, 0.4259) takes 0 to 0.90000.
    assert tat_slope(49) == pytest.approx(0.4259, abs=5e-5)
    assert tat_slope(10) < tat_slope(100) < 1


@pytest.mark.parametrize("initialization", ("delta_orthogonal", "lsuv", "he_fan_in"))
def test_initializations_keep_the_scale(initialization):
    torch.manual_seed(0)
    technique = replace(TECHNIQUES["plain_adamw"], initialization=initialization)
    x = torch.randn(16, 3, 16, 16)
    model = build_network(technique, 32, 2, x, blocks=(2, 2))
    seen = []
    for layer in convolutions(model):
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output.std().item()))
    model(x)
    assert min(seen) > 0.4 and max(seen) < 2.5


def test_fixup_starts_at_the_skip_connections():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 16, 16)
    model = build_network(TECHNIQUES["fixup_muon"], 4, 2, x, blocks=(2,))
    stem = model[:2](x)
    block = model[2]
    torch.testing.assert_close(block(stem), block.skip(stem).relu())
    assert not model(x).any()


@MUON
def test_muon_moves_kernels_as_matrices():
    torch.manual_seed(0)
    kernels = [
        nn.Parameter(torch.randn(shape).to(memory_format=torch.channels_last))
        for shape in ((8, 4, 3, 3), (8, 4, 1, 1), (4, 8, 3, 3))
    ]
    before = [as_matrix(kernel.detach()).clone() for kernel in kernels]
    ours = KernelMuon(kernels, 0.1)
    for kernel in kernels:
        kernel.grad = torch.randn_like(kernel)
    matrices = [nn.Parameter(matrix.clone()) for matrix in before]
    theirs = torch.optim.Muon(matrices, 0.1, weight_decay=0.0)
    for matrix, kernel in zip(matrices, kernels, strict=True):
        matrix.grad = as_matrix(kernel.grad).clone()
    ours.step()
    theirs.step()
    for matrix, kernel, old in zip(matrices, kernels, before, strict=True):
        assert torch.equal(as_matrix(kernel.detach()), matrix.detach()) and not torch.equal(matrix, old)
    with pytest.raises(ValueError, match="channels_last"):
        KernelMuon([nn.Parameter(torch.randn(8, 4, 3, 3))], 0.1)


def test_the_effective_rank_counts_directions():
    assert effective_rank(torch.eye(6)) == pytest.approx(6)
    assert effective_rank(torch.ones(6, 4)) == pytest.approx(1)


def test_a_diagnosis_leaves_the_network_as_it_was(images):
    x = images.x_test[:8].float() / 255
    model = build_network(TECHNIQUES["batch_norm_skips_adamw"], 4, 2, x, blocks=(1, 1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    diagnose(model, x, images.y_test[:8])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


@pytest.fixture
def inline(monkeypatch, images):
    """The commands, on the made-up images and in this process."""
    from inline_pool import InlinePool

    from benchmarks.paper import sweep

    monkeypatch.setattr(sweep, "ProcessPoolExecutor", InlinePool)
    for module in (cifar, cifar_full):
        monkeypatch.setattr(module, "load_images", lambda path, train, test: images)
    cifar.load_parts.cache_clear()
    yield
    cifar.load_parts.cache_clear()


def test_the_best_of_tuning_is_trained_in_full_and_reported(inline, tmp_path, capsys):
    path = tmp_path / "paper_cifar.json"
    words = ["--small", "--data", "images.npz", "--output", str(path), "--seeds", "2"]
    words += ["--only", "plain_adamw", "--only", "jumpstart_adamw"]
    assert cifar.main(words) == 0
    record = json.loads(path.read_text())
    runs = [run for task in record["tasks"].values() for run in task["runs"]]
    assert record["remaining"] == 0
    for name, tried in (("plain_adamw", 5), ("jumpstart_adamw", 15)):
        tuned = [run for run in runs if run["name"] == name and run["tuning"]]
        full = [run for run in runs if run["name"] == name and not run["tuning"]]
        assert (len(tuned), len(full)) == (tried, cifar.FINALISTS + 1)
        best = cifar.ranked(runs, name, tuning=True)[0]
        assert best["accuracy"] == max(run["accuracy"] for run in tuned if not run["diverged"])
        assert all(run["unseen_accuracy"] is None for run in tuned)
        assert len(report.trained(record)[name]) == 2
    assert "40 training images" in report.conditions(record)
    assert report.technique_table(record).count("\n") == 3
    assert report.detail_table(record).count("\n") == 3
    assert len(report.draw_accuracies(record).axes) == 1
    assert len(report.diagnosed(record)) == 2
    assert len(report.draw_insides(record).axes) >= 4
    assert cifar.main([*words, "--seeds", "3"]) == 2
    assert "results for other settings" in capsys.readouterr().err


def test_the_full_networks_take_what_was_tuned(inline, tmp_path, capsys, monkeypatch):
    tuned, path = tmp_path / "tuned.json", tmp_path / "full.json"
    monkeypatch.setattr(cifar_full, "NETWORKS", [cifar_full.Network("jumpstart_adamw", 1.5)])
    words = ["--small", "--data", "images.npz", "--tuned", str(tuned), "--output", str(path)]
    words += ["--epochs", "2", "--width", "8", "--device", "cpu"]
    tuning = ["--small", "--data", "images.npz", "--output", str(tuned), "--seeds", "1", "--only"]
    assert cifar.main([*tuning, "plain_adamw"]) == 0
    assert cifar_full.main(words) == 2
    assert "--tuned must have results of jumpstart_adamw" in capsys.readouterr().err
    assert cifar.main([*tuning, "jumpstart_adamw"]) == 0
    assert cifar_full.main(words) == 0
    record = json.loads(path.read_text())
    network = record["networks"]["jumpstart_adamw 1.5"]
    best = report.trained(json.loads(tuned.read_text()))["jumpstart_adamw"][0]
    assert network["finished"] and network["learning_rate"] == pytest.approx(best["learning_rate"] / 2)
    assert network["lam"] == best["lam"] and network["schedule"]["growth"] == 1.5
    assert len(network["accuracies"]) == len(network["course"])
    network["accuracy"] = -1.0  # to see that it is not trained again
    path.write_text(json.dumps(record))
    assert cifar_full.main(words) == 0
    assert json.loads(path.read_text())["networks"]["jumpstart_adamw 1.5"]["accuracy"] == -1.0
