"""``benchmarks/paper/cifar_images.py``: decoding, standardization, augmentation."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.paper.cifar_images import PADDING, augment, load_images, standardize


def encode(images):
    """JPEG files of uint8 ``[N, H, W, 3]``, concatenated, and the offset of each."""
    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=95)
        files.append(file.getvalue())
    offsets = np.cumsum([0, *map(len, files)])
    return np.frombuffer(b"".join(files), dtype=np.uint8), offsets


@pytest.fixture
def archive(tmp_path):
    """Six training and four test images of one colour each; returns the path and the colours."""
    colours = np.random.default_rng(0).integers(0, 256, (10, 3), dtype=np.uint8)
    images = np.broadcast_to(colours[:, None, None], (10, 32, 32, 3)).copy()
    arrays = {"classes": np.array(["a", "b"])}
    for part, chosen in (("train", slice(0, 6)), ("test", slice(6, 10))):
        arrays[f"{part}_jpeg"], arrays[f"{part}_offsets"] = encode(images[chosen])
        arrays[f"{part}_labels"] = (np.arange(10, dtype=np.uint8) % 2)[chosen]
    path = tmp_path / "images.npz"
    np.savez(path, **arrays)
    return path, arrays, torch.from_numpy(colours)


def test_images_are_decoded(archive):
    path, _, colours = archive
    images = load_images(path)
    assert images.x_train.shape == (6, 3, 32, 32) and images.x_train.dtype == torch.uint8
    assert images.y_train.tolist() == [0, 1] * 3 and images.y_test.tolist() == [0, 1] * 2
    assert images.classes == 2
    for part, expected in ((images.x_train, colours[:6]), (images.x_test, colours[6:])):
        assert (part.float() - expected[:, :, None, None].float()).abs().max() <= 3  # JPEG's loss
    few = load_images(path, train=2, test=1)
    assert torch.equal(few.x_train, images.x_train[:2]) and len(few.y_test) == 1


def test_what_a_file_lacks_is_named(archive, tmp_path):
    path, arrays, _ = archive
    with pytest.raises(ValueError, match="has 6 train images, fewer than the 7 requested"):
        load_images(path, train=7)
    del arrays["test_labels"]
    np.savez(tmp_path / "less.npz", **arrays)
    with pytest.raises(ValueError, match=r"less.npz must have the array 'test_labels'; it has classes, "):
        load_images(tmp_path / "less.npz")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_images(tmp_path / "nowhere.npz")


def test_standardized_channels_have_mean_0_and_variance_1():
    x = torch.randint(256, (50, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    wide = x.float()
    z = standardize(x, wide.mean((0, 2, 3)), wide.std((0, 2, 3)))
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(3))


def test_crops_are_shifted_and_mirrored_images():
    """Each is one of the crops of its own image, flipped or not; both occur, at many offsets."""
    x = torch.arange(1, 201).view(1, 2, 10, 10).repeat(64, 1, 1, 1) + 1000 * torch.arange(64).view(
        -1, 1, 1, 1
    )
    crops = augment(x, torch.Generator().manual_seed(0))
    assert crops.shape == x.shape and crops.dtype == x.dtype
    padded = torch.nn.functional.pad(x, [PADDING] * 4)
    places = set()
    for image, crop in zip(padded, crops, strict=True):
        found = [
            (top, left, mirrored)
            for top in range(2 * PADDING + 1)
            for left in range(2 * PADDING + 1)
            for mirrored in (False, True)
            if torch.equal(crop, image[:, top : top + 10, left : left + 10].flip(-1 if mirrored else ()))
        ]
        assert len(found) == 1
        places.update(found)
    assert len(places) > 30 and {mirrored for *_, mirrored in places} == {False, True}
    assert torch.equal(crops, augment(x, torch.Generator().manual_seed(0)))
