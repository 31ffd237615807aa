"""What the options make of λ and of the learning rate."""

import pytest
from imagenet_trainings import make_options

from benchmarks.imagenet.trainer import make_penalty_schedule, warmup_cosine


def weights(words: str, steps: int) -> list[float]:
    """λ over the first steps of 4 epochs of 10 steps, with a peak of 0.5."""
    options = make_options("", "", f"--epochs=4 --penalty-weight=0.5 --penalty-schedule={words}")
    schedule = make_penalty_schedule(options, 10)
    found = []
    for _ in range(steps):
        found.append(schedule.weight)
        schedule.step()
    return found


def test_the_options_are_in_epochs():
    assert weights("constant --penalty-warmup-epochs=2", 40) == [0.5] * 40
    assert weights("linear --penalty-warmup-epochs=0", 3) == [0.5] * 3
    rising = [0.5 * (step + 1) / 15 for step in range(15)]
    assert weights("linear --penalty-warmup-epochs=1.5", 40) == pytest.approx(rising + [0.5] * 25)
    cosine = weights("cosine --penalty-warmup-epochs=1.5", 42)
    assert cosine[:15] == pytest.approx(rising) and cosine[15] == 0.5
    assert cosine[27:29] == pytest.approx([0.2657, 0.2343], abs=1e-4)  # half way is between them
    assert cosine[40:] == [0, 0]
    almost_all = weights("cosine --penalty-warmup-epochs=3.99", 41)
    assert almost_all[-4:] == pytest.approx([0.5 * 38 / 39, 0.5, 0.5, 0])


def test_learning_rate_warms_up_and_falls_to_zero():
    factor = warmup_cosine(2, 6)
    assert [factor(step) for step in range(3)] == [0.5, 1.0, 1.0]
    assert factor(4) == pytest.approx(0.5) and factor(6) == factor(7) == 0
    assert warmup_cosine(3, 3)(3) == 1.0
