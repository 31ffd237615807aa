"""Layer ratios: how many weights each layer keeps."""

import math

import pytest
import torch
from torch import nn

from jumpstart_kernels.pruning import Ticket
from jumpstart_kernels.pruning.ratios import count_kept, quotas_by_erk, split_kept

# The weights of ResNet-20's stages, a stem and a classifier.
SHAPES = [(16, 3, 3, 3), *[(16, 16, 3, 3)] * 6, (32, 16, 3, 3), *[(32, 32, 3, 3)] * 5, (10, 64)]
SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.993)


@pytest.mark.parametrize("ratios", ("layer", "erk"))
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_counts_add_up_and_fit(ratios, sparsity):
    sizes = [math.prod(shape) for shape in SHAPES]
    kept = count_kept(sizes, sparsity)
    assert kept == sum(sizes) - round(sparsity * sum(sizes))
    counts = split_kept(SHAPES, kept, ratios)
    assert sum(counts) == kept
    assert all(1 <= count <= size for count, size in zip(counts, sizes, strict=True))
    if ratios == "layer":
        assert all(abs(count - (1 - sparsity) * size) <= 1 for count, size in zip(counts, sizes, strict=True))


def test_erk_by_hand():
    """Densities ε · Σ/Π of the dimensions: 4 × 100 and 10 × 10 have 104 and 20, so that 62 make ε 1/2."""
    assert quotas_by_erk([(4, 100), (10, 10)], 62) == pytest.approx([52.0, 10.0])
    quotas = quotas_by_erk([(2, 3), (50, 50)], 1000)
    assert quotas == pytest.approx([6, 994])  # the first would have 5 · 1000 / 105 of its 6


def test_erk_caps_one_layer_after_the_other():
    """What the first has too much fills the second, too."""
    shapes = [(2, 2), (4, 4), (40, 40)]
    quotas = quotas_by_erk(shapes, 220)
    assert quotas == pytest.approx([4, 16, 200])
    assert sum(quotas_by_erk(shapes, 1620)) == pytest.approx(1620)  # everything


def test_erk_keeps_its_proportions_below_the_cap():
    densities = [
        quota / math.prod(shape) for quota, shape in zip(quotas_by_erk(SHAPES, 900), SHAPES, strict=True)
    ]
    rule = [sum(shape) / math.prod(shape) for shape in SHAPES]
    ratios = [density / wanted for density, wanted in zip(densities, rule, strict=True)]
    assert ratios == pytest.approx([ratios[0]] * len(SHAPES))


@pytest.mark.parametrize("ratios", ("layer", "erk"))
def test_every_layer_keeps_a_weight(ratios):
    counts = split_kept([(1, 1), (2, 2), (100, 100)], 10, ratios)
    assert sum(counts) == 10 and min(counts) >= 1
    assert split_kept([(1, 1), (2, 2), (100, 100)], 3, ratios) == [1, 1, 1]


def test_a_model_has_them():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4))
    ticket = Ticket(model, 0.5, ratios="erk")
    shapes = [tuple(weight.shape) for weight in (model[0].weight, model[3].weight)]
    assert [layer.kept for layer in ticket.layers.values()] == split_kept(shapes, 124, "erk")
    assert [int(mask.sum()) for mask in ticket.masks.values()] == split_kept(shapes, 124, "erk")
    for mask, layer in zip(ticket.masks.values(), (model[0], model[3]), strict=True):
        magnitudes = layer.weight_orig.detach().abs()
        assert mask.all() or magnitudes[mask].min() > magnitudes[~mask].max()
    assert torch.equal(model[3].weight != 0, ticket.masks["3"])
