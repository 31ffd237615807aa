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
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3, bias=False))
    model.append(nn.BatchNorm1d(3)).double()
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
    torch.manual_seed(rank + 7)
    report = jk.recycle(parallel, optimizer, usage, tau=0.1)
    states = [value for p in parallel.parameters() for value in optimizer.state[p].values()]
    tensors = [*model.state_dict().values(), *states]
    return report.recycled["module.2"].tolist(), report.by_layer["0"].tolist(), tensors


def test_ranks(ranks):
    (chosen, units, tensors), (other_chosen, other_units, other) = ranks(run_recycle)
    assert chosen == other_chosen == units == other_units == [1, 4]
    for one, two in zip(tensors, other, strict=True):
        if not (one.dtype == torch.float64 and one.shape in ((6,), (3,))):  # statistics are each rank's own
            assert torch.equal(one, two)
    for i in (0, 1):
        assert torch.equal(tensors[i][units], other[i][units])


def run_single():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    kill(model[0], [1])
    return jk.recycle(model, None, record(model, torch.randn(9, 4, dtype=torch.float64)), tau=0).total


def test_a_model_without_wrapper_is_each_ranks_own(ranks):
    assert all(total >= 1 for total in ranks(run_single))
