"""The networks of the training-step benchmark, and what it prints and writes; no test judges a time."""

import json
from functools import partial

import pytest
import torch
from torch import nn

pytest.importorskip("rich", reason="the benchmark prints with rich")

import jumpstart_kernels as jk
from benchmarks import kernels, settings, steps
from benchmarks.models import build_resnet50, definition_penalty, pre_activations
from jumpstart_kernels.bench.peers import composite

CPU = torch.device("cpu")
SMALL = {"width": 4, "blocks": (1, 1), "classes": 5}


def count(model: nn.Module, kind: type) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


def test_resnet50_is_that_of_the_paper():
    with torch.device("meta"):  # sizes alone
        model = build_resnet50(batch_norm=True, skips=True)
        plain = build_resnet50(batch_norm=False, skips=False)
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_557_032
    assert (count(model, nn.Conv2d), count(model, nn.BatchNorm2d), count(model, nn.ReLU)) == (53, 53, 49)
    assert (count(plain, nn.Conv2d), count(plain, nn.BatchNorm2d), count(plain, nn.ReLU)) == (49, 0, 49)


@pytest.mark.parametrize("batch_norm", (True, False))
@pytest.mark.parametrize("skips", (True, False))
@pytest.mark.parametrize("cifar_stem", (True, False))
def test_small_resnets_run(batch_norm, skips, cifar_stem):
    torch.manual_seed(0)
    model = build_resnet50(batch_norm=batch_norm, skips=skips, cifar_stem=cifar_stem, **SMALL)
    x = torch.randn(3, 3, 32, 32)
    output, layers = pre_activations(model, x)
    assert output.shape == (3, 5) and len(layers) == 7
    assert layers[0].shape[2] == (32 if cifar_stem else 16)
    assert layers[-1].shape == (3, 32, 16, 16) if cifar_stem else (3, 32, 4, 4)
    jumpstart = jk.replace_relu(model)
    jumpstart(x)
    assert jk.penalty(jumpstart).item() == pytest.approx(definition_penalty(layers).item(), rel=1e-5)


def test_skips_pass_the_input_on():
    torch.manual_seed(0)
    for skips in (True, False):
        model = build_resnet50(batch_norm=False, skips=skips, cifar_stem=True, **SMALL)
        last = [module for module in model if type(module).__name__ == "Bottleneck"][-1]
        nn.init.zeros_(last.residual[-1].weight)
        assert bool(last(torch.rand(2, 16, 8, 8)).any()) is skips


def test_definition_of_one_layer_is_that_of_the_operator_benchmark():
    x = torch.randn(6, 4, 3, 3)
    torch.testing.assert_close(definition_penalty([x]), composite(x)[1])


def test_pre_activations_leave_no_hook_behind():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    pre_activations(model, torch.ones(1, 2))
    assert not model[1]._forward_pre_hooks


def make_settings(authors):
    torch.manual_seed(0)
    yield settings.make_thin_setting(CPU, authors, quick=True)
    yield settings.make_resnet_setting(CPU, samples=4, image_size=32, quick=True)


def test_right_losses_pass_the_check(authors):
    thin, resnet = make_settings(authors)
    assert [variant.name for variant in thin.variants] == ["plain", "Jumpstart", "BatchNorm", "authors' code"]
    assert [variant.name for variant in resnet.variants] == ["plain", "Jumpstart", "BatchNorm + skips"]
    for setting in (thin, resnet):
        for variant in setting.variants:
            assert settings.find_failure(setting, variant) is None
        plain, jumpstart = (variant.model.state_dict() for variant in setting.variants[:2])
        assert all(torch.equal(plain[name], jumpstart[name]) for name in plain)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda model: lambda: 1.001 * jk.penalty(model), "wrong loss"),
        (lambda model: lambda: jk.penalty(model).detach(), "wrong gradient"),
        (lambda model: lambda: jk.penalty(model) * torch.nan, "wrong loss"),
    ],
)
def test_wrong_losses_are_found(wrong, message):
    for setting in make_settings(None):
        variant = settings.Variant("wrong", setting.variants[1].model, wrong)
        assert settings.find_failure(setting, variant).startswith(message)


@pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=[pytest.mark.gpu] if mode == "graphs" else []) for mode in steps.MODES]
)
def test_a_step_trains(mode, monkeypatch):
    if mode == "graphs" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # which compiles fast
    setting = settings.make_thin_setting(torch.device("cuda") if mode == "graphs" else CPU, quick=True)
    torch._dynamo.reset()
    for variant in setting.variants[:2]:
        before = [parameter.clone() for parameter in variant.model.parameters()]
        step = steps.make_step(setting, variant, mode)
        step()
        step()
        after = list(variant.model.parameters())
        assert all(parameter.grad is not None for parameter in after)
        assert any(not torch.equal(*pair) for pair in zip(before, after, strict=True))
        jumpstarts = [module for module in variant.model.modules() if isinstance(module, jk.JumpstartReLU)]
        assert not any(module._records for module in jumpstarts)


def test_table_and_results(capsys, tmp_path, authors):
    output = tmp_path / "steps.json"
    options = ["--device", "cpu", "--quick", "--rounds", "2", "--batch-size", "2", "--image-size", "32"]
    assert steps.main([*options, "--authors", str(authors), "--output", str(output)]) == 0
    out = capsys.readouterr().out
    for word in (
        "6x4, eager, 256x30",
        "two blocks of resnet50",
        "authors' code",
        "BatchNorm + skips",
        "1.00",
    ):
        assert word in out
    results = json.loads(output.read_text())
    assert results["machine"]["command"].startswith("python -m benchmarks.steps --device cpu")
    thin, resnet = results["networks"]
    assert (thin["network"], thin["mode"], thin["rounds"]) == ("6x4", "eager", 2)
    assert (resnet["input"], resnet["dtype"]) == ([2, 3, 32, 32], "float32")
    for record in (thin, resnet):
        plain = record["variants"][0]["step"]["median"]
        for variant in record["variants"]:
            lower, upper = variant["step"]["quartiles"]
            assert 0 < lower <= variant["step"]["median"] <= upper
            assert variant["step"]["ratio"] == variant["step"]["median"] / plain


def test_a_wrong_penalty_has_no_figure(capsys, tmp_path, monkeypatch):
    right = jk.penalty
    monkeypatch.setattr(jk, "penalty", lambda model: right(model) + 0.1)
    output = tmp_path / "steps.json"
    options = ["--device", "cpu", "--quick", "--rounds", "1", "--network", "50x4", "--output"]
    assert steps.main([*options, str(output)]) == 1
    out = capsys.readouterr().out
    assert "Jumpstart: wrong loss: differs from the definition by 0.01" in out
    (record,) = json.loads(output.read_text())["networks"]
    plain, jumpstart, batch_norm = record["variants"]
    assert jumpstart["step"] is None and plain["step"] and batch_norm["step"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--network", "vgg"], "argument --network: invalid choice: 'vgg'"),
        (["--mode", "slow"], "argument --mode: invalid choice: 'slow'"),
        (["--batch-size", "0"], "argument --batch-size: must be a positive integer, got '0'"),
        (["--authors", "nowhere"], "argument --authors: must be a checkout of blauigris/jumpstart"),
        (["--device", "nowhere"], "--device nowhere: "),
        (["--output", "nowhere/x.json"], "argument --output: there is no folder nowhere"),
    ],
)
def test_mistakes_are_named_before_any_work(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        steps.main(arguments)
    captured = capsys.readouterr()
    assert (error.value.code, captured.out) == (2, "") and message in captured.err


def test_graphs_need_a_gpu(capsys):
    with pytest.raises(SystemExit):
        steps.main(["--device", "cpu", "--mode", "graphs"])
    assert "argument --mode: graphs needs a CUDA device, got cpu" in capsys.readouterr().err


def test_kernel_times_name_a_missing_folder_before_any_work(capsys):
    with pytest.raises(SystemExit):
        kernels.main(["--output", "nowhere/x.json"])
    assert "argument --output: there is no folder nowhere" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_kernel_times_need_a_gpu(capsys):
    with pytest.raises(SystemExit):
        kernels.main([])
    assert "needs a CUDA device" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_kernel_times(tmp_path):
    output = tmp_path / "kernels.json"
    assert kernels.main(["--shape", "256x4", "--output", str(output)]) == 0
    (case,) = json.loads(output.read_text())["cases"]
    plain, *others = case["peers"]
    assert [kernel["launches"] for kernel in plain["kernels"]] == [1, 1]
    for peer in others:
        assert any("jumpstart_relu_forward" in kernel["kernel"] for kernel in peer["kernels"])
