"""``benchmarks/paper/cifar.py``: every variant, on made-up images of two kinds."""

import json

import pytest
import torch

from benchmarks.paper import cifar
from benchmarks.paper.cifar_images import Images
from benchmarks.paper.report import cifar as cifar_report

WORDS = [
    "--small",
    "--epochs",
    "2",
    "--batch-size",
    "20",
    "--train",
    "60",
    "--test",
    "20",
    "--device",
    "cpu",
    "--data",
    "images.npz",
]


@pytest.fixture(autouse=True)
def images(monkeypatch):
    """Dark and bright images, instead of a file's."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % 2
    x = torch.randint(100, (80, 3, 32, 32), generator=generator) + 150 * labels.view(-1, 1, 1, 1)
    x = x.to(torch.uint8)
    made = Images(x[:60], labels[:60], x[60:], labels[60:], 2)
    monkeypatch.setattr(cifar, "load_images", lambda path, train, test: made)
    return made


def test_variants_are_trained_once(tmp_path, capsys):
    path = tmp_path / "paper_cifar.json"
    assert cifar.main([*WORDS, "--output", str(path), "--only", "plain", "--only", "jumpstart"]) == 0
    first = json.loads(path.read_text())
    assert list(first["variants"]) == ["plain", "jumpstart"]
    first["variants"]["plain"]["accuracy"] = -1.0  # to see that it is not trained again
    path.write_text(json.dumps(first))
    assert cifar.main([*WORDS, "--output", str(path)]) == 0
    record = json.loads(path.read_text())
    assert set(record["variants"]) == set(cifar.VARIANTS) == set(cifar_report.STYLES)
    variants = record["variants"]
    assert variants["plain"]["accuracy"] == -1.0
    for name, variant in variants.items():
        assert len(variant["epochs"]) == 2 and variant["train_seconds"] > 0
        assert (variant["epochs"][0]["penalty"] > 0) == name.startswith("jumpstart")
        assert 0 <= variant["usage"]["unit_dead_ratio"] <= 1
    sizes = {name: variant["parameters"] for name, variant in variants.items()}
    assert sizes["plain"] == sizes["jumpstart"] < sizes["jumpstart_1.5"] < sizes["jumpstart_2"]
    table = cifar_report.variant_table(record)
    assert table.count("\n") == 6 and "| Jumpstart, width × 2 |" in table
    assert "60 training and 20 test images" in cifar_report.conditions(record)
    assert cifar.main([*WORDS, "--lam", "0.2", "--output", str(path)]) == 2
    assert "results for other settings" in capsys.readouterr().err


def test_a_network_learns_to_tell_the_kinds_apart(images):
    settings = cifar.Settings(4, 20, 1e-3, 0.1, 1e-3, 1.0, 16, (1, 1, 1, 1), 60, 20, 0)
    record = cifar.train_variant(cifar.VARIANTS["jumpstart"], settings, images, torch.device("cpu"))
    assert record["accuracy"] == record["epochs"][-1]["accuracy"] >= 0.9
    assert record["epochs"][-1]["loss"] < record["epochs"][0]["loss"]


def test_the_rate_rises_and_falls(images):
    settings = cifar.Settings(10, 6, 1e-3, 0.1, 0.0, None, 16, (1, 1, 1, 1), 60, 20, 0)
    trainer = cifar.Trainer(cifar.VARIANTS["plain"], settings, images, torch.device("cpu"))
    factors = [trainer.rate_factor(step) for step in range(101)]
    assert factors[0] == 0.1 and factors[9] == factors[10] == 1 and factors[55] == pytest.approx(0.5)
    assert factors[100] == 0 and factors[10:] == sorted(factors[10:], reverse=True)


def test_a_single_step_is_a_training(images):
    settings = cifar.Settings(1, 60, 1e-3, 0.1, 0.0, None, 16, (1, 1, 1, 1), 60, 20, 0)
    record = cifar.train_variant(cifar.VARIANTS["plain"], settings, images, torch.device("cpu"))
    assert len(record["epochs"]) == 1


def test_a_network_that_diverged_is_told_of(images, tmp_path):
    path = tmp_path / "paper_cifar.json"
    words = [*WORDS, "--only", "plain", "--learning-rate", "1e30", "--output", str(path)]
    assert cifar.main(words) == 0
    record = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert record["variants"]["plain"]["epochs"][-1]["loss"] is None
    assert "| plain, diverged |" in cifar_report.variant_table(record)


def test_batches_larger_than_the_data_are_refused(tmp_path, capsys):
    words = [*WORDS, "--batch-size", "61", "--output", str(tmp_path / "x.json")]
    assert cifar.main(words) == 2
    assert "--batch-size 61 is more than the 60 training images" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--learning-rate", "--lam", "--weight-decay", "--max-norm"])
@pytest.mark.parametrize("number", ["-1", "nan"])
def test_numbers_below_zero_are_refused(option, number, tmp_path, capsys):
    output = tmp_path / "x.json"
    assert cifar.main([*WORDS, f"{option}={number}", "--output", str(output)]) == 2
    assert f"error: {option} must be 0 or more, got {number}" in capsys.readouterr().err
    assert not output.exists()
