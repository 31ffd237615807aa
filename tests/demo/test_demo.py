"""The demo: data, networks, training and output."""

import sys
from itertools import pairwise

import pytest
import torch
from torch import nn

pytest.importorskip("sklearn", reason="the demo's data sets come with scikit-learn")
pytest.importorskip("matplotlib", reason="the demo draws with matplotlib")
pytest.importorskip("rich", reason="the demo prints with rich")

import jumpstart_kernels as jk
from jumpstart_kernels import demo
from jumpstart_kernels.demo import training
from jumpstart_kernels.demo.data import load_data
from jumpstart_kernels.demo.figure import Column, draw_figure

SHAPES = {  # (training samples, test samples, features, classes)
    "wine": (118, 60, 13, 3),
    "breast_cancer": (379, 190, 30, 2),
    "digits": (1198, 599, 64, 10),
}


@pytest.mark.parametrize("name", SHAPES)
def test_data_is_split_by_thirds(name):
    data = load_data(name, seed=0)
    train, test, features, classes = SHAPES[name]
    assert data.x_train.shape == (train, features) and data.x_test.shape == (test, features)
    assert data.y_train.shape == (train,) and data.y_test.shape == (test,)
    assert data.x_train.dtype == torch.float32 and data.y_train.dtype == torch.int64
    assert (data.features, data.classes) == (features, classes)


@pytest.mark.parametrize("name", SHAPES)
def test_split_is_stratified(name):
    data = load_data(name, seed=0)
    train, test = (labels.bincount() / len(labels) for labels in (data.y_train, data.y_test))
    torch.testing.assert_close(train, test, atol=0.01, rtol=0)


def test_chance_is_the_most_frequent_class():
    data = load_data("breast_cancer", seed=0)
    assert data.chance == pytest.approx((data.y_test == 1).float().mean().item())
    assert data.chance > 0.6


@pytest.mark.parametrize("name", SHAPES)
def test_data_is_standardized_by_its_training_part(name):
    data = load_data(name, seed=0)
    varied = data.x_train.std(0) > 0  # some pixels of the digits are always off
    assert varied.sum() > 0.8 * data.features
    torch.testing.assert_close(data.x_train.mean(0), torch.zeros(data.features), atol=1e-5, rtol=0)
    deviation = data.x_train[:, varied].std(0, correction=0)
    torch.testing.assert_close(deviation, torch.ones_like(deviation), atol=1e-4, rtol=0)
    assert data.x_test.mean(0).abs().max() > 0.01  # the test part was not looked at


def test_seed_decides_the_split():
    first, again, other = (load_data("wine", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.x_train, again.x_train) and torch.equal(first.y_test, again.y_test)
    assert not torch.equal(first.x_train, other.x_train)


def test_network_has_its_depth_and_width():
    model = training.build_network(13, 3)
    kinds = [type(module) for module in model]
    assert kinds == [nn.Linear, nn.ReLU] * 50 + [nn.Linear]
    linears = [module for module in model if isinstance(module, nn.Linear)]
    assert linears[0].in_features == 13 and linears[-1].out_features == 3
    assert all(before.out_features == after.in_features == 4 for before, after in pairwise(linears))


def test_batch_norm_stands_before_each_relu():
    kinds = [type(module) for module in training.build_network(13, 3, depth=2, batch_norm=True)]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear]


def test_runs_start_from_the_same_weights():
    random_state = torch.get_rng_state()
    plain, batch_norm, jumpstart = training.build_runs(load_data("wine", seed=0), seed=3, lam=0.5)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [plain.lam, batch_norm.lam, jumpstart.lam] == [0, 0, 0.5]
    assert sum(type(module) is nn.ReLU for module in plain.model.modules()) == 50
    assert sum(type(module) is jk.JumpstartReLU for module in jumpstart.model.modules()) == 50
    expected = plain.model.state_dict()
    assert all(torch.equal(expected[name], weight) for name, weight in jumpstart.model.state_dict().items())
    linears = [[m.weight for m in run.model if isinstance(m, nn.Linear)] for run in (plain, batch_norm)]
    assert all(torch.equal(*weights) for weights in zip(*linears, strict=True))


def test_training_step_adds_the_penalty():
    data = load_data("wine", seed=0)
    _, _, run = training.build_runs(data, seed=0, lam=0.5, depth=3)
    x, y = data.x_train[:32], data.y_train[:32]
    with_penalty = nn.functional.cross_entropy(run.model(x), y) + 0.5 * jk.penalty(run.model)
    expected = torch.autograd.grad(with_penalty, list(run.model.parameters()))
    optimizer = torch.optim.SGD(run.model.parameters(), lr=0.0)
    training.train_step(run.model, optimizer, x, y, run.lam)
    for parameter, gradient in zip(run.model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def train_shortly(seed=0, epochs=3):
    data = load_data("wine", seed)
    runs = training.build_runs(data, seed, lam=0.3, depth=8)
    training.train(runs, data, epochs, seed, batch_size=50)
    return data, runs


def test_training_fills_in_its_figures():
    data, runs = train_shortly()
    for run in runs:
        assert [epoch for epoch, _ in run.curve] == [0, 1, 2, 3]
        assert len(run.step_seconds) == 9  # 118 samples in batches of 50, 50 and 18
        assert run.median_step > 0
        assert run.unit_status.shape == (8, 4)
        assert sum(run.share(status) for status in (-1, 0, 1)) == pytest.approx(1)
        run.model.eval()
        right = run.model(data.x_test).argmax(1) == data.y_test
        assert run.accuracy == pytest.approx(right.float().mean().item())


def test_unit_status_is_that_of_the_training_data():
    data, (run, *_) = train_shortly()
    x, expected = data.x_train, []
    for module in run.model:
        if isinstance(module, nn.ReLU):
            dead, linear = x.amax(0) <= 0, x.amin(0) > 0
            expected.append(torch.where(dead, -1, torch.where(linear, 0, 1)))
        x = module(x)
    assert torch.equal(run.unit_status, torch.stack(expected).to(torch.int8))


def test_long_curves_have_a_hundred_points_and_the_last_epoch():
    data = load_data("wine", seed=0)
    run = training.Run("plain", model=training.build_network(13, 3, depth=1))
    training.train([run], data, epochs=205, seed=0)
    epochs = [epoch for epoch, _ in run.curve]
    assert epochs[:3] == [0, 2, 4] and epochs[-2:] == [204, 205]


def test_same_seed_same_training():
    (_, first), (_, again), (_, other) = train_shortly(), train_shortly(), train_shortly(seed=1)
    for run, same, different in zip(first, again, other, strict=True):
        assert run.curve == same.curve
        assert torch.equal(run.unit_status, same.unit_status)
        weights = [list(each.model.parameters()) for each in (run, same, different)]
        assert all(torch.equal(one, two) for one, two in zip(*weights[:2], strict=True))
        assert not torch.equal(weights[0][0], weights[2][0])


def test_jumpstart_revives_a_network_that_plain_training_leaves_dead():
    data = load_data("breast_cancer", seed=0)
    plain, _, jumpstart = training.build_runs(data, seed=0, lam=0.3)
    with training.one_thread():
        training.train([plain, jumpstart], data, epochs=120, seed=0)
    assert plain.share(1) < 0.1
    assert jumpstart.share(1) > 3 * plain.share(1)


def test_one_thread_puts_the_threads_back():
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="stop"), training.one_thread():
        assert torch.get_num_threads() == 1
        raise RuntimeError("stop")
    assert torch.get_num_threads() == threads


def test_demo_prints_a_table_and_writes_the_figure(tmp_path, capsys):
    output = tmp_path / "demo.png"
    assert demo.run(["wine"], epochs=3, seed=0, output=output) == 0
    printed = capsys.readouterr().out
    assert "loss = criterion(model(x), y) + lam * jk.penalty(model)" in printed
    for word in (
        "Wine",
        "60 test samples",
        "lam = 0.2",
        "plain",
        "BatchNorm",
        "Jumpstart",
        "dead units",
        "1.00",
    ):
        assert word in printed
    assert output.read_bytes().startswith(b"\x89PNG") and output.stat().st_size > 20_000


def test_table_holds_the_figures():
    data, runs = train_shortly()
    columns = [list(column.cells) for column in demo.make_table(data, runs).columns]
    assert columns[0] == ["plain", "BatchNorm", "Jumpstart"]
    assert columns[1] == [f"{run.accuracy:.2f}" for run in runs]
    assert columns[2] == [f"{run.share(-1):.1%}" for run in runs]
    assert columns[3] == [f"{run.share(0):.1%}" for run in runs]
    assert [float(cell) for cell in columns[4]] == pytest.approx([run.median_step for run in runs], abs=1e-5)
    assert columns[5][0] == "1.00"


def test_figure_of_several_data_sets(tmp_path):
    data, runs = train_shortly()
    draw_figure([Column(data.title, data.chance, runs)] * 2, tmp_path / "demo.svg")
    assert "<svg" in (tmp_path / "demo.svg").read_text()


@pytest.mark.parametrize("module, package", demo.EXTRAS.items())
def test_missing_extra_is_named(module, package, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    assert demo.run(["wine"], epochs=1, seed=0, output=tmp_path / "demo.png") == 2
    message = f"error: the demo needs {package}: pip install jumpstart_kernels[demo]\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    "change, message",
    [
        ({"datasets": []}, "datasets must name at least one"),
        ({"datasets": ["iris"]}, "datasets must be one of 'wine', 'breast_cancer', 'digits', got 'iris'"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"seed": -1}, "seed must be in"),
        ({"output": "demo.txt"}, r"output must be a \.png, \.svg, \.pdf file, got '.*demo\.txt'"),
        ({"output": "nowhere/demo.png"}, "output must be in an existing folder"),
    ],
)
def test_bad_arguments_are_named_before_any_work(change, message, tmp_path, capsys):
    arguments = {"datasets": ["wine"], "epochs": 1, "seed": 0, "output": "demo.png"} | change
    arguments["output"] = tmp_path / arguments["output"]
    with pytest.raises(ValueError, match=message):
        demo.run(**arguments)
    assert capsys.readouterr().out == ""
