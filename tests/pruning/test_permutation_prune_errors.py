"""What permutation_prune cannot do is named, and the model as before."""

import pytest
import torch
from pruning.planted import same, snapshot
from pruning.prune_models import mlp
from torch import nn

from jumpstart_kernels.pruning import permutation_prune


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = mlp()

    def forward(self, x):
        logits = self.inner(x)
        return logits + 1000 * torch.randn_like(logits)


class Returning(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.inner, self.change = mlp(), change

    def forward(self, x):
        return self.change(self.inner(x))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = mlp()

    def forward(self, x):
        return self.inner(x) if x.sum() > 0 else self.inner(-x)


def masked():
    model = mlp()
    torch.nn.utils.prune.l1_unstructured(model[0], "weight", 0.5)
    return model


X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
WRONG = {
    "no module": (lambda: 3, [X], TypeError, "model must be"),
    "DDP": (lambda: nn.DataParallel(mlp()), [X], ValueError, "DataParallel"),
    "compiled": (lambda: torch.compile(mlp()), [X], ValueError, "OptimizedModule"),
    "scripted": (lambda: torch.jit.script(mlp()), [X], ValueError, "ScriptModule"),
    "untraceable": (Branching, [X], ValueError, "cannot be traced"),
    "no copy": (masked, [X], ValueError, "cannot be copied"),
    "random": (Noisy, [X], ValueError, "decide the same in every call"),
    "tuple": (lambda: Returning(lambda x: (x, x)), [X], TypeError, "tensor of logits, got tuple"),
    "one class": (lambda: Returning(lambda x: x[:, :1]), [X], ValueError, "two classes"),
    "no logits": (lambda: Returning(lambda x: x.argmax(1)), [X], ValueError, "logits"),
    "NaN": (mlp, [X * torch.nan], ValueError, "finite logits on loader"),
    "no layer": (lambda: nn.Linear(4, 3), [X], ValueError, "a layer that can be cut"),
    "no samples": (mlp, [], ValueError, "at least one sample"),
    "empty batches": (mlp, [X[:0]], ValueError, "at least one sample"),
    "few samples": (mlp, [X[:9]], ValueError, "at least 10 samples"),
    "no loader": (mlp, 3, TypeError, "loader must be an iterable"),
    "mapping": (mlp, {"x": X}, TypeError, "loader must be an iterable"),
    "a tensor": (mlp, X, TypeError, r"iterable of batches, got Tensor: pass \[x\]"),
    "an array": (mlp, X.numpy(), TypeError, "iterable of batches, got ndarray"),
    "strings": (mlp, ["x"], TypeError, "loader must yield"),
    "a number": (mlp, [torch.tensor(1.0)], ValueError, "without dimensions"),
    "other shape": (mlp, [X[:, :3]], ValueError, "run on what loader yields"),
    "other shape later": (mlp, [X, X[:, :3]], ValueError, "run on what loader yields"),
    "bytes": (mlp, [X.to(torch.uint8)], ValueError, "run on what loader yields"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", WRONG)
def test_errors(name):
    make, loader, error, message = WRONG[name]
    model = make()
    before = snapshot(model) if isinstance(model, nn.Module) else None
    with pytest.raises(error, match=message):
        permutation_prune(model, loader)
    if before is not None and name != "random":
        assert same(snapshot(model), before)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"tolerance": -0.1}, ValueError),
        ({"tolerance": 2.1}, ValueError),
        ({"tolerance": float("nan")}, ValueError),
        ({"tolerance": True}, TypeError),
        ({"tolerance": "0"}, TypeError),
        ({"max_flips": -1}, ValueError),
        ({"max_flips": 0.5}, TypeError),
        ({"positions": 0}, ValueError),
        ({"positions": True}, TypeError),
        ({"unseen": []}, ValueError),
        ({"unseen": 3}, TypeError),
        ({"unseen": X}, TypeError),
        ({"unseen": [X[:, :3]]}, ValueError),
        ({"unseen": [X * torch.inf]}, ValueError),
    ],
)
def test_wrong_options(options, error):
    model = mlp()
    before = snapshot(model)
    with pytest.raises(error, match=next(iter(options))):
        permutation_prune(model, [X], **options)
    assert same(snapshot(model), before)


def test_reasons_are_listed():
    with pytest.raises(ValueError, match=r"0: 2 \(LayerNorm\).*3: the model returns it"):
        permutation_prune(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.LayerNorm(6), nn.Linear(6, 3)), [X])


def test_masks_must_be_removed_first():
    model = masked()
    with pytest.raises(ValueError, match="cannot be copied: it has masks of torch.nn.utils.prune"):
        permutation_prune(model, [X])
    with torch.no_grad():
        model(X)  # then it can be copied
    result = permutation_prune(model, [X])
    assert result.report.layers[0].note.startswith("0: it has masks of torch.nn.utils.prune")
    for layer in model[2], model[4]:
        torch.nn.utils.prune.identity(layer, "weight")
    with torch.no_grad():
        model(X)
    with pytest.raises(ValueError, match=r"be cut: 0: it has masks.*; 2: it has masks.*; 4: it has masks"):
        permutation_prune(model, [X])
