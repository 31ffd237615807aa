"""``benchmarks/paper/grid.py``: the data of the problems."""

import torch
from sklearn import datasets

from benchmarks.paper.grid import load_digits, make_moons


def test_moons_are_others_for_each_seed():
    one, again, other = (make_moons(seed) for seed in (0, 0, 1))
    assert one.x_train.shape == (85, 2) and one.x_test.shape == (43, 2)
    assert torch.equal(one.x_train, again.x_train) and not torch.equal(one.x_train, other.x_train)


def test_digits_of_a_file_are_those_of_scikit_learn(write):
    images, labels = datasets.load_digits(return_X_y=True)
    lines = [
        ",".join(map(str, [*map(int, image), label])) for image, label in zip(images, labels, strict=True)
    ]
    write("optdigits.tra", lines[:1000])
    folder = write("optdigits.tes", lines[1000:])
    read, built_in = load_digits(3, folder), load_digits(3)
    assert read.x_train.shape == (1198, 1, 8, 8) and read.x_test.shape == (599, 1, 8, 8)
    for one, other in zip(read[1:], built_in[1:], strict=True):
        assert torch.equal(one, other)
    assert read.x_train.min() == -1 and read.x_train.max() == 1
    assert read.y_test.bincount().min() >= 57
