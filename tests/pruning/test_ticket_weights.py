"""Tickets: new weights, earlier ones, and weights that cannot be masked."""

import copy
import math

import pytest
import torch
from pruning.ticket_models import cnn, mlp, train
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

import jumpstart_kernels as jk
from jumpstart_kernels.pruning import Ticket


def test_new_weights_are_those_of_a_new_model():
    model = cnn()
    ticket = Ticket(model, 0.8)
    masks = ticket.masks
    model(torch.randn(4, 2, 6, 6)).sum().backward()
    ticket.reinitialize(seed=0)
    new = cnn()  # of seed 0
    for name, expected in new.state_dict().items():
        module = model.get_submodule(name.rpartition(".")[0])
        value = module.state_dict().get("weight_orig") if name.endswith("weight") else None
        assert torch.equal(getattr(module, name.rpartition(".")[2]) if value is None else value, expected)
    assert all(torch.equal(mask, masks[name]) for name, mask in ticket.masks.items())
    assert torch.equal(model[0].weight, new[0].weight * masks["0"])


def test_an_initializer_sees_the_model_without_masks():
    ticket = Ticket(mlp(5, 30, 3), 0.8)
    mask, parameter = ticket.masks["0"], ticket.model[0].weight_orig
    seen = []

    def initialize(model):
        seen.append((list(model.state_dict()), model(torch.ones(2, 5)).shape))
        nn.init.constant_(model[0].weight, 2.0)

    ticket.reinitialize(initialize)
    assert seen == [(["0.weight", "0.bias", "2.weight", "2.bias"], (2, 3))]
    assert ticket.model[0].weight_orig is parameter
    assert torch.equal(ticket.model[0].weight, 2.0 * mask)

    def fail(model):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        ticket.reinitialize(fail)
    assert torch.equal(ticket.masks["0"], mask)


def test_without_a_seed_the_generator_goes_on():
    ticket = Ticket(mlp(5, 30, 3), 0.8)
    torch.manual_seed(4)
    ticket.reinitialize()
    first = ticket.model[0].weight.clone()
    ticket.reinitialize()
    assert not torch.equal(first, ticket.model[0].weight)
    torch.manual_seed(4)
    ticket.reinitialize()
    assert torch.equal(first, ticket.model[0].weight)


def test_rescaled_weights_keep_the_variance_of_a_units_sum():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(200, 50), nn.Conv2d(4, 8, 5), nn.ConvTranspose2d(4, 8, 5, groups=2))
    ticket = Ticket(model, 0.9, method="random", ratios="layer")
    ticket.reinitialize(lambda model: [nn.init.ones_(layer.weight) for layer in model], rescale=True)
    for layer in model[:2]:
        squares, kept = layer.weight.square().flatten(1).sum(1), layer.weight_mask.flatten(1).sum(1)
        torch.testing.assert_close(
            squares[kept > 0], torch.full_like(squares, layer.weight[0].numel())[kept > 0]
        )
    values = model[2].weight[model[2].weight != 0]
    torch.testing.assert_close(values, torch.full_like(values, math.sqrt(10)))
    assert ticket.sparsity == pytest.approx(0.9, abs=0.001)


def test_rewinding_takes_earlier_weights_under_the_masks_of_now():
    model = mlp(5, 30, 3)
    start = copy.deepcopy(model.state_dict())
    train(model)
    ticket = Ticket(model, 0.8)
    masks = ticket.masks
    ticket.rewind(start)
    for layer, name in ((model[0], "0"), (model[2], "2")):
        assert torch.equal(layer.weight, start[f"{name}.weight"] * masks[name])
        assert torch.equal(layer.weight_orig, start[f"{name}.weight"])
        assert torch.equal(layer.bias, start[f"{name}.bias"])
    early = copy.deepcopy(model.state_dict())  # with masks: iterations rewind to such, too
    train(model)
    ticket.prune(0.9)
    further = ticket.masks
    ticket.rewind(early)
    assert torch.equal(model[0].weight, start["0.weight"] * further["0"])
    assert all(torch.equal(mask, further[name]) for name, mask in ticket.masks.items())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda weights: weights.pop("0.bias"), "weights must have '0.bias', as the model does"),
        (lambda weights: weights.update(extra=torch.ones(1)), "weights must have no 'extra'"),
        (
            lambda weights: weights.update({"2.weight": torch.ones(2, 2)}),
            r"must be of shape \[3, 30\], got \[2, 2",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, text):
    ticket = Ticket(mlp(5, 30, 3), 0.8)
    weights = mlp(5, 30, 3, seed=1).state_dict()
    change(weights)
    before = copy.deepcopy(ticket.model.state_dict())
    with pytest.raises(ValueError, match=text):
        ticket.rewind(weights)
    after = ticket.model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.ones(4))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.third(self.second(self.first(x).relu()).relu())


def test_a_tied_weight_has_one_mask_and_counts_once():
    model = Tied()
    ticket = Ticket(model, 0.5)
    assert list(ticket.layers) == ["first = second", "third"]
    assert sum(layer.weights for layer in ticket.layers.values()) == 32 and ticket.sparsity == 0.5
    assert torch.equal(model.first.weight_mask, model.second.weight_mask)
    assert model.first.weight_orig is model.second.weight_orig
    ticket.prune(0.75)
    assert torch.equal(model.first.weight_mask, model.second.weight_mask)
    ticket.reinitialize(seed=0, rescale=True)
    assert torch.equal(model.first.weight, model.second.weight)
    x = torch.randn(3, 4)
    output = model(x)
    with pytest.warns(UserWarning, match="neither speed nor size"):
        ticket.remove()
    assert model.first.weight is model.second.weight and torch.equal(model(x), output)


def test_what_is_skipped_or_no_layer_of_weights_stays_dense():
    model = nn.TransformerEncoderLayer(8, 2, 16)
    ticket = Ticket(model, 0.5)
    assert list(ticket.layers) == ["linear1", "linear2"]  # attention reads its weights without a layer
    ticket = Ticket(cnn(), 0.5, skip=["0", nn.ConvTranspose2d])
    assert list(ticket.layers) == ["5", "7"]


def test_layers_are_reset_as_they_are_made():
    """Parts before the whole: ``nn.MultiheadAttention`` sets what is its own of ``out_proj``, too."""
    model = nn.TransformerEncoderLayer(8, 2, 16)
    ticket = Ticket(model, 0.5)
    before = model.self_attn.in_proj_weight.clone()
    ticket.reinitialize(seed=0)
    assert (model.self_attn.out_proj.bias == 0).all()
    assert not torch.equal(model.self_attn.in_proj_weight, before)


def test_layers_that_leave_their_bias_to_the_activation():
    plain, fused = (jk.replace_relu(mlp(5, 30, 30, 3), fuse_bias=fuse) for fuse in (False, True))
    masks = [Ticket(model, 0.7).masks for model in (plain, fused)]
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])
    x = torch.randn(4, 5)
    assert torch.equal(fused(x), plain(x))
    torch.testing.assert_close(jk.penalty(fused), jk.penalty(plain))
    assert torch.equal(jk.restore_relu(fused)(x), plain(x))


def with_embedding():
    model = nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


def with_nan():
    model = mlp(5, 30, 3)
    with torch.no_grad():
        model[2].weight[1, 2] = math.nan
    return model


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (nn.ReLU, "model must have a linear or convolution layer that skip does not name"),
        (lambda: nn.LazyLinear(3), "'' has no weight yet: run a forward first"),
        (lambda: parametrizations.weight_norm(nn.Linear(3, 3)), "is computed by a parametrization"),
        (lambda: nn.Sequential(nn.Linear(2, 0)), "the weight of '0' is empty: name the layer in skip"),
        (with_embedding, "'0.weight' is the weight of '1', too, and cannot be masked there"),
        (with_nan, "a weight of '2' is NaN, which has no magnitude"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_models_that_cannot_be_masked_are_refused(make, text):
    model = make()
    before = list(model.state_dict())
    with pytest.raises(ValueError, match=text):
        Ticket(model, 0.5)
    assert list(model.state_dict()) == before


@pytest.mark.filterwarnings("ignore")
def test_weights_of_the_older_weight_norm_are_refused():
    with pytest.raises(ValueError, match="is computed by a parametrization"):
        Ticket(weight_norm(nn.Linear(3, 3)), 0.5)


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"sparsity": 1.0}, ValueError, r"sparsity must be in \[0, 1\), got 1"),
        ({"sparsity": -0.1}, ValueError, r"sparsity must be in \[0, 1\), got -0.1"),
        ({"sparsity": math.nan}, ValueError, r"sparsity must be in \[0, 1\), got nan"),
        ({"sparsity": "0.5"}, TypeError, "sparsity must be a number, got str"),
        ({"sparsity": True}, TypeError, "sparsity must be a number, got bool"),
        (
            {"sparsity": 0.996},
            ValueError,
            "leave a weight in each of 2 layers, it leaves 1 of 240",
        ),
        ({"method": "l1"}, ValueError, "method must be one of 'magnitude', 'random', got 'l1'"),
        ({"ratios": "er"}, ValueError, "ratios must be one of 'global', 'layer', 'erk', got 'er'"),
        ({"seed": 0.5}, TypeError, "seed must be an int, got float"),
        ({"skip": ["7"]}, ValueError, "7"),
        ({"model": "model"}, TypeError, "model"),
    ],
)
def test_bad_arguments(arguments, kind, text):
    model = mlp(5, 30, 3)
    with pytest.raises(kind, match=text):
        Ticket(**({"model": model, "sparsity": 0.5} | arguments))
    assert not any(layer._forward_pre_hooks for layer in model)


def test_weights_and_initialization_of_other_types_are_refused():
    ticket = Ticket(mlp(5, 30, 3), 0.5)
    before = {name: tensor.clone() for name, tensor in ticket.model.state_dict().items()}
    with pytest.raises(TypeError, match="initialize must be a function, got int; a seed is passed as seed="):
        ticket.reinitialize(0)
    with pytest.raises(TypeError, match="weights must be a state dict, got Sequential"):
        ticket.rewind(mlp(5, 30, 3))
    assert all(torch.equal(tensor, before[name]) for name, tensor in ticket.model.state_dict().items())


def test_modules_that_cannot_be_reset_are_named():
    ticket = Ticket(Own(), 0.5)
    weight = ticket.model.linear.weight.clone()
    with pytest.raises(ValueError, match=r"initialize must be given: 'the model itself' \(Own\)"):
        ticket.reinitialize()
    assert torch.equal(weight, ticket.model.linear.weight)
    ticket.reinitialize(lambda model: model.linear.reset_parameters())
    model = nn.Sequential(nn.Linear(4, 4), parametrizations.weight_norm(nn.Linear(4, 4)))
    with pytest.raises(ValueError, match="initialize must be given: '1'"):
        Ticket(model, 0.5, skip=["1"]).reinitialize()
