"""Which images exist, their order and their crops, which depend only on the seed and the place."""

import math
import random
from itertools import product
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.imagenet import data as images_of
from benchmarks.imagenet.data import (
    Images,
    TrainingOrder,
    ValidationOrder,
    center_crop,
    find_data,
    find_images,
    make_loader,
    normalize,
    random_crop,
)
from jumpstart_kernels.cli.errors import CommandError


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_images_come_in_the_order_of_torchvision(tmp_path):
    names = ("b/2.JPEG", "b/10.jpg", "a/z/1.png", "a/é.webp", "a/y.txt", "a/B.tif", "C/0.bmp")
    for name in names:
        touch(tmp_path / name)
    touch(tmp_path / "beside.jpg")
    folder = find_images(tmp_path)
    assert folder.classes == ("C", "a", "b")  # by code point, as sorted() does
    found = [folder.path(i).relative_to(tmp_path).as_posix() for i in range(len(folder))]
    assert found == ["C/0.bmp", "a/B.tif", "a/é.webp", "a/z/1.png", "b/10.jpg", "b/2.JPEG"]
    assert folder.labels.tolist() == [0, 1, 1, 1, 2, 2]


def test_folders_that_cannot_be_trained_on(tmp_path):
    with pytest.raises(CommandError, match="there is no folder .*train"):
        find_data(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(CommandError, match="a folder of images for each class"):
        find_data(tmp_path)
    (tmp_path / "train" / "a").mkdir()
    with pytest.raises(CommandError, match="train/a has no image"):
        find_data(tmp_path)
    for name in ("train/a/1.png", "train/b/1.png", "val/a/1.png", "val/c/1.png"):
        touch(tmp_path / name)
    with pytest.raises(CommandError, match="same classes; only in one of them: b, c$"):
        find_data(tmp_path)


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    touch(tmp_path / "a" / "broken.png")
    with pytest.raises(RuntimeError, match="broken.png"):
        Images(find_images(tmp_path), 8)[0, 0]


def test_a_crop_depends_on_seed_epoch_and_index_alone(data):
    folder = find_images(data / "train")
    images = Images(folder, 16, seed=3)
    before = [images[2, index][0] for index in range(len(folder))]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    again = Images(folder, 16, seed=3)
    assert all(torch.equal(again[2, index][0], before[index]) for index in reversed(range(len(folder))))
    for other in (Images(folder, 16, seed=4), None):
        place = (2, 0) if other else (3, 0)
        assert not torch.equal((other or images)[place][0], before[0])
    assert images[2, 9][1] == folder.labels[9] and before[0].shape == (16, 16, 3)


def test_half_of_the_crops_are_flipped(tmp_path):
    ramp = np.broadcast_to(np.arange(0, 240, 5, dtype=np.uint8)[None, :, None], (48, 48, 3))
    (tmp_path / "a").mkdir()
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "a" / "ramp.png")
    images = Images(find_images(tmp_path), 8, seed=0)
    crops = [images[epoch, 0][0][4, :, 0].int() for epoch in range(400)]
    flipped = sum(bool(crop[0] > crop[-1]) for crop in crops)
    assert all(abs(int(crop[0]) - int(crop[-1])) > 2 for crop in crops)
    assert 150 < flipped < 250  # of a fair coin: five standard deviations
    validation = Images(find_images(tmp_path), 8)[0, 0][0][4, :, 0].int()
    assert validation[0] < validation[-1]


@pytest.mark.parametrize("size", ((500, 375), (40, 56), (1000, 20), (20, 1000), (1, 1), (2, 3)))
def test_random_crops_keep_to_their_limits(size):
    width, height = size
    boxes = [random_crop(width, height, Random(seed)) for seed in range(300)]
    for left, upper, right, lower in boxes:
        assert 0 <= left < right <= width and 0 <= upper < lower <= height
    if min(size) >= 100:
        shares = [(right - left) * (lower - upper) / (width * height) for left, upper, right, lower in boxes]
        aspects = [(right - left) / (lower - upper) for left, upper, right, lower in boxes]
        assert 0.07 < min(shares) < 0.15 and 0.9 < max(shares) <= 1
        assert 0.74 < min(aspects) < 0.78 and 1.28 < max(aspects) < 1.35
    if max(size) == 1000:  # no try fits: what is left has the aspect that comes closest
        assert {(right - left, lower - upper) for left, upper, right, lower in boxes} <= {(27, 20), (20, 27)}


def test_validation_uses_center_crops(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (256, 300, 3), dtype=np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "0.png")
    assert center_crop(300, 256) == (38, 16, 262, 240)
    seen, _ = Images(find_images(tmp_path), 224)[0, 0]
    assert torch.equal(seen, torch.from_numpy(pixels[16:240, 38:262]))


def test_gray_and_transparent_images_have_three_channels(tmp_path):
    (tmp_path / "a").mkdir()
    for mode in ("L", "RGBA", "P", "CMYK"):
        suffix = "tif" if mode == "CMYK" else "png"
        Image.new(mode, (20, 20)).save(tmp_path / "a" / f"{mode}.{suffix}")
    images = Images(find_images(tmp_path), 8)
    assert [images[0, index][0].shape for index in range(4)] == [(8, 8, 3)] * 4


def make_orders(images, batch_size, accumulate, processes, seed=0):
    return [TrainingOrder(images, batch_size, accumulate, rank, processes, seed) for rank in range(processes)]


def steps_of(orders, accumulate, epoch=0, step=0):
    """The places of each step, of all processes."""
    batches = []
    for order in orders:
        order.epoch, order.step = epoch, step
        batches.append(list(order))
    assert len({len(of_process) for of_process in batches}) == 1
    taken = [sum((of_process[i] for of_process in batches), []) for i in range(len(batches[0]))]
    return [sum(taken[i : i + accumulate], []) for i in range(0, len(taken), accumulate)]


@pytest.mark.parametrize("accumulate,processes", list(product((1, 2), (1, 2, 3))))
def test_a_step_has_the_same_images_whoever_takes_it(accumulate, processes):
    whole = steps_of(make_orders(61, 12, 1, 1), 1)
    split = steps_of(make_orders(61, 12, accumulate, processes), accumulate)
    assert split == whole and len(whole) == 5
    places = sum(whole, [])
    assert len(set(places)) == 60 and {epoch for epoch, _ in places} == {0}
    assert {index for _, index in places} < set(range(61))
    for step in range(6):
        assert steps_of(make_orders(61, 12, accumulate, processes), accumulate, step=step) == whole[step:]


def test_epochs_and_seeds_have_orders_of_their_own():
    order = steps_of(make_orders(60, 60, 1, 1), 1)[0]
    later = steps_of(make_orders(60, 60, 1, 1), 1, epoch=1)[0]
    other = steps_of(make_orders(60, 60, 1, 1, seed=1), 1)[0]
    indices = [[index for _, index in places] for places in (order, later, other)]
    assert len(set(map(tuple, indices))) == 3 and {epoch for epoch, _ in later} == {1}


@pytest.mark.parametrize(
    "images,batch_size,processes",
    list(product((3, 7, 8, 50), (1, 2, 5, 100), (1, 2, 3))),
)
def test_validation_has_every_image_once(images, batch_size, processes):
    orders = [ValidationOrder(images, batch_size, rank, processes, seed=0) for rank in range(processes)]
    batches = [list(order) for order in orders]
    assert len({len(of_process) for of_process in batches}) == 1 and len(orders[0]) == len(batches[0])
    sizes = [len(batch) for of_process in batches for batch in of_process]
    assert min(sizes) >= 1 and max(sizes) <= batch_size + 1  # one more where a process would have none else
    if batch_size > 1:
        assert max(sizes) <= batch_size and len(batches[0]) == math.ceil(images / (processes * batch_size))
    assert sorted(sum(sum(batches, []), [])) == [(0, index) for index in range(images)]


class Recorded(Images):
    """Notes what it is asked for."""

    def __getitem__(self, place):
        self.places = [*getattr(self, "places", []), place]
        return super().__getitem__(place)


def test_images_before_the_step_are_not_read(data):
    images = Recorded(find_images(data / "train"), 16, seed=0)
    order = TrainingOrder(len(images), 4, 1, 0, 1, seed=0)
    list(make_loader(images, order, 0, False))
    whole, images.places = images.places, []
    order.step = 5
    list(make_loader(images, order, 0, False))
    assert images.places == whole[5 * 4 :] and len(images.places) == 2 * 4


def test_workers_change_nothing_and_leave_the_random_state_alone(data):
    images = Images(find_images(data / "train"), 16, seed=0)
    order = TrainingOrder(len(images), 4, 1, 0, 1, seed=0)
    alone = list(make_loader(images, order, 0, False))
    state = torch.get_rng_state()
    shared = list(make_loader(images, order, 2, False))
    assert torch.equal(torch.get_rng_state(), state)
    for (x, y), (x_shared, y_shared) in zip(alone, shared, strict=True):
        assert torch.equal(x, x_shared) and torch.equal(y, y_shared)
    assert alone[0][0].shape == (4, 16, 16, 3) and alone[0][0].dtype == torch.uint8


def test_normalized_images_lie_channels_last():
    pixels = torch.randint(0, 256, (2, 5, 4, 3), dtype=torch.uint8)
    images = normalize(pixels)
    mean, std = (torch.tensor(values)[None, :, None, None] for values in (images_of.MEAN, images_of.STD))
    expected = (pixels.permute(0, 3, 1, 2) / 255 - mean) / std
    torch.testing.assert_close(images, expected)
    assert images.shape == (2, 3, 5, 4) and images.is_contiguous(memory_format=torch.channels_last)
