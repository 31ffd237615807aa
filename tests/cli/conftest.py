"""Models for the command line to load."""

import sys

import pytest
import torch

MODELS = """
from __future__ import annotations

import dataclasses
from jumpstart_kernels import JumpstartReLU
from neighbour import WIDTH
from torch import nn

@dataclasses.dataclass
class Options:
    width: int = WIDTH

def plain():
    width = Options().width
    return nn.Sequential(nn.Linear(width, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU())

def double():
    return plain().double()

def margins():
    return nn.Sequential(JumpstartReLU(margin=0.5), JumpstartReLU(margin=2.0))

def number():
    return 3

def no_relu():
    return nn.Linear(WIDTH, 2)

def classifier():
    return nn.Sequential(nn.Linear(WIDTH, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))

def broken():
    raise KeyError("width")
"""


@pytest.fixture
def models(tmp_path, monkeypatch) -> str:
    """A file of models, in the working directory."""
    (tmp_path / "neighbour.py").write_text("WIDTH = 13")
    (tmp_path / "models.py").write_text(MODELS)
    (tmp_path / "failing.py").write_text("import nothing_of_this_name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "neighbour", raising=False)
    torch.manual_seed(0)
    return "models.py"
