"""Dormancy and effective rank: against their definitions, in the metric and its report."""

import math

import pytest
import torch
from torch import Tensor, nn
from usage.definition import Parallel, assert_unwatched, definition, mixed, network

import jumpstart_kernels as jk
from jumpstart_kernels.usage.loader import unit_usage
from jumpstart_kernels.usage.metric import UnitUsage
from jumpstart_kernels.usage.outputs import effective_rank, sum_outputs


def dormancy_definition(outputs: Tensor) -> list[float]:
    """Eq. 1 of Sokar et al., unit by unit; units are dimension 1."""
    means = [float(outputs[:, c].double().abs().mean()) for c in range(outputs.shape[1])]
    mean = sum(means) / len(means)
    return [each / mean if mean else 0.0 for each in means]


def rank_definition(outputs: Tensor) -> float:
    """Of the matrix of samples and positions by units, from its singular values; units are dimension 1."""
    values = torch.linalg.svdvals(outputs.double().movedim(1, -1).flatten(0, -2))
    shares = [float(value / values.sum()) for value in values if value > 0]
    return math.exp(-sum(share * math.log(share) for share in shares)) if shares else 0.0


@pytest.mark.parametrize("activation", [nn.ReLU, jk.JumpstartReLU, nn.Tanh, nn.LeakyReLU, nn.GELU])
@pytest.mark.parametrize("shape", [(12, 5), (12, 5, 3), (12, 5, 2, 3)])
def test_scores_means_and_ranks_are_those_of_the_definition(activation, shape):
    batches = [mixed(*shape, seed=seed).double() for seed in (0, 2)]
    layer = activation()
    report = unit_usage(nn.Sequential(layer), [*batches, batches[0][:5]], dormancy=True, effective_rank=True)
    with torch.no_grad():
        outputs = layer.eval()(torch.cat([*batches, batches[0][:5]]))
    assert report.dormancy["0"].dtype == torch.float64
    assert report.dormancy["0"].tolist() == pytest.approx(dormancy_definition(outputs), abs=1e-14)
    assert report.unit_mean["0"].tolist() == pytest.approx(
        outputs.movedim(1, 0).flatten(1).mean(1).tolist(), abs=1e-14
    )
    assert report.effective_ranks["0"] == pytest.approx(rank_definition(outputs), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_dtypes_are_summed_in_float32_at_least(dtype):
    x = torch.full((4096, 3), 1.001).to(dtype)  # a running sum in 8 or 11 bits would stop growing
    outputs = sum_outputs(x, 1, products=True)
    expected = x.double()
    torch.testing.assert_close(outputs.magnitude.double(), expected.sum(0), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(outputs.products, expected.mT @ expected, rtol=1e-12, atol=0.0)
    assert outputs.magnitude.dtype == torch.float32 and outputs.values == 4096


def test_dormant_units_are_those_at_or_below_tau():
    outputs = torch.tensor([[0.0, 1.0, 3.0, 8.0]]).repeat(6, 1)  # scores 0, 1/3, 1, 8/3
    report = unit_usage(nn.Sequential(nn.ReLU()), [outputs], dormancy=True)
    assert report.dormant(0)["0"].tolist() == [True, False, False, False]
    assert report.dormant(1.0)["0"].tolist() == [True, True, True, False]
    assert report.dormant_ratio(1.0) == 0.75 and report.dormant_ratio() == 0.25
    assert unit_usage(nn.Sequential(nn.ReLU()), [outputs - 9], dormancy=True).dormant(0)["0"].all()
    for tau, error in (("0.1", TypeError), (True, TypeError), (-0.1, ValueError), (math.nan, ValueError)):
        with pytest.raises(error, match="tau must be"):
            report.dormant(tau)
    with pytest.raises(ValueError, match=r"no dormancy scores.*dormancy=True"):
        unit_usage(nn.Sequential(nn.ReLU()), [outputs]).dormant()


def test_not_a_number_makes_no_unit_dormant():
    x = torch.rand(6, 3)
    x[2, 1], x[:, 2] = math.nan, 0.0
    report = unit_usage(nn.Sequential(nn.ReLU()), [x], dormancy=True, effective_rank=True)
    assert not report.dormant()["0"].any() and math.isnan(report.effective_ranks["0"])


def test_linked_layers_have_scores_for_both_halves():
    x = mixed(9, 4).double()
    model = nn.Sequential(nn.Identity(), jk.JumpstartLinkedReLU())
    report = unit_usage(model, [x, x[:2]], dormancy=True, effective_rank=True)
    outputs = torch.cat([x, x[:2]])
    outputs = torch.cat([outputs.relu(), (-outputs).relu()], 1)
    assert report.dormancy["1"].tolist() == pytest.approx(dormancy_definition(outputs), abs=1e-14)
    assert report.effective_ranks["1"] == pytest.approx(rank_definition(outputs), rel=1e-6)
    assert report.layers["1"].units == 4


def test_the_rank_of_few_directions():
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(7, 7, generator=generator, dtype=torch.float64)).Q
    equal = torch.diag(torch.tensor([1.0, 1, 1, 0, 0, 0, 0], dtype=torch.float64)) @ basis
    assert effective_rank(equal.mT @ equal) == pytest.approx(3, rel=1e-6)
    assert effective_rank(torch.zeros(4, 4)) == 0.0
    assert effective_rank(torch.ones(5, 5)) == pytest.approx(1, rel=1e-6)


def test_the_table_has_columns_of_dormancy_and_rank():
    first, second = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    metric, plain = UnitUsage(dormancy=True, effective_rank=True), UnitUsage()
    model = Parallel(nn.ReLU(), nn.ReLU())
    with metric.watch(model), plain.watch(model):
        model(first, second)
    assert_unwatched(model)
    lines, without = (str(each.report()).splitlines() for each in (metric, plain))
    ends = ["  outputs", "  dormant  rank", "    50.0%   1.0", "     0.0%   2.0"]
    assert [line.endswith(end) for line, end in zip(lines, ends, strict=False)] == [True] * 4
    assert lines[5].endswith("    25.0%") and lines[6:] == without[6:]


def test_without_the_options_no_output_is_read(monkeypatch):
    monkeypatch.setattr("jumpstart_kernels.usage.outputs.sum_outputs", None)
    model, metric = network(), UnitUsage()
    with metric.watch(model):
        assert not any(module._forward_hooks for module in model.modules() if module is not model)
        model(torch.randn(4, 3))
    assert "output_sums" not in metric.metric_state
    with pytest.raises(TypeError, match="not callable"):
        unit_usage(model, [torch.randn(4, 3)], dormancy=True)  # the patch is where they would be read


def test_watching_in_training_leaves_outputs_penalty_and_gradients_alone():
    x, results = torch.randn(5, 3), []
    for options in ({}, {"dormancy": True, "effective_rank": True}):
        model, metric = network(), UnitUsage(**options)
        with metric.watch(model):
            output = model(x)
        loss = output.sum() + jk.penalty(model)
        loss.backward()
        results.append([output, loss, *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(plain, seen) for plain, seen in zip(*results, strict=True))


def test_forward_merge_and_reset():
    parts = [mixed(5, 4).double(), mixed(7, 4, seed=2).double()]
    model = nn.Sequential(nn.ReLU())
    whole, first, second = (UnitUsage(dormancy=True, effective_rank=True) for _ in range(3))
    updates = []
    for x in parts:
        outputs = {"0": sum_outputs(x.relu(), 1, products=True)}
        updates.append((jk.layer_extrema(model, x), None, outputs))
        whole(*updates[-1])
    first.update(*updates[0])
    second.update(*updates[1])
    first.merge_state(second)
    outputs = torch.cat(parts).relu()
    for metric in (whole, first):
        report = metric.report()
        assert dict(report) == pytest.approx(definition([torch.cat(parts)]))
        assert report.dormancy["0"].tolist() == pytest.approx(dormancy_definition(outputs), abs=1e-14)
        assert report.effective_ranks["0"] == pytest.approx(rank_definition(outputs), rel=1e-6)
    whole.reset()
    whole.update(*updates[1])
    expected = dormancy_definition(parts[1].relu())
    assert whole.report().dormancy["0"].tolist() == pytest.approx(expected, abs=1e-14)
    with pytest.raises(ValueError, match="incoming_state must have dormancy=True"):
        whole.merge_state(UnitUsage(effective_rank=True))
    for metric, update, match in [
        (whole, updates[0][:1], "outputs must have every layer of extrema, not seen: 0"),
        (UnitUsage(), updates[0], "outputs must be None for a metric without them"),
    ]:
        for call in (metric.update, metric):
            with pytest.raises(ValueError, match=match):
                call(*update)
    with pytest.raises(TypeError, match="dormancy must be True or False"):
        UnitUsage(dormancy=0.1)
