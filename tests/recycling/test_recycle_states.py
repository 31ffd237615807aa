"""What becomes of what optimizers keep, of the units recycled and of all others."""

import copy
import warnings

import pytest
import torch
from recycling.recorded import kill, record, same, snapshot
from torch import nn

import jumpstart_kernels as jk

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
FRESH, LIVE = [1, 3], [0, 2, 4, 5]


def make():
    """A model two of whose units are dead, which have been of use before."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    nn.init.uniform_(model[0].bias, 1, 2)
    return model


def train(model, optimizer, steps=5):
    for _ in range(steps):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()


def regions(model):
    """Of each parameter that changes: a mask of what starts anew."""
    masks = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    masks["0.weight"][FRESH] = masks["0.bias"][FRESH] = True
    masks["2.weight"][:, FRESH] = True
    return masks


OPTIMIZERS = {
    "adam": (torch.optim.Adam, {}),
    "amsgrad": (torch.optim.AdamW, {"amsgrad": True}),
    "foreach": (torch.optim.Adam, {"foreach": True}),
    "fused": (torch.optim.Adam, {"fused": True}),
    "nadam": (torch.optim.NAdam, {}),
    "radam": (torch.optim.RAdam, {}),
    "adamax": (torch.optim.Adamax, {}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
    "plain sgd": (torch.optim.SGD, {}),
    "rmsprop": (torch.optim.RMSprop, {"momentum": 0.9, "centered": True}),
    "adadelta": (torch.optim.Adadelta, {}),
    "adagrad": (torch.optim.Adagrad, {"initial_accumulator_value": 0.25}),
    "rprop": (torch.optim.Rprop, {}),
    "asgd": (torch.optim.ASGD, {"t0": 1}),
}
SQUARES = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "acc_delta")


def expected(key, before, mask, parameter, name, how, lr):
    """By definition: a state tensor after recycling."""
    if key == "sum":
        return before.masked_fill(mask, 0.25)
    if key == "step_size":
        return before.masked_fill(mask, lr)
    if key == "ax":
        return before.where(~mask, parameter)
    if key not in SQUARES or how != "mean":
        return before.masked_fill(mask, 0)
    if name == "2.bias":
        return before
    if name == "2.weight":  # columns
        return before.where(~mask, before[:, LIVE].mean(1, keepdim=True))
    return before.where(~mask, before[LIVE].mean(0, keepdim=True))


@pytest.mark.parametrize("how", ["mean", "zero", "restart"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states(name, how):
    kind, options = OPTIMIZERS[name]
    model = make()
    optimizer = kind(model.parameters(), lr=1e-3, **options)
    train(model, optimizer)
    kill(model[0], FRESH)
    before = {n: copy.deepcopy(optimizer.state.get(p, {})) for n, p in model.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = jk.recycle(model, optimizer, record(model, X), optimizer_state=how)
    assert report.recycled["1"].tolist() == FRESH and report.notes == ()
    masks = regions(model)
    for parameter_name, parameter in model.named_parameters():
        state, mask = optimizer.state.get(parameter, {}), masks[parameter_name]
        assert state.keys() == before[parameter_name].keys()
        for key, old in before[parameter_name].items():
            if isinstance(old, torch.Tensor) and old.shape == parameter.shape:
                value = expected(key, old, mask, parameter, parameter_name, how, 1e-3)
                torch.testing.assert_close(state[key], value, rtol=1e-14, atol=0, msg=key)
                assert not mask.any() or key != "exp_avg" or bool((old[~mask] != 0).any())
            elif key in ("step", "mu_product") and how == "restart" and mask.any():
                assert float(state[key]) == (key == "mu_product")
            else:
                assert same(state[key], old) if old is not None else state[key] is None
        assert not parameter.grad[mask].any() and parameter.grad[~mask].any()
    train(model, optimizer)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    assert model[2].weight[:, FRESH].any()


# In multiples of the learning rate: Adam's step of a fresh weight, and of the others, for a gradient as large
# as all that it has seen. With b1 = 0.9 and b2 = 0.999 a first step of 0 state is (1 - b1) / sqrt(1 - b2).
FIRST = {"mean": (0.1, 1), "zero": (0.1 / 0.001**0.5, 1), "restart": (1, 1 / 0.1 * 0.001**0.5)}


@pytest.mark.parametrize("how", FIRST)
def test_first_steps(how):
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(12_000):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 0.5)
        optimizer.step()
    nn.init.uniform_(model[0].bias, 100, 101)
    kill(model[0], FRESH)
    report = jk.recycle(model, optimizer, record(model, X), optimizer_state=how)
    assert report.recycled["1"].tolist() == FRESH
    before = model[2].weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    optimizer.step()
    steps = (before - model[2].weight.detach()) / 1e-3
    for units, size in zip((FRESH, LIVE), FIRST[how], strict=True):
        torch.testing.assert_close(steps[:, units], torch.full_like(steps[:, units], size), rtol=1e-3, atol=0)


def test_a_whole_parameter_restarts():
    """Where all units start anew there are no others to take means from, or to be disturbed."""
    model = make()
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer)
    kill(model[0], slice(None))
    jk.recycle(model, optimizer, record(model, X))
    for parameter in (model[0].weight, model[0].bias, model[2].weight):
        state = optimizer.state[parameter]
        assert float(state["step"]) == 0 and not state["exp_avg"].any() and not state["exp_avg_sq"].any()
    assert float(optimizer.state[model[2].bias]["step"]) == 5


def test_adafactor():
    """Of factored squares, those with a row for each unit get the mean of the others."""
    model = make()
    optimizer = torch.optim.Adafactor(model.parameters(), lr=1e-2)
    train(model, optimizer)
    kill(model[0], FRESH)
    before = {n: copy.deepcopy(optimizer.state[p]) for n, p in model.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jk.recycle(model, optimizer, record(model, X))
    rows, columns = (optimizer.state[model[i].weight] for i in (0, 2))
    mean = before["0.weight"]["row_var"][LIVE].mean(0)
    assert torch.equal(rows["row_var"][FRESH], mean.expand(2, 1))
    assert torch.equal(rows["row_var"][LIVE], before["0.weight"]["row_var"][LIVE])
    assert torch.equal(rows["col_var"], before["0.weight"]["col_var"])
    mean = before["2.weight"]["col_var"][:, LIVE].mean(1, keepdim=True)
    torch.testing.assert_close(columns["col_var"][:, FRESH], mean.expand(1, 2))
    assert torch.equal(columns["row_var"], before["2.weight"]["row_var"])


class Odd(torch.optim.SGD):
    """Keeps what no other optimizer does."""

    def step(self, closure=None):
        super().step()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["flat"] = torch.ones(p.numel(), dtype=p.dtype)
                self.state[p]["quantized"] = torch.ones_like(p, dtype=torch.uint8)
                self.state[p]["mystery"] = torch.ones_like(p)


def test_unknown_states():
    model = make()
    optimizer = Odd(model.parameters(), 1e-3)
    train(model, optimizer)
    kill(model[0], FRESH)
    with pytest.warns(UserWarning, match=r"Odd's 'flat' of 0\.weight stays as it is") as caught:
        report = jk.recycle(model, optimizer, record(model, X))
    assert len(caught) == 1 and caught[0].filename == __file__
    assert "Odd's 'mystery' of 2.weight is zeroed: it is not known what it is" in report.notes
    assert "optimizer: Odd's 'quantized' of 0.bias stays as it is" in str(report)
    state = optimizer.state[model[0].weight]
    assert state["flat"].all() and state["quantized"].all()
    assert not state["mystery"][FRESH].any() and state["mystery"][LIVE].all()


def test_several_optimizers():
    model = make()
    optimizers = [torch.optim.Adam([p], lr=1e-3) for p in model.parameters()]
    for _ in range(3):
        model(X).square().mean().backward()
        for each in optimizers:
            each.step()
    kill(model[0], FRESH)
    assert jk.recycle(model, optimizers[:3], record(model, X)).total == 2
    assert not optimizers[0].state[model[0].weight]["exp_avg"][FRESH].any()
    kill(model[0], FRESH)
    before = snapshot(model, *optimizers)
    report = jk.recycle(model, optimizers[:2], record(model, X))
    assert report.left["1"] == {"2.weight is not in the optimizer": 2}
    assert same(snapshot(model, *optimizers), before)


def test_before_the_first_step():
    model = make()
    kill(model[0], FRESH)
    optimizer = torch.optim.Adam(model.parameters())
    assert jk.recycle(model, optimizer, record(model, X)).total == 2
    assert not optimizer.state
