"""Folders of images and processes for the tests of ``benchmarks/train_imagenet.py``."""

import pytest

pytest.importorskip("PIL", reason="train_imagenet.py needs pillow")
pytest.importorskip("rich", reason="train_imagenet.py needs rich")

from imagenet_trainings import TRAIN, VAL
from ranks import Ranks

from benchmarks.imagenet.processes import start_processes
from benchmarks.imagenet.smoke import make_image_folder


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder of generated images."""
    folder = tmp_path_factory.mktemp("images")
    make_image_folder(folder, TRAIN, VAL)
    return folder


@pytest.fixture(scope="session")
def three():
    """Three processes: with two, sums have no order."""
    ranks = Ranks(3)
    yield ranks
    ranks.close()


@pytest.fixture
def process():
    """This process alone."""
    with start_processes("cpu") as processes:
        yield processes
