"""permutation_prune on all motifs: it finds what is planted, and keeps every promise."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from pruning.planted import batches, build, found, plant, same, snapshot
from pruning.prune_models import CASES, PLAIN, Functional, mlp
from torch import nn

import jumpstart_kernels as jk
from jumpstart_kernels.nn.deferred_bias import DeferredBias
from jumpstart_kernels.pruning import permutation_prune

SMALL = (20, 17, 3)  # samples of batches


def classes_of(model):
    kinds = [module.plain if isinstance(module, DeferredBias) else type(module) for module in model.modules()]
    return {name: kind for (name, _), kind in zip(model.named_modules(), kinds, strict=True)}


def logits(model, inputs):
    with torch.no_grad():
        return torch.cat([copy.deepcopy(model).eval()(x) for x in inputs])


def flips(one, other, inputs):
    return int((logits(one, inputs).argmax(1) != logits(other, inputs).argmax(1)).sum())


@pytest.mark.parametrize("scale", [1.7, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_finds_what_is_planted_and_nothing_else(name, scale):
    case = CASES[name]
    model, data, other = plant(case, scale), batches(case), batches(case, seed=1)
    before = snapshot(model)
    result = permutation_prune(model, data, unseen=other)
    assert same(snapshot(model), before)
    report = result.report
    assert found(report, case) == [((2,), [{1, 3}])] * len(case.sets)
    assert report.removed == 2 * len(case.sets)
    assert all(merge.correlation == 1 for layer in report.layers for merge in layer.merges)
    for inputs in (data, other):
        expected = logits(model, inputs)
        torch.testing.assert_close(
            logits(result.model, inputs), expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max())
        )
    assert (report.flips, report.unseen_flips, report.certified) == (0, 0, True)
    assert "smallest gap between the two largest, so that no decision can change" in str(report)
    assert (report.samples, report.unseen) == (128, report.decisions)
    parameters = sum(each.numel() for each in result.model.parameters())
    assert report.after.parameters == parameters < report.before.parameters
    assert report.after.bytes < report.before.bytes
    assert classes_of(result.model) == classes_of(model)
    assert all(module.training for module in result.model.modules())


@pytest.mark.parametrize("name", PLAIN)
def test_without_redundancy_a_copy_is_left(name):
    case = PLAIN[name]
    model = build(case)
    result = permutation_prune(model, batches(case))
    if not result.report.removed:
        assert same(dict(result.model.state_dict()), dict(model.state_dict()))
    tensors = [*model.parameters(), *model.buffers()]
    others = [*result.model.parameters(), *result.model.buffers()]
    assert {each.data_ptr() for each in tensors if each.numel()}.isdisjoint(
        each.data_ptr() for each in others
    )


@pytest.mark.parametrize("max_flips", [0, 7])
@pytest.mark.parametrize("name", CASES)
def test_a_huge_tolerance_flips_no_more_than_it_may(name, max_flips):
    case = CASES[name]
    model, data, other = build(case), batches(case, sizes=SMALL), batches(case, seed=1, sizes=SMALL)
    before = snapshot(model)
    result = permutation_prune(model, data, tolerance=2, max_flips=max_flips, unseen=other)
    assert same(snapshot(model), before)
    report = result.report
    assert report.flips == flips(model, result.model, data) <= max_flips
    assert report.unseen_flips == flips(model, result.model, other)
    change = (logits(model, data) - logits(result.model, data)).abs().max()
    assert report.largest_change == pytest.approx(float(change), rel=1e-6, abs=1e-12)
    assert report.after.parameters <= report.before.parameters
    for layer in report.layers:
        gone = [*layer.dead, *(merge.unit for merge in layer.merges)]
        assert len(set(gone)) == len(gone)
        assert layer.kept + len(gone) + layer.passed_on == layer.units
        assert layer.kept >= 1 or layer.passed_on
    check_use(result, data)


def check_use(result, data):
    """The smaller model can be copied, pickled, trained, and run in both modes and with one sample."""
    model, x = result.model, data[0]
    assert torch.equal(logits(copy.deepcopy(model), [x]), logits(model, [x]))
    assert torch.equal(logits(pickle.loads(pickle.dumps(model)), [x]), logits(model, [x]))
    assert len(logits(model, [x[:1]])) == 1
    other = copy.deepcopy(model).train()
    outputs = other(x)
    (outputs[0] if isinstance(outputs, tuple) else outputs).square().mean().backward()
    assert all(each.grad is None or each.grad.shape == each.shape for each in other.parameters())
    assert any(each.grad is not None and each.grad.any() for each in other.parameters())


@pytest.mark.parametrize("name", ["mlp", "residual", "depthwise", "branches", "jumpstart_mlp", "linked_mlp"])
def test_exports(name):
    case = CASES[name]
    model, data = plant(case), batches(case, sizes=SMALL)
    smaller = permutation_prune(model, data).model.eval()
    exported = torch.export.export(smaller, (data[0],)).module()
    torch.testing.assert_close(exported(data[0]), smaller(data[0]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["mlp", "residual", "segmentation"])
def test_exports_to_onnx(name, monkeypatch):
    # Only models with functions of onnxscript need the package onnx here, which need not be installed.
    onnx_proto_utils = pytest.importorskip(
        "torch.onnx._internal.torchscript_exporter.onnx_proto_utils",
        reason="PyTorch has the exporter elsewhere in this version",
    )
    monkeypatch.setattr(onnx_proto_utils, "_add_onnxscript_fn", lambda model_bytes, _: model_bytes)
    case = CASES[name]
    data = batches(case, sizes=SMALL)
    smaller = permutation_prune(plant(case), data).model.eval()
    sizes = []
    for model in (smaller, build(case).eval()):
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is the older exporter
            torch.onnx.export(model.float(), (data[0].float(),), file, dynamo=False)
        sizes.append(len(file.getvalue()))
    assert 0 < sizes[0] < sizes[1]


@pytest.mark.parametrize("name", ["mlp", "conv_net"])
def test_result_is_the_same_for_other_batches_and_threads(name):
    case = CASES[name]
    model, data = plant(case), batches(case)
    state = permutation_prune(model, data).model.state_dict()
    again = permutation_prune(model, data).model.state_dict()
    assert same(dict(state), dict(again))
    samples = torch.cat(data)
    shuffled = samples[torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))]
    for other in ([samples], shuffled.split(1), (x for x in shuffled.split(31))):
        result = permutation_prune(model, other)
        assert found(result.report, case) == [((2,), [{1, 3}])] * len(case.sets)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        result = permutation_prune(model, data)
    finally:
        torch.set_num_threads(threads)
    assert found(result.report, case) == [((2,), [{1, 3}])] * len(case.sets)


def test_flags_and_gradients():
    case = CASES["conv_net"]
    model = plant(case)
    model[4].weight.requires_grad_(False)
    model[1].eval()
    model(batches(case)[0]).sum().backward()
    before = snapshot(model)
    smaller = permutation_prune(model, batches(case)).model
    assert same(snapshot(model), before)
    assert [module.training for module in smaller.modules()] == [
        module.training for module in model.modules()
    ]
    assert [each.requires_grad for each in smaller.parameters()] == [
        each.requires_grad for each in model.parameters()
    ]
    assert all(each.grad is None for each in smaller.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype):
    case = CASES["mlp"]
    model, data = plant(case, scale=2).to(dtype), batches(case)
    result = permutation_prune(model, data)
    assert found(result.report, case) == [((2,), [{1, 3}])] * 2
    assert {each.dtype for each in result.model.parameters()} == {dtype}
    assert flips(model, result.model, [x.to(dtype) for x in data]) == 0


def test_channels_last_is_kept():
    case = CASES["conv_net"]
    smaller = permutation_prune(plant(case).to(memory_format=torch.channels_last), batches(case)).model
    for layer in (smaller[0], smaller[4]):
        assert layer.weight.is_contiguous(memory_format=torch.channels_last)
        assert not layer.weight.is_contiguous()


def test_another_resolution():
    case = CASES["segmentation"]
    model = plant(case)
    smaller = permutation_prune(model, batches(case)).model
    x = torch.randn(1, 2, 10, 8, dtype=torch.float64)
    torch.testing.assert_close(smaller(x), model(x))


def test_pruned_again_nothing_goes():
    case = CASES["residual"]
    smaller = permutation_prune(plant(case), batches(case)).model
    assert permutation_prune(smaller, batches(case)).report.removed == 0


def test_given_model_may_hold_unclaimed_records():
    case = CASES["jumpstart_mlp"]
    model, data = plant(case), batches(case)
    other = plant(case)
    other(data[0])
    expected = jk.penalty(other)
    model(data[0])
    smaller = permutation_prune(model, data).model
    assert torch.equal(jk.penalty(model), expected)
    smaller(data[0])
    assert jk.penalty(smaller).isfinite()


def test_forward_that_overwrites_its_input():
    class Overwriting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp()

        def forward(self, x):
            return self.inner(x.mul_(0.5))

    data = [torch.randn(64, 4)]
    before = data[0].clone()
    result = permutation_prune(Overwriting(), data)
    assert result.report.largest_change < 1e-5
    assert torch.equal(data[0], before)


X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))


def test_too_few_samples_for_a_layer_are_noted():
    model = nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 3))
    (layer, _) = permutation_prune(model, [X]).report.layers
    assert layer.kept == 50
    assert layer.note == "40 samples are too few for the 50 inputs of 2"


def test_loaders():
    """Arrays, tuples, empty batches, another dtype, and one sample at a time give the same."""
    torch.manual_seed(0)
    model = mlp()
    expected = permutation_prune(model, [X]).model.state_dict()
    for loader in ([X.numpy()], [(X, None)], [X[:0], X, X[:0]], [X.double()], iter([[X, 0]])):
        assert same(dict(permutation_prune(model, loader).model.state_dict()), dict(expected))
    torch.testing.assert_close(permutation_prune(model, X.split(1)).model.state_dict(), expected)


def test_progress_changes_nothing(capsys):
    model = Functional()
    x = [torch.randn(40, 2, 6, 6, generator=torch.Generator().manual_seed(0))]
    quiet, shown = permutation_prune(model, x), permutation_prune(model, x, progress=True)
    assert same(dict(quiet.model.state_dict()), dict(shown.model.state_dict()))
    assert "permutation pruning" in capsys.readouterr().out


def test_what_a_unit_is_merged_into_is_near_and_left_behind_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 60), nn.ReLU(), nn.Linear(60, 3))
    result = permutation_prune(model, [torch.randn(200, 4)], tolerance=0.3, max_flips=20)
    merges = result.report.layers[0].merges
    assert len(merges) > 10
    place = {merge.unit: i for i, merge in enumerate(merges)}
    assert len(place) == len(merges)
    for i, merge in enumerate(merges):
        assert merge.correlation >= 0.7
        assert place.get(merge.into, len(merges)) > i  # what it is merged into goes later, if it goes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", CASES)
def test_the_same_units_go_on_a_gpu(name):
    case = CASES[name]
    model, data = plant(case, 1.7).cuda(), batches(case)
    result = permutation_prune(model, data)
    assert found(result.report, case) == [((2,), [{1, 3}])] * len(case.sets)
    assert all(parameter.is_cuda for parameter in result.model.parameters())


def test_positions_of_a_sample_get_no_bound():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1))
    report = permutation_prune(model, [torch.randn(20, 1, 3, 3)], unseen=[torch.randn(5, 1, 3, 3)]).report
    assert report.unseen == 45 and report.most_unseen_flips != report.most_unseen_flips
    assert "those of a sample depend on each other: no bound" in str(report)
