"""The callbacks' observer of evaluations: across processes, and after a failed one."""

import pytest
import torch
from ranks import Ranks
from torch import nn

import jumpstart_kernels as jk
from jumpstart_kernels.integrations.observer import UsageObserver

X = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))


def make_model() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU()]
    return jk.replace_relu(nn.Sequential(*layers)).eval()


def observe(batches: list[int]) -> dict[str, float] | str | None:
    """The report of an evaluation with this many batches per process, or why there is none."""
    observer, model = UsageObserver(), make_model()
    observer.start(model)
    rank = torch.distributed.get_rank()
    for i in range(batches[rank]):
        model(X[6 * rank + 2 * i :][:2])
        observer.end_batch()
    try:
        report = observer.report()
    except RuntimeError as error:
        return str(error)
    finally:
        observer.stop()
    assert observer.report() is None  # asks nobody
    return None if report is None else dict(report)


@pytest.mark.parametrize("replaced", [True, False])
def test_compiled_code_is_seen_or_told_of(replaced):
    """Compiled earlier: it sees a watch on a JumpstartReLU, but not on an nn.ReLU."""
    torch._dynamo.reset()  # beyond a number of compiled Sequentials the next ones run eagerly
    model = make_model() if replaced else jk.restore_relu(make_model())
    compiled = nn.Sequential(torch.compile(model, backend="eager")).eval()
    observer = UsageObserver()
    with torch.no_grad():
        compiled(X)
        observer.start(compiled)
        compiled(X)
        observer.end_batch()
    if replaced:
        assert dict(observer.report()) == dict(jk.unit_usage(model, [X]))
    else:
        with pytest.warns(UserWarning, match="no watched layer was seen in 1 batches of the evaluation"):
            assert observer.report() is None
    observer.stop()


@pytest.mark.filterwarnings("error")
def test_an_evaluation_without_a_batch_has_no_report():
    observer = UsageObserver()
    observer.start(make_model())
    assert observer.report() is None
    observer.stop()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("stopped", [True, False])
def test_a_report_that_was_taken_is_not_missed(stopped):
    observer, model = UsageObserver(), make_model()
    observer.start(model)
    model(X)
    observer.end_batch()
    assert observer.report() is not None
    if stopped:
        observer.stop()
    assert observer.report() is None


@pytest.fixture(scope="module")
def ranks():
    ranks = Ranks(2)
    yield ranks
    ranks.close()


def test_the_report_is_of_all_processes(ranks):
    expected = dict(jk.unit_usage(make_model(), [X]))
    assert ranks(observe, [3, 3]) == [expected, expected]


def test_a_process_without_a_batch_leaves_nobody_waiting(ranks):
    for batches, without in (([3, 0], 1), ([0, 1], 0)):
        for answer in ranks(observe, batches):
            assert f"every process must have seen a batch of the evaluation, and {without} has not" in answer
    assert ranks(observe, [0, 0]) == [None, None]
