"""Data-parallel ranks have the same weights after recycling, whatever each of them has seen and drawn."""

import pytest
import torch
from ranks import Ranks
from recycling.recorded import kill, record
from torch import nn

import jumpstart_kernels as jk


@pytest.fixture(scope="module")
def ranks():
    ranks = Ranks(2)
    yield ranks
    ranks.close()


def run_recycle():
    rank = torch.distributed.get_rank()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.Adam(parallel.parameters())
    x = torch.randn(32, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(rank))
    for _ in range(3):
        optimizer.zero_grad()
        parallel(x).square().sum().backward()
        optimizer.step()
    kill(model[1], [1, 2])
    with torch.no_grad():
        model[1].weight[4], model[1].bias[4] = 0, 0.001
    usage = record(parallel, x)
    usage.dormancy["module.2"][2] += rank  # it is of use to the second rank
    usage.unit_mean["module.2"] *= 1 + rank
    bias = model[3].bias + 1.5 * 0.001 * model[3].weight[:, 4]
    torch.manual_seed(rank + 7)
    report = jk.recycle(parallel, optimizer, usage, tau=0.1)
    torch.testing.assert_close(model[3].bias, bias, rtol=1e-12, atol=0)
    tensors = model.state_dict()
    for name, parameter in model.named_parameters():
        tensors.update({f"{name}, {key}": value for key, value in optimizer.state[parameter].items()})
    return report.recycled["module.2"].tolist(), report.by_layer["0"].tolist(), tensors


def test_ranks(ranks):
    (chosen, units, tensors), (other_chosen, other_units, other) = ranks(run_recycle)
    assert chosen == other_chosen == units == other_units == [1, 4]
    for name, tensor in tensors.items():
        kept = slice(None) if "running" not in name else units  # statistics are each rank's own
        one, two = (each.reshape(-1) if each.dim() == 0 else each for each in (tensor, other[name]))
        assert torch.equal(one[kept], two[kept]), name


def run_single():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    kill(model[0], [1])
    return jk.recycle(model, None, record(model, torch.randn(9, 4, dtype=torch.float64)), tau=0).total


def test_a_model_without_wrapper_is_each_ranks_own(ranks):
    assert all(total >= 1 for total in ranks(run_single))
