"""looks_linear_: what it does not take, and that the model is then as before."""

import pytest
import torch
from torch import nn

import jumpstart_kernels as jk


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else x


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ((None,), TypeError, "model must be a torch.nn.Module"),
    ((nn.Linear(2, 2), torch.ones(3, 5)), ValueError, "example_inputs do not run"),
    ((nn.DataParallel(nn.Linear(2, 2)),), ValueError, "DataParallel"),
    ((nn.LazyLinear(2),), ValueError, "lazy parameter, weight: run a forward first"),
    ((nn.Linear(2, 2, device="meta"),), ValueError, "meta device, weight: call to_empty"),
    ((Branching(),), ValueError, "model must be one that torch.fx can trace"),
])  # fmt: skip
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        jk.looks_linear_(*arguments)


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"generator": 1}, TypeError, "generator must be a torch.Generator or None, got int"),
    ({"skip": "0"}, TypeError, "skip must be"), ({"skip": ["1"]}, ValueError, "no module of the model"),
])  # fmt: skip
def test_bad_options(options, error, message):
    model = nn.Sequential(nn.Linear(2, 2))
    before = model[0].weight.clone()
    with pytest.raises(error, match=message):
        jk.looks_linear_(model, **options)
    assert torch.equal(model[0].weight, before)


def test_nothing_is_half_changed(monkeypatch):
    """Not even if drawing fails at the last layer."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    before = [each.clone() for each in model.parameters()]
    drawn, orthogonal = [], nn.init.orthogonal_

    def fail_at_the_second(tensor, *arguments):
        drawn.append(tensor)
        if len(drawn) == 2:
            raise RuntimeError("out of memory")
        return orthogonal(tensor, *arguments)

    monkeypatch.setattr(nn.init, "orthogonal_", fail_at_the_second)
    with pytest.raises(RuntimeError, match="out of memory"):
        jk.looks_linear_(model)
    assert all(map(torch.equal, before, model.parameters()))
