"""The networks of the training-step benchmark, and what it prints and writes; no test judges a time."""

import json
from functools import partial

import pytest
import torch

pytest.importorskip("rich", reason="the benchmark prints with rich")

import jumpstart_kernels as jk
from benchmarks import comparisons, steps

CPU = torch.device("cpu")


def make_comparisons(authors):
    torch.manual_seed(0)
    yield comparisons.make_thin_comparison(CPU, authors=authors, quick=True)
    yield comparisons.make_resnet_comparison(CPU, samples=4, image_size=32, quick=True)
    yield comparisons.make_mlp_comparison(CPU, samples=8, quick=True)
    yield comparisons.make_convnet_comparison(CPU, samples=4, quick=True)


def test_right_losses_pass_the_check(authors):
    thin, resnet, *others = make_comparisons(authors)
    names = ["plain", "Jumpstart", "Jumpstart, fused bias"]
    assert [variant.name for variant in thin.variants] == [*names, "BatchNorm", "authors' code"]
    assert [variant.name for variant in resnet.variants] == [*names, "BatchNorm + skips"]
    assert [[variant.name for variant in each.variants] for each in others] == [names, names]
    for comparison in (thin, resnet, *others):
        for variant in comparison.variants:
            assert comparisons.find_failure(comparison, variant) is None
        plain, *jumpstarts = (variant.model.state_dict() for variant in comparison.variants[:3])
        for jumpstart in jumpstarts:
            assert all(torch.equal(plain[name], jumpstart[name]) for name in plain)


def test_with_fused_biases_the_activations_add_them():
    for comparison in make_comparisons(None):
        outputs = []
        for variant in comparison.variants[:3]:
            first = next(module for module in variant.model.train().modules() if hasattr(module, "bias"))
            torch.nn.init.ones_(first.bias)
            outputs.append(first(comparison.x))
        plain, jumpstart, fused = outputs
        assert torch.equal(plain, jumpstart)
        torch.testing.assert_close(fused + 1, plain)


def test_a_bias_that_is_left_out_is_found():
    for comparison in make_comparisons(None):
        variant = comparison.variants[1]
        first = next(module for module in variant.model.modules() if hasattr(module, "bias"))
        first.register_forward_hook(
            lambda module, inputs, output: output - module.bias.detach().view(-1, *[1] * (output.dim() - 2))
        )
        assert comparisons.find_failure(comparison, variant).startswith("wrong loss")


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda model: lambda: 1.001 * jk.penalty(model), "wrong loss"),
        (lambda model: lambda: jk.penalty(model).detach(), "wrong gradient"),
        (lambda model: lambda: jk.penalty(model) * torch.nan, "wrong loss"),
    ],
)
def test_wrong_losses_are_found(wrong, message):
    for comparison in make_comparisons(None):
        variant = comparisons.Variant("wrong", comparison.variants[1].model, wrong)
        assert comparisons.find_failure(comparison, variant).startswith(message)


@pytest.mark.parametrize("optimizer", steps.OPTIMIZERS)
@pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=[pytest.mark.gpu] if mode == "graphs" else []) for mode in steps.MODES]
)
def test_a_step_trains(mode, optimizer, monkeypatch):
    if mode == "graphs" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # which compiles fast
    comparison = comparisons.make_thin_comparison(
        torch.device("cuda") if mode == "graphs" else CPU, quick=True
    )
    torch._dynamo.reset()
    for variant in comparison.variants[:3]:
        # Detached: in a live graph a parameter's gradient belongs to that graph's stream, see the capture.
        before = [parameter.detach().clone() for parameter in variant.model.parameters()]
        step = steps.make_step(comparison, variant, mode, optimizer)
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
        "6x4, eager, sgd, 2x30, float32",
        "two blocks of resnet50",
        "authors' code",
        "BatchNorm + skips",
        "1.00",
    ):
        assert word in out
    results = json.loads(output.read_text())
    assert results["machine"]["command"].startswith("python -m benchmarks.steps --device cpu")
    thin, resnet, mlp, convnet = results["networks"]
    assert (thin["network"], thin["mode"], thin["optimizer"], thin["rounds"]) == ("6x4", "eager", "sgd", 2)
    assert (resnet["input"], resnet["dtype"]) == ([2, 3, 32, 32], "float32")
    assert (mlp["input"], convnet["input"]) == ([2, 784], [2, 3, 32, 32])
    for record in (thin, resnet, mlp, convnet):
        plain = record["variants"][0]["step"]["median"]
        for variant in record["variants"]:
            lower, upper = variant["step"]["quartiles"]
            assert 0 < lower <= variant["step"]["median"] <= upper
            assert variant["step"]["ratio"] == variant["step"]["median"] / plain


def test_batch_sizes_and_optimizers_are_combined(capsys, tmp_path):
    output = tmp_path / "steps.json"
    options = "--device cpu --quick --rounds 1 --network 50x4 --batch-size 8 --batch-size 16"
    options += " --optimizer sgd --optimizer adam"
    assert steps.main([*options.split(), "--output", str(output)]) == 0
    assert "6x4, eager, adam, 16x30, float32" in capsys.readouterr().out
    records = json.loads(output.read_text())["networks"]
    assert [(record["optimizer"], record["input"]) for record in records] == [
        ("sgd", [8, 30]),
        ("sgd", [16, 30]),
        ("adam", [8, 30]),
        ("adam", [16, 30]),
    ]


def test_fusible_layers(capsys):
    options = ["--device", "cpu", "--quick", "--rounds", "1", "--network", "50x4"]
    assert steps.main([*options, "--batch-size", "20", "--fusible"]) == 0
    out = capsys.readouterr().out
    assert "6x4, eager, sgd, 20x30" in out and "Jumpstart, fusible" in out


def test_a_wrong_penalty_has_no_figure(capsys, tmp_path, monkeypatch):
    right = jk.penalty
    monkeypatch.setattr(jk, "penalty", lambda model: right(model) + 0.1)
    output = tmp_path / "steps.json"
    options = ["--device", "cpu", "--quick", "--rounds", "1", "--network", "50x4", "--output"]
    assert steps.main([*options, str(output)]) == 1
    out = capsys.readouterr().out
    assert "Jumpstart: wrong loss: differs from the definition by 0.01" in out
    (record,) = json.loads(output.read_text())["networks"]
    plain, jumpstart, fused, batch_norm = record["variants"]
    assert jumpstart["step"] is None and fused["step"] is None and plain["step"] and batch_norm["step"]


def test_an_mlp_is_measured_with_two_batch_sizes(capsys):
    assert steps.main(["--device", "cpu", "--quick", "--rounds", "1", "--network", "mlp"]) == 0
    out = capsys.readouterr().out
    assert "narrow mlp, eager, sgd, 256x784" in out and "narrow mlp, eager, sgd, 1024x784" in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--network", "vgg"], "argument --network: invalid choice: 'vgg'"),
        (["--mode", "slow"], "argument --mode: invalid choice: 'slow'"),
        (["--optimizer", "none"], "argument --optimizer: invalid choice: 'none'"),
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
