"""Calls of a layer without its activation that no trace of a forward shows: its bias stays where it is."""

import copy

import pytest
import torch
import torch.nn.functional as F
from surgery.test_biases import names_of
from torch import nn

from jumpstart_kernels.surgery import replace_relu


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.act = nn.Linear(4, 4), nn.ReLU()
        self.residual, self.mode = False, "plain"

    def forward(self, x):
        return self.act(self.fc(x))


class ByIdentity(Pair):
    def forward(self, x):
        h = self.fc(x)
        return self.act(h) + h if self.residual is True else self.act(h)


class BySet(Pair):
    def forward(self, x):
        h = self.fc(x)
        return h if self.mode in {"raw", "both"} else self.act(h)


class ByDict(Pair):
    def forward(self, x):
        h = self.fc(x)
        return h if {"raw": 1}.get(self.mode) else self.act(h)


class ByArgumentsIdentity(Pair):
    def forward(self, x, raw=None):
        h = self.fc(x)
        return h if raw is True else self.act(h)


class OfTheClass(Pair):
    raw = False

    def forward(self, x):
        h = self.fc(x)
        return h if self.raw else self.act(h)


class OfAChild(Pair):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.0)

    def forward(self, x):
        h = self.fc(x)
        if self.drop.p > 0:
            h = self.drop(h)
        return self.act(h)


class OtherMethod(Pair):
    def raw(self, x):
        return self.fc(x)


class FunctionalMethod(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.head = nn.Linear(4, 4), nn.Linear(4, 4)

    def encode(self, x):
        return F.relu(self.fc(x))

    def forward(self, x):
        return self.head(self.encode(x))


class Alias(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Pair()
        self.tied = [self.block.fc]

    def forward(self, x):
        return self.block(x) + self.tied[0](x)


class TwoHolders(Alias):
    """The owner holds it, too."""

    def __init__(self):
        super().__init__()
        self.block.own = (self.block.fc,)


LEFT = [
    ByIdentity, BySet, ByDict, ByArgumentsIdentity, OfTheClass, OfAChild, OtherMethod, FunctionalMethod,
    Alias, TwoHolders,
]  # fmt: skip


@pytest.mark.parametrize("kind", LEFT)
def test_left_alone(kind):
    assert not names_of(replace_relu(kind(), fuse_bias=True))


def test_none_may_be_compared_with():
    class Optional(Pair):
        def forward(self, x, scale=None):
            x = x if scale is None else x * scale
            return self.act(self.fc(x))

    assert names_of(replace_relu(Optional(), fuse_bias=True)) == ["fc"]


def test_a_method_that_calls_both():
    class Both(Pair):
        def forward(self, x):
            return self.encode(x)

        def encode(self, x):
            return self.act(self.fc(x))

    model, x = replace_relu(Both(), fuse_bias=True), torch.randn(3, 4)
    assert names_of(model) == ["fc"]
    torch.testing.assert_close(model.encode(x), copy.deepcopy(model).eval()(x))


@pytest.mark.parametrize(
    "method", (lambda seq: seq.append(nn.Tanh()), lambda seq: seq.add_module("t", nn.Tanh()))
)
def test_what_comes_between_later(method):
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.ReLU())
    model, x = replace_relu(model, fuse_bias=True), torch.randn(3, 4)
    assert names_of(model) == ["0.0"]
    method(model[0])
    torch.testing.assert_close(
        model(x), F.relu(torch.tanh(F.linear(x, model[0][0].weight, model[0][0].bias)))
    )


def test_shallow_copies_of_one_of_the_two():
    model, x = replace_relu(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), fuse_bias=True), torch.randn(3, 4)
    layer, activation = map(copy.copy, model)
    torch.testing.assert_close(layer(x), F.linear(x, model[0].weight, model[0].bias))
    assert torch.equal(activation(x), x.relu())
    torch.testing.assert_close(model(x), layer(x).relu())


def test_transformers_of_another_activation():
    model = nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, activation="gelu"), nn.Linear(4, 4), nn.ReLU())
    assert names_of(replace_relu(model, fuse_bias=True)) == ["1"]
