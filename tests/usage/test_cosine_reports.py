"""The mean cosines between samples in a UnitUsage and its report."""

import math

import pytest
import torch
from fused_bias import with_and_without
from torch import nn
from usage.definition import (
    Parallel,
    cosine_definition,
    definition,
    mixed,
    network,
    watched,
)

import jumpstart_kernels as jk
from jumpstart_kernels import JumpstartReLU
from jumpstart_kernels.usage.cosines import sample_cosine
from jumpstart_kernels.usage.loader import unit_usage
from jumpstart_kernels.usage.metric import UnitUsage


def test_a_bias_left_to_the_activation_counts():
    models = with_and_without(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU()))
    x, found = torch.randn(7, 4, dtype=torch.float64), []
    for model in models:
        for layer in (model[0], model[2]):
            nn.init.normal_(layer.bias, std=3.0)
        model.load_state_dict(models[0].state_dict())
        metric = UnitUsage(cosines=True)
        with metric.watch(model):
            model(x)  # in training, where the bias is left
        found.append(metric.report().cosines)
    assert models[0][0].deferred_bias() is not None and models[1][0].bias is not None
    assert found[0] == pytest.approx(found[1], abs=1e-12)
    inner = models[1][0](x)
    expected = [cosine_definition(inner), cosine_definition(models[1][2](inner.relu()))]
    assert list(found[1].values()) == pytest.approx(expected, abs=1e-12)


def test_watching_in_training_leaves_penalty_and_gradients_alone():
    x, results = torch.randn(5, 3), []
    for cosines in (False, True):
        model, metric = network(), UnitUsage(cosines=cosines)
        with metric.watch(model):
            output = model(x)
        loss = output.sum() + jk.penalty(model)
        loss.backward()
        results.append([output, loss, *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(plain, seen) for plain, seen in zip(*results, strict=True))


def test_a_report_has_the_mean_over_the_pairs_of_all_batches():
    batches = [mixed(n, 4, seed=n) for n in (5, 2, 1, 0, 8)]
    model = nn.Sequential(nn.Identity(), JumpstartReLU())
    report = unit_usage(model, batches, cosines=True)
    pairs = [(len(x) * (len(x) - 1), cosine_definition(x)) for x in batches if len(x) > 1]
    expected = sum(n * cosine for n, cosine in pairs) / sum(n for n, _ in pairs)
    assert report.cosines == pytest.approx({"1": expected}, abs=1e-6)
    assert dict(report) == pytest.approx(definition([torch.cat(batches)]))
    alone = unit_usage(model, [mixed(1, 4)], cosines=True)
    assert math.isnan(alone.cosines["1"]) and str(alone).splitlines()[2].endswith(" -")
    assert unit_usage(model, batches).cosines == {}


def test_the_table_has_a_column_of_cosines():
    first = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    second = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    metric, plain = UnitUsage(cosines=True), UnitUsage()
    model = Parallel(nn.ReLU(), nn.ReLU())
    with metric.watch(model), plain.watch(model):
        model(first, second)
    lines, without = (str(each.report()).splitlines() for each in (metric, plain))
    ends = ["  samples", "   cosine", "    1.000", "    0.707", "---------"]
    assert [line.endswith(end) for line, end in zip(lines, ends, strict=False)] == [True] * 5
    assert [line[: -len(end)].rstrip() for line, end in zip(lines, ends, strict=False)] == without[:5]
    assert lines[5:] == without[5:]


def test_without_the_option_nothing_is_read(monkeypatch):
    model = nn.Sequential(nn.Linear(3, 4), JumpstartReLU())
    monkeypatch.setattr("jumpstart_kernels.usage.cosines.sample_cosine", None)
    metric = UnitUsage()
    with metric.watch(model):
        assert not model[1]._forward_pre_hooks
        model(torch.randn(4, 3))
    assert "cosine_means" not in metric.metric_state and metric.report().cosines == {}
    with pytest.raises(TypeError, match="not callable"):
        unit_usage(model, [torch.randn(4, 3)], cosines=True)  # the patch is where they would be computed


def test_forward_merge_and_reset():
    parts = [mixed(5, 4), mixed(7, 4, seed=1)]
    model = nn.Sequential(nn.ReLU())
    whole, first, second = (UnitUsage(cosines=True) for _ in range(3))
    updates = []
    for x in parts:
        extrema = jk.layer_extrema(model, x)
        updates.append((extrema, {"0": sample_cosine(x)}))
        whole(*updates[-1])
    first.update(*updates[0])
    second.update(*updates[1])
    first.merge_state(second)
    total = [(len(x) * (len(x) - 1), cosine_definition(x)) for x in parts]
    expected = sum(n * cosine for n, cosine in total) / sum(n for n, _ in total)
    for metric in (whole, first):
        assert metric.report().cosines == pytest.approx({"0": expected}, abs=1e-6)
    whole.reset()
    whole.update(*updates[1])
    assert whole.report().cosines == pytest.approx({"0": total[1][1]}, abs=1e-6)
    with pytest.raises(ValueError, match="incoming_state must have cosines=True"):
        whole.merge_state(watched(model, [parts[0]]))
    for metric, update, match in [
        (whole, updates[0][:1], "cosines must have every layer of extrema, not seen: 0"),
        (whole, (updates[0][0], {"1": updates[0][1]["0"]}), "not seen: 0. If the model is compiled"),
        (UnitUsage(), updates[0], "cosines must be None for a metric without them"),
    ]:
        for call in (metric.update, metric):
            with pytest.raises(ValueError, match=match):
                call(*update)
    assert whole.report().cosines == pytest.approx({"0": total[1][1]}, abs=1e-6)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("first", ["called", "watched"])
def test_a_compiled_model_is_watched(first, dynamic):
    torch._dynamo.reset()
    model, batches = network().eval(), [torch.randn(n, 3) for n in (6, 4, 6)]
    expected = list(unit_usage(model, batches, cosines=True).cosines.values())
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=dynamic)
    if first == "called":
        compiled(batches[0])
    metric = UnitUsage(cosines=True)
    with metric.watch(compiled), torch.no_grad():
        for x in batches:
            compiled(x)
    assert list(metric.report().cosines.values()) == pytest.approx(expected, abs=1e-6)
