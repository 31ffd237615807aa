"""``usage``: models, data, the report."""

import re
import sys
from pathlib import Path

import pytest
import torch
from cli_runs import run
from torch import nn

from jumpstart_kernels.usage.loader import unit_usage


def test_usage_prints_the_report(models, capsys, tmp_path):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(13, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU())
    x = torch.randn(20, 13)
    torch.save(model.state_dict(), "weights.pt")
    torch.save(x, "x.pt")
    arguments = ["--model", f"{models}:plain", "--weights", "weights.pt", "--data", "x.pt", "--device", "cpu"]
    status, out, err = run(capsys, "usage", *arguments, "--batch-size", "7")
    assert (status, err) == (0, "")
    assert out == f"{unit_usage(model, [x])}\n"


def test_usage_imports_a_module_by_name(models, capsys):
    torch.save(torch.randn(5, 13), "x.pt")
    status, out, _ = run(capsys, "usage", "--model", "models:plain", "--data", "x.pt")
    sys.modules.pop("models")
    assert status == 0
    assert "total" in out


@pytest.mark.parametrize("function", ["plain", "double"])
def test_usage_reads_every_kind_of_file_alike(models, capsys, function):
    numpy = pytest.importorskip("numpy", reason="numpy reads these files")
    x = numpy.random.default_rng(0).normal(size=(9, 13))
    numpy.save("x.npy", x)
    numpy.savez("one.npz", data=x)
    numpy.savez("named.npz", x=x, y=x[:, 0])
    numpy.savetxt("plain.csv", x, delimiter=",")
    numpy.savetxt("header.csv", x, delimiter=",", header=",".join("abcdefghijklm"), comments="")
    torch.save([torch.from_numpy(x), torch.zeros(9)], "pair.pt")
    outputs = set()
    for name in ("x.npy", "one.npz", "named.npz", "plain.csv", "header.csv", "pair.pt"):
        torch.manual_seed(0)
        status, out, err = run(capsys, "usage", "--model", f"{models}:{function}", "--data", name)
        assert (status, err) == (0, ""), name
        outputs.add(out)
    assert len(outputs) == 1


def test_usage_reads_data_sets_of_scikit_learn(models, capsys):
    pytest.importorskip("sklearn", reason="scikit-learn brings the data sets")
    status, out, err = run(capsys, "usage", "--model", f"{models}:plain", "--data", "wine")
    assert (status, err) == (0, "")
    assert re.search(r"^1 +4 .* 178 ", out, re.MULTILINE)


def test_mistakes_of_usage_take_one_line(models, capsys):
    torch.save(torch.randn(5, 13), "x.pt")
    torch.save(torch.randn(5, 12), "narrow.pt")
    torch.save(torch.tensor(1.0), "scalar.pt")
    torch.save(nn.Linear(2, 2).state_dict(), "other.pt")
    Path("broken.pt").write_text("no archive")
    Path("words.csv").write_text("a,b\nc,d\n")
    mistakes = {
        ("models.py", "x.pt"): "--model must be FILE.py:FUNCTION or package.module:FUNCTION, got 'models.py'",
        ("models.py:other", "x.pt"): "--model: models.py has no function 'other'",
        ("models.py:number", "x.pt"): "--model: models.py:number must return an nn.Module, got int",
        ("models.py:broken", "x.pt"): "--model models.py:broken: KeyError: 'width' (models.py, line ",
        (
            "failing.py:plain",
            "x.pt",
        ): "--model failing.py: ModuleNotFoundError: No module named 'nothing_of_this",
        ("no.such:plain", "x.pt"): "--model no.such: ModuleNotFoundError: No module named 'no'",
        (
            "models.py:no_relu",
            "x.pt",
        ): "models.py:no_relu on data of shape [5, 13]: ValueError: model has no nn.ReLU",
        (
            "models.py:plain",
            "narrow.pt",
        ): "models.py:plain on data of shape [5, 12]: RuntimeError: mat1 and mat2",
        (
            "models.py:plain",
            "scalar.pt",
        ): "--data: scalar.pt must hold an array with at least one sample, [N, ...], ",
        (
            "models.py:plain",
            "other.pt",
        ): "--data: other.pt must hold an array with at least one sample, [N, ...], ",
        ("models.py:plain", "broken.pt"): "cannot read broken.pt: ",
        ("models.py:plain", "words.csv"): "cannot read words.csv: ",
        ("models.py:plain", "missing.npy"): "there is no file missing.npy",
        (
            "models.py:plain",
            "iris",
        ): "--data must be wine, breast_cancer, digits, or a file of .npy, .npz, .csv",
    }
    for (model, data), message in mistakes.items():
        status, out, err = run(capsys, "usage", "--model", model, "--data", data)
        assert (status, out, err.count("\n")) == (2, "", 1), (model, data)
        assert err.startswith(f"error: {message}")
    options = {
        ("--weights", "other.pt"): "error: --weights: other.pt does not fit the model: Error(s) in loading",
        ("--weights", "x.pt"): "error: --weights: x.pt must hold a state dict, got Tensor",
        ("--weights", "broken.pt"): "error: cannot read broken.pt",
        ("--device", "nowhere"): "error: --device nowhere: ",
        (
            "--unit-dim",
            "4",
        ): "error: models.py:plain on data of shape [5, 13]: ValueError: layer '1': unit_dim must",
    }
    for option, message in options.items():
        status, out, err = run(capsys, "usage", "--model", "models.py:plain", "--data", "x.pt", *option)
        assert (status, out, err.count("\n")) == (2, "", 1), option
        assert err.startswith(message)
    status, _, err = run(capsys, "usage", "--model", "models.py:plain", "--data", "x.pt", "--batch-size", "0")
    assert status == 2
    assert "argument --batch-size: must be a positive integer, got '0'" in err
