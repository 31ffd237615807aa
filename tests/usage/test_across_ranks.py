"""Usage of a model that several processes evaluate."""

import pytest
import torch.distributed as dist
from ranks import Ranks
from torch import nn
from usage.definition import cosine_definition, definition, mixed

from jumpstart_kernels.usage.metric import UnitUsage

PARTS = [(0, 3), (3, 8)], [(8, 12)]  # of each rank, uneven: two updates here, one there


@pytest.fixture(scope="module")
def ranks():
    ranks = Ranks(2)
    yield ranks
    ranks.close()


def watched(x, **options):
    """Has seen this rank's parts."""
    model, metric = nn.ReLU(), UnitUsage(**options)
    with metric.watch(model):
        for start, stop in PARTS[dist.get_rank()]:
            model(x[start:stop])
    return metric


def ratios(x):
    metric = watched(x)
    values = {name: float(value) for name, value in metric.compute().items()}
    report = metric.report()
    assert dict(report) == report.ratios and len(report.point_status) == 12, report
    assert len(metric.metric_state["point_status"]) == len(PARTS[dist.get_rank()]), "unsynced again"
    return values


def test_ratios_are_those_of_one_process(ranks):
    x = mixed(12, 4)
    for values in ranks(ratios, x):
        assert values == pytest.approx(definition([x]))


def report_without_data_on_one(x):
    metric = watched(x)
    if dist.get_rank() == 1:
        metric.reset()
    with pytest.raises(RuntimeError, match="every process must have seen a batch"):
        metric.report()


def test_a_process_without_data_is_an_error(ranks):
    ranks(report_without_data_on_one, mixed(12, 4))


def cosines(x):
    metric = watched(x, cosines=True)
    found = metric.report().cosines
    assert len(metric.metric_state["cosine_means"]) == len(PARTS[dist.get_rank()]), "unsynced again"
    return found


def test_cosines_are_the_mean_over_the_batches_of_both(ranks):
    x = mixed(12, 4)
    total = [(len(part) * (len(part) - 1), cosine_definition(part)) for part in x.split((3, 5, 4))]
    expected = sum(n * cosine for n, cosine in total) / sum(n for n, _ in total)
    for found in ranks(cosines, x):
        assert found == pytest.approx({"": expected}, abs=1e-6)


def report_with_cosines_on_one(x):
    metric = watched(x, cosines=dist.get_rank() == 0)
    with pytest.raises(RuntimeError, match="every process must have"):
        metric.report()


def test_cosines_of_one_process_alone_are_an_error(ranks):
    ranks(report_with_cosines_on_one, mixed(12, 4))
