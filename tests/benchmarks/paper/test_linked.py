"""``benchmarks/paper/linked.py``: networks beside Keras' definition, training, the command, the report."""

import json
from dataclasses import replace

import pytest
import torch
from inline_pool import InlinePool
from torch import nn

import jumpstart_kernels as jk
from benchmarks.paper import linked, linked_steps, sweep
from benchmarks.paper.linked_networks import (
    DEPTH_VARIANTS,
    RESNET_VARIANTS,
    VARIANTS,
    Images,
    Variant,
    activation_names,
    build,
    convolution,
)
from benchmarks.paper.linked_training import Settings, Trainer, prepare, train
from benchmarks.paper.report import __main__ as report
from benchmarks.paper.report import linked as linked_report
from jumpstart_kernels.demo.data import Data

CIFAR = Images(channels=3, size=32, classes=10)
DIGITS = Images(channels=1, size=8, classes=10)
CPU = torch.device("cpu")
SETTINGS = Settings("depth", 3, 4, 4, 20, 0.01, 0.0, False, 0.1)
WORDS = ["--small", "--device", "cpu", "--depth", "2", "--epochs", "1", "--seeds", "2", "--jobs", "1"]
WORDS += ["--batch-size", "200", "--only", "linked_relu", "--only", "batch_norm"]
PARAMETERS = {
    # Conv2D(4, 7×7) and 50 of Conv2D(4, 3×3), Dense(10) of 16×16×4 outputs
    "relu": (3 * 49 * 4 + 4) + 50 * (4 * 9 * 4 + 4) + (256 * 4 * 10 + 10),
    # 8 inputs a convolution, and twice the classifier's
    "linked_relu": (3 * 49 * 4 + 4) + 50 * (8 * 9 * 4 + 4) + (256 * 8 * 10 + 10),
    # int(4 · √2) = 5 units
    "relu_wide": (3 * 49 * 5 + 5) + 50 * (5 * 9 * 5 + 5) + (256 * 5 * 10 + 10),
    # Keras counts scale and shift of a BatchNorm as trainable, 8 a layer
    "batch_norm": (3 * 49 * 4 + 4) + 50 * (4 * 9 * 4 + 4) + (256 * 4 * 10 + 10) + 51 * 8,
}


@pytest.fixture
def data():
    """Dark and bright images of two classes, uint8."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % 2
    x = torch.randint(100, (80, 3, 16, 16), generator=generator) + 150 * labels.view(-1, 1, 1, 1)
    x = x.to(torch.uint8)
    return Data("made up", x[:60], labels[:60], x[60:], labels[60:])


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def convolutions(model):
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_depth_networks_have_keras_parameters(name):
    assert count(build("depth", DEPTH_VARIANTS[name], CIFAR)) == PARAMETERS[name]


def test_other_depth_networks_differ_by_their_slopes():
    counts = {name: count(build("depth", variant, CIFAR)) for name, variant in DEPTH_VARIANTS.items()}
    for activation, slopes in (("selu", 0), ("silu", 0), ("prelu", 51)):
        assert counts[activation] == counts["relu"] + 4 * slopes
        assert counts[f"{activation}_wide"] == counts["relu_wide"] + 5 * slopes
        assert counts[f"linked_{activation}"] == counts["linked_relu"] + 8 * slopes
    assert counts["jumpstart"] == counts["relu"] and counts["jumpstart_wide"] == counts["relu_wide"]
    assert counts["jumpstart_linked"] == counts["linked_relu"]


@pytest.mark.parametrize(
    ("name", "width", "factor"), [("relu", 4, 1), ("linked_selu", 4, 2), ("silu_wide", 5, 1)]
)
def test_depth_networks_have_the_published_shapes(name, width, factor):
    model = build("depth", DEPTH_VARIANTS[name], CIFAR)
    first, *others = convolutions(model)
    assert (first.in_channels, first.out_channels, first.kernel_size, first.stride) == (
        3,
        width,
        (7, 7),
        (2, 2),
    )
    assert len(others) == 50
    assert {(c.in_channels, c.out_channels, c.kernel_size) for c in others} == {
        (factor * width, width, (3, 3))
    }
    assert model[-1].in_features == factor * width * 16 * 16
    assert len(activation_names(model)) == 51
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_variants_have_their_activations():
    kinds = {
        name: type(build("depth", variant, DIGITS, depth=1).get_submodule(names[0]))
        for name, variant in DEPTH_VARIANTS.items()
        for names in [activation_names(build("depth", variant, DIGITS, depth=1))]
    }
    assert kinds["batch_norm"] is nn.ReLU and kinds["linked_prelu"] is jk.LinkedPReLU
    assert kinds["jumpstart"] is kinds["jumpstart_wide"] is jk.JumpstartReLU
    assert kinds["jumpstart_linked"] is jk.JumpstartLinkedReLU


def test_resnet_has_keras_parameters():
    """He et al.'s bottlenecks with an eighth of the channels, counted layer by layer."""
    for name, factor, norm in (("selu", 1, 0), ("linked_relu", 2, 0), ("linked_selu_batch_norm", 2, 2)):
        expected, inputs = (27 * 8 + 8) + norm * 8, 8
        for blocks, units in ((3, 16), (4, 16), (6, 32), (3, 32)):
            for i in range(blocks):
                expected += inputs * units + units + norm * units
                expected += factor * units * 9 * units + units + norm * units
                expected += factor * units * 4 * units + 4 * units + norm * 4 * units
                if i == 0:
                    expected += inputs * 4 * units + 4 * units + norm * 4 * units
                inputs = 4 * units
        expected += 128 * 4 * 4 * 10 + 10
        model = build("resnet50", RESNET_VARIANTS[name], CIFAR)
        assert count(model) == expected
        assert len(convolutions(model)) == 1 + 16 * 3 + 4
        assert len(activation_names(model)) == 1 + 16 * 3


@pytest.mark.parametrize("name", list(RESNET_VARIANTS))
def test_resnets_run_on_digits(name):
    model = build("resnet50", RESNET_VARIANTS[name], DIGITS, stages=((1, 16, 1), (2, 16, 2)))
    model(torch.rand(2, 1, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_padding_is_that_of_keras():
    """7×7 with stride 2 on 32 pixels: 2 zeros before and 3 behind, so that output i is centered at 2i + 1."""
    model = nn.Sequential(*convolution(1, 1, 7, 2, 32))
    image = torch.zeros(1, 1, 32, 32)
    image[..., 1, 5] = 1
    nn.init.zeros_(model[1].bias)
    with torch.no_grad():
        model[1].weight.zero_()[..., 3, 3] = 1
        assert model(image).nonzero().tolist() == [[0, 0, 0, 2]]
    assert [type(module) for module in convolution(1, 1, 3, 1, 32)] == [nn.Conv2d]


def test_initialization_is_glorots():
    torch.manual_seed(0)
    model = build("depth", DEPTH_VARIANTS["linked_relu"], CIFAR)
    for layer in [*convolutions(model), model[-1]]:
        area = layer.weight[0, 0].numel()
        limit = (6 / (area * (layer.weight.shape[0] + layer.weight.shape[1]))) ** 0.5
        assert 0.9 * limit < layer.weight.abs().max() <= limit
        assert not layer.bias.any()


@pytest.mark.parametrize(
    "name", ["linked_relu", "linked_prelu", "batch_norm", "jumpstart", "jumpstart_linked"]
)
def test_training_decreases_the_loss(name, data):
    outcome = train(DEPTH_VARIANTS[name], SETTINGS, data, 0, CPU)
    assert outcome["losses"][-1] < outcome["losses"][0] and not outcome["diverged"]
    assert outcome["steps"] == 4 * 3 and len(outcome["curve"]) == 4
    assert outcome["best_accuracy"] == pytest.approx(max(outcome["curve"]))
    assert 0 <= outcome["never_positive"] + outcome["always_positive"] <= 1


def test_resnets_shift_and_flip_and_lower_the_rate(data):
    settings = replace(SETTINGS, network="resnet50", epochs=1, augmented=True, decay=0.5)
    trainer = Trainer(RESNET_VARIANTS["linked_relu"], settings, data, 0, CPU)
    order = trainer.order
    trainer.train_epoch()
    assert not torch.equal(order, trainer.order)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 / (1 + 0.5 * 3))


def test_a_seed_determines_a_run(data):
    runs = [train(DEPTH_VARIANTS["linked_silu"], SETTINGS, data, seed, CPU) for seed in (0, 0, 1)]
    assert runs[0]["losses"] == runs[1]["losses"] != runs[2]["losses"]


def test_training_ends_where_the_loss_is_not_finite(data):
    outcome = train(DEPTH_VARIANTS["silu"], replace(SETTINGS, learning_rate=1e30), data, 0, CPU)
    assert outcome["diverged"] and outcome["loss"] is None and outcome["never_positive"] is None
    assert len(outcome["curve"]) < 4
    json.dumps(outcome, allow_nan=False)


def test_one_sided_units_are_counted(data):
    trainer = Trainer(Variant("", "relu", linked=True), SETTINGS, data, 0, CPU)
    first = convolutions(trainer.model)[0]
    with torch.no_grad():
        first.bias.copy_(torch.tensor([-100.0, -100, -100, 100]))
        for layer in convolutions(trainer.model)[1:]:
            layer.weight.zero_()
            layer.bias.fill_(1.0)
    assert trainer.one_sided_units() == (3 / 16, 13 / 16)


def test_pixels_are_in_the_unit_interval():
    assert prepare(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [0, 1]
    digits = linked.load(linked.Source(None, None, None), 0)
    assert digits.x_train.min() == 0 and digits.x_train.max() == 1


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder, threads = tmp_path_factory.mktemp("results"), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "ProcessPoolExecutor", InlinePool)
        assert linked.main([*WORDS, "--output", str(folder / "paper_linked.json")]) == 0
    words = ["--network", "depth", "--device", "cpu", "--batch-size", "2", "--rounds", "2", "--depth", "2"]
    assert linked_steps.main([*words, "--output", str(folder / "paper_linked_steps.json")]) == 0
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
    return folder


def read(path):
    return json.loads(path.read_text())


def test_every_variant_is_trained_with_every_seed(results):
    record = read(results / "paper_linked.json")
    assert set(record["tasks"]) == {"linked_relu/0", "batch_norm/0", "linked_relu/1", "batch_norm/1"}
    assert record["remaining"] == 0 and record["settings"]["data"] == "Digits"
    assert record["machine"]["torch"] == torch.__version__ and "--small" in record["machine"]["command"]
    for task in record["tasks"].values():
        (run,) = task["runs"]
        assert 0 <= run["accuracy"] == run["best_accuracy"] <= 1 and run["step_seconds"] > 0


def test_what_was_stopped_goes_on(results, tmp_path, monkeypatch):
    """With what was not done yet alone."""
    path = tmp_path / "paper_linked.json"
    part = read(results / "paper_linked.json")
    kept = part["tasks"]
    missing = kept.pop("linked_relu/1")
    kept["batch_norm/0"]["runs"][0]["accuracy"] = -1.0  # to see that it is not done again
    path.write_text(json.dumps({**part, "tasks": kept, "remaining": 1}))
    monkeypatch.setattr(sweep, "ProcessPoolExecutor", InlinePool)
    assert linked.main([*WORDS, "--output", str(path)]) == 0
    again = read(path)
    assert again["remaining"] == 0 and again["tasks"]["batch_norm/0"]["runs"][0]["accuracy"] == -1.0
    assert again["tasks"]["linked_relu/1"]["runs"][0]["curve"] == missing["runs"][0]["curve"]


def test_results_of_other_settings_are_kept(results, tmp_path, capsys):
    path = tmp_path / "paper_linked.json"
    path.write_text((results / "paper_linked.json").read_text())
    assert linked.main([*WORDS, "--lam", "0.2", "--output", str(path)]) == 2
    assert "has results for other settings" in capsys.readouterr().err
    assert read(path) == read(results / "paper_linked.json")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--only", "gelu"], "--only gelu: must be one of relu, relu_wide, linked_relu, batch_norm, prelu"),
        (["--network", "resnet50", "--only", "prelu"], "--only prelu: must be one of relu, relu_batch_norm"),
        (["--train", "9"], "--train and --test need CIFAR-10: --data FILE.npz"),
        (["--lam", "nan"], "--lam must be 0 or more, got nan"),
        (["--learning-rate", "-1"], "--learning-rate must be 0 or more, got -1"),
        (["--data", "nowhere"], "nowhere"),
        (["--data", "nowhere.npz"], "nowhere.npz"),
        (["--device", "abacus"], "--device abacus"),
    ],
)
def test_mistakes_are_named(words, text, tmp_path, capsys):
    assert linked.main([*words, "--output", str(tmp_path / "x.json")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and text in error
    assert not (tmp_path / "x.json").exists()


def test_published_figures_are_of_variants():
    for network, figures in linked_report.PUBLISHED.items():
        assert set(figures) <= set(VARIANTS[network])
    assert set(linked_report.PUBLISHED_STEPS) <= set(linked_steps.TIMED["resnet50"])


def test_the_report_has_tables_and_a_picture(results, tmp_path):
    (tmp_path / "docs").mkdir()
    page, other = (tmp_path / document for document in report.DOCUMENTS)
    names = ["linked-conditions", "linked-variants", "figure-paper_linked_accuracy", "linked-steps"]
    page.write_text("".join(f"<!-- begin {name} -->\n<!-- end {name} -->\n" for name in names))
    other.touch()
    assert report.main(["--results", str(results), "--root", str(tmp_path)]) == 0
    text = page.read_text()
    assert "1,198 training and 599 test images; a 7×7 convolution of stride 2 and 2 3×3 conv" in text
    assert "| Linked ReLU | 2," in text and "| 0.56 to 0.57 |" in text
    assert "| the depth network | Linked ReLU | 2 | " in text and "| 1.00 |  |" in text
    picture = tmp_path / "docs" / "figures" / "paper_linked_accuracy.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_networks_that_diverged_are_told_of(results):
    record = read(results / "paper_linked.json")
    run = record["tasks"]["batch_norm/0"]["runs"][0]
    run |= {"diverged": True, "never_positive": None, "always_positive": None}
    assert "| BatchNorm (1 of 2 diverged) | " in linked_report.variant_table(record)
    assert "4 networks (1 diverged)" in linked_report.conditions(record)
