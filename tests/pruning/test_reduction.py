"""Attempts at a removal: what is refused leaves no trace, what is 0 needs nothing in its place."""

import pytest
import torch
from pruning.planted import batches, plant, same
from pruning.prune_models import CASES, PLAIN
from torch import nn

from jumpstart_kernels.pruning import permutation_prune
from jumpstart_kernels.pruning.bypassing import obstacle_to_bypass
from jumpstart_kernels.pruning.reduction import Reduction


def state_of(reduction):
    """All that there is of the working copy."""
    network = reduction.network
    modules = dict(network.model.named_modules())
    return {
        "modules": {name: id(module) for name, module in modules.items()},
        "state": {name: tensor.clone() for name, tensor in network.model.state_dict().items()},
        "tensors": [id(each) for each in (*network.model.parameters(), *network.model.buffers())],
        "sizes": {
            name: {key: value for key, value in vars(module).items() if isinstance(value, int)}
            for name, module in modules.items()
        },
        "left": [left.clone() for left in network.left.values()],
        "maps": {name: tuple(each) for name, each in network.maps.items()},
        "bypassed": [units.name for units in network.bypassed],
    }


@pytest.mark.parametrize("name", PLAIN)
def test_refused_attempts_leave_no_trace(name, monkeypatch):
    case = CASES[name]
    reduction = Reduction(plant(case), batches(case, sizes=(40,)))
    sets = [units for units in reduction.structure.sets if not units.obstacle]
    for repair in (False, True):  # at first nothing is removed before
        for units in sets:
            look, before = reduction.look(units), state_of(reduction)
            with monkeypatch.context() as patched:
                patched.setattr(reduction.decisions, "check", lambda *_: None)
                for removed in ([2], [0, 1, 3]):
                    removed = torch.tensor(
                        [each for each in removed if each in reduction.network.left[units]]
                    )
                    assert reduction.attempt(units, look, removed, repair) is None
                if not obstacle_to_bypass(reduction, units):
                    assert reduction.attempt_bypass(units) is None
            assert same(state_of(reduction), before)
            reduction.attempt(units, reduction.look(units), torch.tensor([2]), repair=False)


def test_a_forward_that_fails_without_a_layer_leaves_no_trace(monkeypatch):
    case = CASES["mlp"]
    reduction = Reduction(plant(case), batches(case))
    units, before = reduction.structure.sets[1], state_of(reduction)

    def fail(*_):
        raise AttributeError

    monkeypatch.setattr(reduction.decisions, "check", fail)
    assert reduction.attempt_bypass(units) is None
    assert same(state_of(reduction), before)


def test_given_model_is_copied_at_once():
    case = CASES["mlp"]
    model = plant(case)
    reduction = Reduction(model, batches(case))
    for parameter in model.parameters():
        parameter.data.zero_()
    assert reduction.given[0].weight.any()


def test_what_is_constant_behind_a_dead_unit_goes_into_the_bias():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 3)).double()
    with torch.no_grad():
        model[0].bias[2] = -1e3
        for tensor in (model[2].bias, model[2].running_mean):
            tensor.copy_(torch.randn(8))
    x = torch.randn(96, 4, dtype=torch.float64)
    result = permutation_prune(model, [x])
    assert result.report.layers[0].dead == (2,)
    torch.testing.assert_close(result.model.eval()(x), model.eval()(x), rtol=1e-9, atol=1e-9)
    assert result.model[2].num_features == 7


def test_a_dead_unit_whose_preactivation_is_read_stays():
    class Skipping(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            x = self.a(x)
            return self.c(x + self.b(x.relu()))

    torch.manual_seed(0)
    model, x = Skipping().double(), torch.randn(96, 4, dtype=torch.float64)
    with torch.no_grad():
        model.a.bias[2] = -3
        model.a.weight[2] *= 0.5
        model.c.weight[:, 2] *= 10
    assert not (model.a(x)[:, 2] > 0).any()
    result = permutation_prune(model, [x])
    torch.testing.assert_close(result.model(x), model(x), rtol=1e-8, atol=1e-8)
    assert result.model.a.out_features == 6


@pytest.mark.parametrize("positions", [1, 500, 10**9])
def test_few_positions_find_the_same(positions):
    case = CASES["conv_net"]
    reduction = Reduction(plant(case), batches(case), positions=positions)
    look = reduction.look(reduction.structure.sets[0])
    assert look.values[0].shape == (6, 128 * min(max(positions // 128, 1), 64))
    result = permutation_prune(plant(case), batches(case), positions=positions)
    assert (result.report.flips, 2 in result.report.layers[0].dead) == (0, True)
