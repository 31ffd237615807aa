"""Tickets: what is masked, what is trained, what is left when the masks are out."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from pruning.ticket_models import cnn, mlp, train
from torch.nn.utils import prune

import jumpstart_kernels as jk
from jumpstart_kernels.pruning import Ticket

METHODS = ("magnitude", "random")


def remove(ticket):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ticket.remove()


@pytest.mark.parametrize("make", (lambda: mlp(5, 30, 30, 3), cnn), ids=("mlp", "cnn"))
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ratios", ("global", "layer", "erk"))
@pytest.mark.parametrize("sparsity", (0, 0.5, 0.9, 0.98))
def test_the_sparsity_is_met_exactly(make, method, ratios, sparsity):
    ticket = Ticket(make(), sparsity, method=method, ratios=ratios)
    masks = torch.cat([mask.flatten() for mask in ticket.masks.values()])
    assert int((~masks).sum()) == round(sparsity * len(masks))
    assert ticket.sparsity == pytest.approx(sparsity, abs=1 / len(masks))
    assert all(mask.any() for mask in ticket.masks.values())
    for (name, layer), mask in zip(ticket.layers.items(), ticket.masks.values(), strict=True):
        module = ticket.model.get_submodule(name)
        assert layer == (mask.numel(), mask.sum()) and layer.sparsity == 1 - layer.kept / layer.weights
        assert prune.is_pruned(module) and torch.equal(module.weight, module.weight_orig * mask)


def test_the_largest_of_all_layers_stay_and_of_equals_the_first():
    model = mlp(3, 2, 2)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -5, 2], [2, 2, 0]]))
        model[2].weight.copy_(torch.tensor([[-2.0, 2], [0.5, 2]]))
    ticket = Ticket(model, 0.6)
    assert ticket.masks["0"].int().tolist() == [[0, 1, 1], [1, 0, 0]]
    assert ticket.masks["2"].int().tolist() == [[1, 0], [0, 0]]  # the largest of its layer, in any case


def test_a_layer_that_starves_is_told_of(caplog):
    """A classifier with PyTorch's initialization after layers with He's, as one shot would leave it."""
    model = mlp(5, 30, 30, 3)
    with torch.no_grad():
        model[4].weight.mul_(0.01)
    Ticket(copy.deepcopy(model), 0.8, ratios="erk")
    Ticket(copy.deepcopy(model), 0.8, skip=["4"])
    assert not caplog.messages
    Ticket(model, 0.8)
    (message,) = caplog.messages
    assert message.startswith("global ratios leave almost nothing of 4 (1 of 90 weights): name it in skip")


def test_chance_is_seeded_and_leaves_the_generator_alone():
    tickets = [Ticket(mlp(5, 30, 3), 0.7, method="random", seed=seed) for seed in (0, 0, 1)]
    first, same, other = (ticket.masks["0"] for ticket in tickets)
    assert torch.equal(first, same) and not torch.equal(first, other)
    model = mlp(4, 4)
    state = torch.get_rng_state()
    Ticket(model, 0.5, method="random", seed=5).reinitialize(seed=1)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("fuse_bias", (False, True))
def test_training_moves_what_the_masks_keep_and_nothing_else(fuse_bias):
    """As the same network trains whose hidden weights are set to zero after each step."""
    model, other = (jk.replace_relu(mlp(5, 30, 30, 3), fuse_bias=fuse_bias) for _ in range(2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    ticket = Ticket(model, 0.8)
    masks = ticket.masks
    train(model, optimizer=optimizer)

    weights = [other.get_submodule(name).weight for name in masks]
    plain = torch.optim.SGD(other.parameters(), 0.1)
    for step in range(-1, 5):
        if step >= 0:
            generator = torch.Generator().manual_seed(0)
            for _ in range(step + 1):
                x = torch.randn(16, 5, generator=generator)
                y = torch.randint(3, (16,), generator=generator)
            loss = F.cross_entropy(other(x), y) + 0.1 * jk.penalty(other)
            plain.zero_grad()
            loss.backward()
            plain.step()
        with torch.no_grad():
            for weight, mask in zip(weights, masks.values(), strict=True):
                weight.mul_(mask)
    dense = remove(ticket)
    for (name, value), expected in zip(dense.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(value, expected, msg=name)


def test_a_mask_is_said_to_give_neither_speed_nor_size():
    model = mlp(5, 30, 3)
    kinds, names = [type(layer) for layer in model], [name for name, _ in model.named_parameters()]
    parameters, size = list(map(id, model.parameters())), len(model.state_dict())
    ticket = Ticket(model, 0.9)
    assert "masks give neither speed nor size: all 240 weights" in str(ticket)
    assert str(ticket).splitlines()[1].split() == ["0", "30×5", "150", *str(ticket).split()[8:10]]
    train(model)
    output = model(torch.ones(2, 5))
    with pytest.warns(UserWarning, match="neither speed nor size: all 240 .* only 24 .*by_permutation"):
        assert ticket.remove() is model
    assert torch.equal(model(torch.ones(2, 5)), output)
    assert [type(layer) for layer in model] == kinds and len(model.state_dict()) == size
    assert [name for name, _ in model.named_parameters()] == names  # in their order, too
    assert list(map(id, model.parameters())) == parameters
    assert sum(int((layer.weight != 0).sum()) for layer in model[::2]) == 24
    assert not any(layer._forward_pre_hooks for layer in model)
    assert str(ticket) == "Ticket: the masks are removed"
    for call in (ticket.remove, ticket.reinitialize, lambda: ticket.prune(0.95), lambda: ticket.rewind({})):
        with pytest.raises(RuntimeError, match="the masks of this ticket were removed: make a new one"):
            call()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Ticket(model, 0.0).remove()  # nothing is masked, and nothing is said


def test_pruning_further_counts_all_weights_and_keeps_what_is_masked():
    """Iterations: 20 % of what is left, three times, and one more by another ticket."""
    ticket = Ticket(mlp(5, 30, 30, 3), 0)
    for round_ in range(1, 4):
        before = ticket.masks
        ticket.prune(1 - 0.8**round_)
        assert ticket.sparsity == pytest.approx(1 - 0.8**round_, abs=1e-3)
        assert all((mask <= before[name]).all() for name, mask in ticket.masks.items())
        train(ticket.model)
    again = Ticket(ticket.model, 0.75)
    assert all((mask <= before[name]).all() for name, mask in again.masks.items())
    assert again.sparsity == pytest.approx(0.75, abs=1e-3) == ticket.sparsity
    hooks = [hook for layer in ticket.model for hook in layer._forward_pre_hooks.values()]
    assert len(hooks) == 3 and all(isinstance(hook, prune.CustomFromMask) for hook in hooks)
    with pytest.raises(ValueError, match="sparsity must be at least 0.75, that of the masks, got 0.5"):
        again.prune(0.5)


def test_masks_of_pytorch_are_kept():
    model = mlp(5, 30, 3)
    prune.l1_unstructured(model[0], "weight", 0.5)
    prune.random_unstructured(model[0], "weight", 0.2)
    theirs = model[0].weight_mask.bool()
    ticket = Ticket(model, 0.8)
    assert (ticket.masks["0"] <= theirs).all() and ticket.sparsity == pytest.approx(0.8)
    prune.l1_unstructured(model[0], "weight", 3)  # and the other way around
    assert int(model[0].weight_mask.sum()) == ticket.layers["0"].kept
    model = mlp(5, 30, 3)
    prune.l1_unstructured(model[0], "weight", 0.9)
    with pytest.raises(ValueError, match="'layer' keep 60 weights of '0', of which its mask has left 15"):
        Ticket(model, 0.6, ratios="layer")
    assert Ticket(model, 0.6).sparsity == pytest.approx(0.6)


def test_small_models_by_permutation(monkeypatch):
    class Result:
        model = mlp(5, 10, 3)

        def __str__(self):
            return "a table"

    calls = []

    def permutation_prune(*arguments, **options):
        calls.append((arguments, options))
        return Result()

    monkeypatch.setattr(jk.pruning, "permutation_prune", permutation_prune, raising=False)
    model, loader = mlp(5, 30, 3), [torch.randn(4, 5)]
    ticket = Ticket.by_permutation(model, loader, tolerance=0.1)
    assert calls == [((model, loader), {"tolerance": 0.1})]
    assert ticket.model is Result.model and ticket.masks == {} == ticket.layers
    assert ticket.sparsity == 1 - (60 + 33) / (180 + 93)
    assert str(ticket) == "Ticket: 93 of 273 parameters are left; the model is smaller\na table"
    weight = ticket.model[0].weight.clone()
    ticket.reinitialize(seed=1)
    assert not torch.equal(weight, ticket.model[0].weight)
    with pytest.raises(ValueError, match=r"'0.weight' must be of shape \[10, 5\], got \[30, 5\]"):
        ticket.rewind(model.state_dict())
    with pytest.raises(RuntimeError, match="by permutation has no masks"):
        ticket.prune(0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ticket.remove() is Result.model


def test_a_ticket_is_copied_with_its_model_after_a_forward():
    ticket = Ticket(mlp(5, 30, 3), 0.8)
    copy.deepcopy(ticket.model)  # before one, the model alone can be copied
    train(ticket.model)
    other = copy.deepcopy(ticket)
    x = torch.randn(4, 5)
    assert torch.equal(other.model(x), ticket.model(x))
    train(other.model)
    assert not torch.equal(other.model(x), ticket.model(x))
    other.prune(0.9)
    assert ticket.sparsity == pytest.approx(0.8, abs=0.01)


def test_checkpoints_have_the_masks():
    ticket = Ticket(mlp(5, 30, 3), 0.8)
    train(ticket.model)
    saved = copy.deepcopy(ticket.model.state_dict())
    assert "0.weight_orig" in saved and "0.weight_mask" in saved
    other = Ticket(mlp(5, 30, 3, seed=1), 0)
    other.model.load_state_dict(saved)
    assert all(torch.equal(mask, ticket.masks[name]) for name, mask in other.masks.items())
    x = torch.randn(4, 5)
    output = ticket.model(x)
    assert torch.equal(remove(other)(x), output)


def test_optimizers_find_their_states_by_number():
    """``load_state_dict`` of an optimizer goes by the order of the parameters."""
    model = mlp(5, 30, 3)
    shapes = [parameter.shape for parameter in model.parameters()]
    ticket = Ticket(model, 0.8)
    assert [parameter.shape for parameter in model.parameters()] == shapes
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer=optimizer)
    dense = remove(ticket)
    torch.optim.Adam(dense.parameters()).load_state_dict(optimizer.state_dict())


def test_compiled_models_see_the_masks():
    model = mlp(5, 30, 3)
    compiled = torch.compile(model, backend="aot_eager")
    x = torch.randn(4, 5)
    compiled(x)
    ticket = Ticket(compiled, 0.8)
    torch.testing.assert_close(compiled(x), model(x))
    train(compiled)
    torch.testing.assert_close(compiled(x), model(x))
    output = model(x)
    torch.testing.assert_close(remove(ticket)(x), output)
