"""Fixtures of the benchmarks' tests: short samples, since no test judges a time; the authors' checkout."""

from pathlib import Path

import pytest

from jumpstart_kernels.bench import timing
from jumpstart_kernels.demo.training import one_thread

AUTHORS = """
from functools import partial

import torch

print("loading")


class JumpstartRegularization:
    def __init__(self, model=None):
        print("hooks")
        self.slacks = {}
        layers = [] if model is None else [module for module in model.modules() if hasattr(module, "weight")]
        for i, layer in enumerate(layers[:-1]):
            layer.register_forward_hook(partial(self.hook, name=i))

    def hook(self, module, inputs, output, name=None):
        self.slacks[name] = []
        for dim in (0, 1):
            maxima, minima = output.max(dim).values, output.min(dim).values
            maxima = maxima.reshape(len(maxima), -1).max(1).values
            minima = minima.reshape(len(minima), -1).min(1).values
            self.slacks[name].append((torch.relu(1 - maxima) + torch.relu(1 + minima)) / 2)

    @property
    def loss(self):
        return sum(torch.cat(slacks).mean() for slacks in zip(*self.slacks.values()))
"""


@pytest.fixture(autouse=True)
def short_samples(monkeypatch):
    """On one thread: on a busy machine every call would wait for the second."""
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 1e-5)
    with one_thread():
        yield


@pytest.fixture
def authors(tmp_path) -> Path:
    """A stand-in for a checkout of the authors' repository."""
    (tmp_path / "jumpstart").mkdir()
    (tmp_path / "jumpstart" / "jumpstart.py").write_text(AUTHORS)
    return tmp_path
