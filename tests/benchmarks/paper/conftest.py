"""Made-up files in the formats of the UCI Machine Learning Repository."""

import pytest
import torch


@pytest.fixture
def write(tmp_path):
    """``write(name, lines)`` makes a file of these lines; returns its folder."""

    def run(name, lines):
        (tmp_path / name).write_text("".join(line + "\n" for line in lines))
        return tmp_path

    return run


@pytest.fixture(autouse=True)
def one_thread():
    """As in a sweep."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
