"""unit_usage over a loader, its report as a table, and the errors."""

import copy
from collections import UserDict

import numpy
import pytest
import torch
from torch import Tensor, nn
from usage.definition import (
    Parallel,
    assert_unwatched,
    definition,
    mixed,
    watched,
)

from jumpstart_kernels.usage.loader import unit_usage
from jumpstart_kernels.usage.metric import UnitUsage

WRAPS = {
    "tensor": lambda x: x,
    "tuple": lambda x: (x, 0),
    "list": lambda x: [x],
    "array": lambda x: x.numpy(),
    "float64 array": lambda x: (x.double().numpy(), 0),
    "reversed array": lambda x: x.flip(0).numpy()[::-1],
    "array of another byte order": lambda x: x.numpy().astype(">f4"),
    "dict": lambda x: {"input": x},
    "mapping": lambda x: UserDict(input=x),
    "dict of arrays": lambda x: ({"input": x.numpy()}, 0),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_unit_usage_runs_the_loader_in_eval(wrap):
    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert not self.training and not torch.is_grad_enabled()
            return x

    x = mixed(12, 4)
    model = nn.Sequential(nn.BatchNorm1d(4), nn.ReLU(), Spy(), nn.Dropout(0.5))
    model[3].eval()
    flags = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    report = unit_usage(model, map(wrap, x.split(5)), progress=True)
    expected = definition([model.eval()[0](x).detach()])
    assert dict(report) == pytest.approx(expected)
    assert flags == [True, True, True, True, False]
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_unit_usage_puts_the_training_flags_back():
    model = nn.Sequential(nn.ReLU(), nn.Dropout(0.5), nn.Dropout(0.5))
    model[1].eval()
    unit_usage(model, [mixed(4, 3)])
    assert [module.training for module in model.modules()] == [True, True, False, True]


def test_the_report_prints_as_a_table():
    first = torch.tensor([[-1.0, 0.0], [1.0, 2.0], [1.0, -1.0], [2.0, 0.0]])
    second = torch.tensor([[3.0, 1.0, -1.0], [1.0, 2.0, 0.0], [0.5, -1.0, -2.0], [1.0, 0.5, -1.0]])
    report = watched(Parallel(nn.ReLU(), nn.ReLU()), [first, second]).report()
    expected = """
               units                            points
layer          count   dead  linear  nonlinear   count   dead  linear  nonlinear
activations.0      2   0.0%    0.0%     100.0%       4  25.0%   25.0%      50.0%
activations.1      3  33.3%   33.3%      33.3%       4   0.0%    0.0%     100.0%
--------------------------------------------------------------------------------
total              5  20.0%   20.0%      60.0%       8  12.5%   12.5%      75.0%
points: 25.0% dead in a layer, 0.0% linear in all, 50.0% nonlinear in all; efficiency 87.5%"""
    assert str(report) == repr(report) == expected.removeprefix("\n")


def test_errors_of_watch():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    for error, match, arguments in [
        (TypeError, "model must be a torch.nn.Module, got list", {"model": []}),
        (ValueError, "model has no nn.ReLU, nn.GELU or other hidden activation", {"model": nn.Linear(2, 2)}),
        (TypeError, "layers must be a list of names, got the str '1'", {"model": model, "layers": "1"}),
        (
            ValueError,
            r"layers must be names of modules of the model, got \['7'\]",
            {"model": model, "layers": ["7"]},
        ),
        (ValueError, r"layers must be names", {"model": model, "layers": []}),
        (TypeError, "unit_dim must be an int or 'auto', got float", {"model": model, "unit_dim": 1.0}),
    ]:
        with pytest.raises(error, match=match), UnitUsage().watch(**arguments):
            pytest.fail("watch took it")
        assert_unwatched(model)


def test_errors_of_a_forward_name_the_layer():
    with pytest.raises(ValueError, match="layer '0': unit_dim must be in"):
        watched(nn.Sequential(nn.ReLU()), [torch.ones(2, 3)], unit_dim=2)
    with pytest.raises(TypeError, match="layer '0': x must be float32"):
        watched(nn.Sequential(nn.ReLU()), [torch.ones(2, 3, dtype=torch.int64)])
    idle = nn.Identity()
    idle.relu = nn.ReLU()
    with pytest.raises(ValueError, match="no watched layer ran"):
        watched(idle, [torch.ones(2, 3)])
    with pytest.raises(RuntimeError, match="has seen no data"):
        watched(nn.Sequential(nn.ReLU()), [torch.ones(0, 3)]).compute()


def test_errors_of_unit_usage():
    model = nn.Sequential(nn.ReLU())
    with pytest.raises(ValueError, match="loader must yield at least one batch"):
        unit_usage(model, [])
    for batch in ((), [0, 1], {}, {1: torch.ones(2, 3)}, "text", None):
        with pytest.raises(TypeError, match="a batch of loader must be a tensor, an array, a dict of them"):
            unit_usage(model, [batch])
    with pytest.raises(TypeError, match="unexpected keyword argument 'label'"):
        unit_usage(model, [{"input": torch.ones(2, 3), "label": torch.ones(2)}])
    assert_unwatched(model)


def test_batches_of_a_language_model():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.fc, self.relu = nn.Embedding(10, 4), nn.Linear(4, 6), nn.ReLU()

        def forward(self, input_ids, attention_mask=None, return_dict=None):
            return {"logits": self.relu(self.fc(self.embedding(input_ids)))}

    torch.manual_seed(0)
    model, ids = Model(), torch.randint(10, (3, 5))
    batch = {"input_ids": ids.numpy(), "attention_mask": numpy.array(["a", "b"]), "return_dict": True}
    report = unit_usage(model, [batch])
    hidden = model.fc(model.embedding(ids)).detach()
    assert report.layers["relu"].units == 6
    assert report.layers["relu"].dead == int((hidden <= 0).flatten(0, 1).all(0).sum())
