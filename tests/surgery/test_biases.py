"""Which biases replace_relu moves into the activations, and how it undoes that."""

import copy
import logging
import pickle

import pytest
import torch
import torch.nn.functional as F
from fused_bias import draw, fused, results, with_and_without
from surgery.models import FunctionalCNN, ModularCNN, build, fingerprint, mlp, run
from torch import nn

import jumpstart_kernels as jk
from jumpstart_kernels.nn.deferred_bias import DeferredBias
from jumpstart_kernels.surgery import biases, replace_relu, restore_relu


def names_of(model):
    return [name for name, module in model.named_modules() if isinstance(module, DeferredBias)]


def test_round_trip(case):
    model, x, options = case
    model, x = model.double(), x.double()
    before, plain = fingerprint(model), copy.deepcopy(model)
    model, without = with_and_without(model, activations=("relu",), **options)
    assert names_of(model) or isinstance(model, nn.ReLU)
    for training in (True, False):
        expected = run(plain.train(training), x)
        torch.testing.assert_close(run(model.train(training), x), expected)
    model.train(), without.train()
    jk.clear_records(model)
    if names_of(model):
        found = [results(each, x, lambda y, each=each: run(each, y)) for each in (model, without)]
        torch.testing.assert_close(*found)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(run(other, x), run(model, x))
        torch.testing.assert_close(run(restore_relu(other), x), run(plain.train(), x))
        assert not names_of(other)
    model.zero_grad()
    jk.clear_records(model)
    assert restore_relu(model) is model
    assert fingerprint(model) == before


class Modules(nn.Module):
    """Layers and activations of one forward, found by its trace."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.relu1 = nn.ReLU()
        self.convs = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 3, 1)])
        self.relus = nn.ModuleDict({"a": nn.ReLU(), "b": nn.ReLU()})
        self.downsample = None
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 2))

    def forward(self, x, mask=None, double=False):
        x = self.relu1(self.conv1(x))
        for conv, relu in zip(self.convs, self.relus.values(), strict=True):
            x = relu(conv(x))
        if self.downsample is not None:
            x = self.downsample(x)
        if mask is not None:
            x = x * mask
        return self.head(x * 2 if double else x)


class Nested(nn.Module):
    """A block that is called twice, below a forward with loops of its own."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 1, 3, padding=1)
        self.blocks = nn.ModuleList([Modules(), Modules()])

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return sum(block(x) for block in self.blocks) + self.blocks[0](x)


class Residual(nn.Module):
    """The last layer of one sequence and the first of the next, in a forward and in a sequence."""

    def __init__(self):
        super().__init__()
        inner = nn.Sequential(nn.ReLU(), nn.Linear(4, 4))
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4)), inner)
        self.tail = nn.Sequential(nn.Sequential(nn.ReLU()), nn.Linear(4, 4))
        self.relu = nn.ReLU()
        self.skip = None

    def forward(self, x):
        x = self.tail(self.body(x))
        return F.relu(self.relu(x if self.skip is None else x + self.skip(x)) - 0.1)


@pytest.mark.parametrize("kind", [Residual, lambda: nn.Sequential(Residual(), nn.Linear(4, 4), nn.ReLU())])
def test_across_sequences(kind):
    model, without = with_and_without(build(kind))
    inner = ["body.0", "body.2.0", "body.3.1", "tail.1"]
    assert names_of(model)[:4] == [f"0.{name}" if kind is not Residual else name for name in inner]
    found = [results(each, draw(5, 4)) for each in (model, without)]
    torch.testing.assert_close(*found)
    other = copy.deepcopy(model)
    torch.testing.assert_close(results(other, draw(5, 4)), found[1])
    block, plain = (other, without) if kind is Residual else (other[0], without[0])
    block.body = plain.body  # with the last layer of the sequence its link goes, too
    torch.testing.assert_close(other(draw(5, 4)), without(draw(5, 4)))


@pytest.mark.parametrize("mask", [None, 2.0])
def test_modules_of_a_forward(mask):
    model, without = with_and_without(build(Modules))
    assert names_of(model) == ["conv1", "convs.0", "convs.1", "head.1"]
    x = draw(3, 1, 6, 6)
    found = [results(each, x, lambda y, each=each: each(y, mask, double=True)) for each in (model, without)]
    torch.testing.assert_close(*found)


def test_blocks():
    model, without = with_and_without(build(Nested))
    inner = ["conv1", "convs.0", "convs.1", "head.1"]
    assert names_of(model) == ["stem", *(f"blocks.{i}.{name}" for i in (0, 1) for name in inner)]
    torch.testing.assert_close(*(results(each, draw(3, 1, 6, 6)) for each in (model, without)))


def test_modules_and_calls():
    for kind, expected in ((FunctionalCNN, ["conv1", "conv2"]), (ModularCNN, ["conv1"])):
        model = replace_relu(build(kind), fuse_bias=True)
        assert names_of(model) == (expected if kind is FunctionalCNN else ["conv1", "conv2"])


class Shared(nn.Module):
    """A layer and its activation, called three times, always one behind the other."""

    def __init__(self):
        super().__init__()
        self.fc, self.relu = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x):
        for _ in range(3):
            x = self.relu(self.fc(x))
        return x


def test_a_pair_called_again():
    model, without = with_and_without(build(Shared))
    assert fused(model) == ["fc"]
    torch.testing.assert_close(*(results(each, draw(5, 4)) for each in (model, without)))


class ByArgument(nn.Module):
    """What it calls depends on an argument that no trace has seen."""

    def __init__(self):
        super().__init__()
        self.fc, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, more=False, raw=False):
        if raw:
            return self.fc(x)
        x = F.relu(self.fc(x))
        return F.relu(self.other(x)) if more else x


@pytest.mark.parametrize("make_copy", [lambda x: x, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("mode", [True, False])
def test_calls_traced_later(make_copy, mode):
    model, without = with_and_without(build(ByArgument))
    model, x = make_copy(model), draw(5, 4)
    assert fused(model) == ["fc"]
    model.train(mode), without.train(mode)
    torch.testing.assert_close(model(x), without(x))
    torch.testing.assert_close(model(x, True), without(x, True))  # adds a layer, with a producer
    assert fused(model.train()) == ["fc", "other"]
    model.train(mode)
    torch.testing.assert_close(model(x, raw=True), without(x, raw=True))  # its bias is needed elsewhere
    assert fused(model.train()) == ["other"]
    for arguments in ((), (True,), (False, True)):
        torch.testing.assert_close(model(x, *arguments), without.train()(x, *arguments))
    assert not names_of(restore_relu(model))


class Unforeseen(ByArgument):
    """A call that cannot be traced runs as it is, with functional calls."""

    def forward(self, x, scale=None):
        x = F.relu(self.fc(x))
        if scale is not None and scale > 1:
            return x * scale
        return x


def test_calls_that_cannot_be_traced():
    model, without = with_and_without(build(Unforeseen))
    x = draw(5, 4)
    torch.testing.assert_close(model(x), without(x))
    with pytest.warns(UserWarning, match="is called in a way"):
        found = model(x, torch.tensor(2.0))
    with pytest.warns(UserWarning, match="is called in a way"):
        torch.testing.assert_close(found, without(x, torch.tensor(2.0)))
    assert fused(model) == []
    torch.testing.assert_close(model(x), without(x))


def test_restoring_a_part():
    model, without = with_and_without(mlp())
    for part, left in ((model[1], ["2"]), (model[2], [])):
        restore_relu(part)
        assert names_of(model) == left
        torch.testing.assert_close(model(draw(6, 4)), without(draw(6, 4)))
    assert type(model[3]) is jk.JumpstartReLU


def test_replacing_again_changes_nothing():
    model = replace_relu(mlp(), fuse_bias=False)
    assert not names_of(replace_relu(model, fuse_bias=True))
    model = replace_relu(restore_relu(model), fuse_bias=True)
    before = fingerprint(model)
    assert fingerprint(replace_relu(model, fuse_bias=False)) == before
    model = replace_relu(replace_relu(mlp(), skip=["1"], fuse_bias=True), fuse_bias=True)
    assert names_of(model) == ["0", "2"]


def test_auto_measures_nothing_yet():
    model, before = mlp(), fingerprint(mlp())[0]
    assert [type(module) for module in replace_relu(model)][::2] == [nn.Linear, nn.Linear]
    assert [kind for _, kind, *_ in fingerprint(model)[0]][1::2] == [kind for _, kind, *_ in before][1::2]


def test_arguments():
    model = mlp()
    before = fingerprint(model)
    for fuse_bias, error in ((1, TypeError), (None, TypeError), ("always", ValueError)):
        with pytest.raises(error, match="fuse_bias must be True, False or 'auto'"):
            replace_relu(model, fuse_bias=fuse_bias)
    assert fingerprint(model) == before


def test_a_failure_undoes_everything(monkeypatch):
    model = nn.Sequential(mlp(), build(FunctionalCNN))
    before = fingerprint(model)
    moves = []

    def failing(*arguments):
        found = biases.find_moves(*arguments)
        moves.extend(found.found)
        return found._replace(found=[*found.found, found.found[0]._replace(producer="x")])

    monkeypatch.setattr("jumpstart_kernels.surgery.replace.find_moves", failing)
    with pytest.raises(AttributeError):
        replace_relu(model, fuse_bias=True)
    assert len(moves) == 4
    assert fingerprint(model) == before


def test_it_is_logged(caplog):
    caplog.set_level(logging.INFO, "jumpstart_kernels")
    replace_relu(Modules(), fuse_bias=True)
    assert "activations add the biases of 4 layers" in caplog.text
