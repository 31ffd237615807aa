"""Decisions, their certificate, and the bound of flips on other data."""

import pytest
import torch
from scipy import stats
from torch import nn

from jumpstart_kernels.pruning.certificate import Decisions, most_flips


class Table(nn.Module):
    """Logits looked up by the input."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        return self.logits[x.long().flatten()]


def decisions(logits, batch=2):
    x = torch.arange(len(logits))[:, None]
    return Decisions(Table(logits), list(x.split(batch)), "loader")


LOGITS = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 2.5], [5.0, -1.0, 4.0]])


def test_moves_below_half_the_gap_are_certified():
    found = decisions(LOGITS)
    assert (found.smallest_gap, found.count) == (0.5, 3)
    assert found.check(Table(LOGITS)) == (0, 0.0, True)
    moved = LOGITS + torch.tensor([0.2, -0.2, -0.2])
    check = found.check(Table(moved))
    assert (check.flips, check.certified) == (0, True)
    assert check.moved == pytest.approx(0.2)


def test_larger_moves_are_counted():
    found = decisions(LOGITS)
    moved = LOGITS.clone()
    moved[0] += 10  # all alike
    assert found.check(Table(moved)) == (0, 10.0, False)
    moved[1, 1] = 2.6
    moved[2, 2] = 6
    assert found.check(Table(moved)).flips == 2
    assert found.check(Table(moved), most=2).flips == 2
    assert found.check(Table(moved), most=1) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_a_flip(value):
    moved = LOGITS.clone()
    moved[0, 0] = value
    check = decisions(LOGITS).check(Table(moved))
    assert (check.flips, check.moved, check.certified) == (1, float("inf"), False)


def test_equal_logits_are_never_certified():
    logits = torch.tensor([[1.0, 1.0, 0.0], [2.0, 0.0, 0.0]])
    found = decisions(logits)
    assert found.smallest_gap == 0
    assert found.check(Table(logits)) == (0, 0.0, False)
    moved = logits.clone()
    moved[0, 1] += 1e-6
    assert found.check(Table(moved)).flips == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gaps_of_every_size_are_seen(dtype):
    """Of 100,000 pairs of close logits none that flips goes uncounted."""
    generator = torch.Generator().manual_seed(0)
    base = torch.rand(100_000, 1, generator=generator, dtype=torch.float64) * 100
    step = torch.finfo(dtype).eps * 100
    logits = (base + torch.rand(100_000, 2, generator=generator, dtype=torch.float64) * 8 * step).to(dtype)
    logits = logits[(logits[:, 0] - logits[:, 1]).abs() > 0]
    for scale in (0.1, 0.6, 4):
        moved = logits + (torch.rand(logits.shape, generator=generator) * scale * step).to(dtype)
        for one, other in zip(logits[:200, None], moved[:200, None], strict=True):
            check = decisions(one).check(Table(other))
            assert check.flips == int(one.argmax(1) != other.argmax(1))
        assert decisions(logits, 1000).check(Table(moved)).flips == int(
            (logits.argmax(1) != moved.argmax(1)).sum()
        )


def test_positions_are_decisions():
    logits = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    found = decisions(logits)
    assert found.count == 4 * 30
    moved = logits.clone()
    moved[1, :, 2, 3] = moved[1, :, 2, 3].flip(0) + torch.tensor([0, 100.0, 0])
    assert found.check(Table(moved)).flips == int(logits[1, :, 2, 3].argmax() != 1)
    assert [list(each.shape) for each in found.weights] == [[2], [2]]


def test_close_decisions_weigh_more():
    first, second, third = torch.cat(decisions(LOGITS).weights).tolist()  # gaps of 2, 0.5 and 1
    assert second > third > first > 0
    assert second == pytest.approx(1 / 0.55**2)


@pytest.mark.parametrize(
    ("logits", "error", "message"),
    [
        (torch.zeros(3, 1), ValueError, "at least two classes"),
        (torch.zeros(3), ValueError, "at least two classes"),
        (torch.zeros(3, 2, dtype=torch.long), ValueError, "of torch.int64"),
        (torch.full((3, 2), torch.nan), ValueError, "finite logits on loader"),
        ("logits", ValueError, r"run on what loader yields, \[2, 1\] \(TypeError"),
    ],
)
def test_what_is_no_logits(logits, error, message):
    with pytest.raises(error, match=message):
        Decisions(Table(logits), [torch.zeros(2, 1)], "loader")


def test_the_input_may_be_overwritten():
    class Overwriting(nn.Module):
        def forward(self, x):
            return x.mul_(2)

    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    assert Decisions(Overwriting(), [x], "loader").check(Overwriting()).moved == 0
    assert torch.equal(x, before)


@pytest.mark.parametrize(("flips", "count"), [(0, 1), (0, 100), (1, 100), (7, 50), (49, 50), (3, 10_000)])
def test_bound_is_that_of_clopper_and_pearson(flips, count):
    expected = stats.binomtest(flips, count, alternative="less").proportion_ci(0.95, "exact").high
    assert most_flips(flips, count) == pytest.approx(expected, rel=1e-9)


def test_bound_of_nothing_but_flips():
    assert most_flips(5, 5) == 1
