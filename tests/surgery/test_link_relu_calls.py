"""What link_relu makes of calls that are written in other ways, and of inputs that it cannot know."""

import pytest
import torch
import torch.nn.functional as F
from surgery.link_models import quietly_link
from torch import nn

from jumpstart_kernels import link_relu


class Calls(nn.Module):
    """Two convolutions whose ReLUs are put together by ``join``, and read one by one."""

    def __init__(self, join, units=8):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.joined, self.single = nn.Conv2d(units, 5, 1), nn.Conv2d(4, 5, 1)
        self.join = join

    def forward(self, x):
        first, second = F.relu(self.first(x)), F.relu(self.second(x))
        joined = self.joined(self.join(first, second))
        return joined + self.single(first) + self.single(second)


class Spread(nn.Module):
    """A reduction by ``reduce`` beside a layer that reads the same units."""

    def __init__(self, reduce):
        super().__init__()
        self.first, self.read, self.other = nn.Conv1d(3, 4, 1), nn.Linear(4, 6), nn.Conv1d(4, 6, 1)
        self.reduce = reduce

    def forward(self, x):
        hidden = F.relu(self.first(x))
        return self.read(self.reduce(hidden)) + self.other(hidden).mean(2)


def pad(x, value):
    """Called as a function of PyTorch's, and another."""
    return x.flip(1) + value


torch.fx.wrap("pad")

JOINS = {
    "dim": (lambda a, b: torch.cat([a, b], dim=1), 8),
    "axis": (lambda a, b: torch.cat([a, b], axis=1), 8),
    "keepdims": (lambda a, b: a + b.mean(dim=(2, 3), keepdims=True), 4),
    "keepdim": (lambda a, b: a + b.mean(dim=(2, 3), keepdim=True), 4),
    "out of range": (lambda a, b: a + torch.exp(100 * b).clamp(max=1.0), 4),
    "of the user": (lambda a, b: a + pad(b, 1), 4),
}


@pytest.mark.parametrize("with_example", (False, True))
@pytest.mark.parametrize("name", JOINS)
def test_other_ways_to_write_a_call(name, with_example):
    torch.manual_seed(0)
    join, units = JOINS[name]
    model, x = Calls(join, units).double().eval(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    expected = model(x)
    quietly_link(model, example_inputs=x if with_example else None)
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "reduce",
    (
        lambda x: x.std(2, True),  # unbiased
        lambda x: x.mean(2),
        lambda x: torch.var(x, dim=2),
        lambda x: x.amax(-1),
    ),
)
def test_other_ways_to_reduce(reduce):
    torch.manual_seed(0)
    model, x = Spread(reduce).double(), torch.randn(8, 3, 7, dtype=torch.float64)
    expected = model(x)
    quietly_link(model)
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)


def test_inputs_without_a_batch_need_an_example():
    torch.manual_seed(0)
    x = torch.randn(3, 6, 6, dtype=torch.float64)

    def make():
        torch.manual_seed(0)
        return Calls(lambda a, b: torch.cat([a, b], 0)).double()

    expected, model = make()(x), make()
    quietly_link(model, example_inputs=x)
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
    model = make()
    quietly_link(model)
    with pytest.raises(RuntimeError, match="takes inputs to be batches, unless its example_inputs"):
        model(x)


def test_slopes_of_several_dtypes_are_refused():
    model = nn.Sequential(
        nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).bfloat16()
    )
    before = dict(model.state_dict())
    with pytest.raises(ValueError, match="activation must not be 'prelu'"):
        link_relu(model, activation="prelu")
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
