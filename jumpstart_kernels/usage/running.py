"""How a model runs while somebody looks on."""

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[torch.device]:
    """Run in ``eval()`` without grad; yields the first parameter's device and restores training flags."""
    tensor = next(chain(model.parameters(), model.buffers()), torch.empty(0))
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), layer_by_layer():
            yield tensor.device
    finally:
        for module, flag in training:
            module.training = flag


@contextmanager
def layer_by_layer() -> Iterator[None]:
    """Run all modules by themselves, for the sake of their hooks.

    Compiled code does not see hooks that are added later, and in ``eval()`` without grad
    ``nn.TransformerEncoderLayer`` runs a fused kernel that includes its activation. Blocks may overlap
    without one being inside the other, as those of two watches of a model do.
    """
    with _lock:
        _blocks.append(None)
        if len(_blocks) == 1:
            fast_path = torch.backends.mha
            _before.callback(fast_path.set_fastpath_enabled, fast_path.get_fastpath_enabled())
            fast_path.set_fastpath_enabled(False)
            if "torch._dynamo" in sys.modules:  # else nothing is compiled, and the import takes a second
                _before.enter_context(torch.compiler.set_stance("force_eager"))
    try:
        yield
    finally:
        with _lock:
            _blocks.pop()
            if not _blocks:
                _before.close()


_blocks: list[None] = []  # that are open
_before = ExitStack()  # restores what was before the first of them
_lock = threading.Lock()
