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
    ((nn.Linear(2, 2), torch.ones(3, 5)), ValueError, r"example_inputs do not run: .*3.*5"),
    ((nn.DataParallel(nn.Linear(2, 2)),), ValueError, "DataParallel"),
    ((nn.LazyLinear(2),), ValueError, "lazy parameter, weight: run a forward first"),
    ((nn.Linear(2, 2, device="meta"),), ValueError, "meta device, weight: call to_empty"),
    ((Branching(),), ValueError, "model must be one that torch.fx can trace"),
    ((torch.jit.script(nn.Linear(2, 2)),), ValueError, "the model is a ScriptModule"),
])  # fmt: skip
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        jk.looks_linear_(*arguments)


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"generator": 1}, TypeError, "generator must be a torch.Generator or None, got int"),
    ({"skip": "0"}, TypeError, "skip must be"), ({"skip": len}, TypeError, "skip must be"),
    ({"skip": ["1"]}, ValueError, "no module of the model"),
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


def test_parameters_made_in_inference_mode():
    with torch.inference_mode():
        layer = nn.Linear(4, 2)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), layer)
    before = model[0].weight.clone()
    with pytest.raises(ValueError, match=r"made in inference mode, 2\.weight"):
        jk.looks_linear_(model)
    assert torch.equal(model[0].weight, before)


def test_an_example_that_does_not_fit_is_explained_on_one_line(capsys):
    with pytest.raises(ValueError, match="to have 2 channels, but got 3 channels") as error:
        jk.looks_linear_(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()), torch.ones(2, 3, 8, 8))
    assert "Traceback" not in capsys.readouterr().err and "\n" not in str(error.value)
