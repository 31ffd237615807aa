"""``benchmarks/paper/tickets_training.py``: a masked stack trains as ``torch.nn.utils.prune`` does alone."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import jumpstart_kernels as jk
from benchmarks.paper import tickets_training
from benchmarks.paper.networks import Shape
from benchmarks.paper.stack_training import Batches, Run, Schedule, make_network
from benchmarks.paper.tickets_arms import Member
from benchmarks.paper.tickets_training import Split, hold_out, train_members
from jumpstart_kernels.demo.data import Data
from jumpstart_kernels.pruning import Ticket

SHAPE, STEPS, ROWS = Shape(5, 8, 6, 3), 10, 40
RUN = Run("jumpstart", 0, 0.01, 0.1, 0.5, 0.01, "he", rate_schedule="linear")


def make_split(seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(60, 6, generator=generator, dtype=dtype), torch.randint(3, (60,), generator=generator)
    return Split(Data("Made up", x[:ROWS], y[:ROWS], x[50:], y[50:]), (x[ROWS:50], y[ROWS:50]))


def make_members(technique):
    """Three sparse networks and a dense one, in float64."""
    members = []
    for seed, sparsity, lam in ((0, 0.3, 0.1), (1, 0.6, 1.0), (0, 0.8, 0.0), (1, None, 0.1)):
        run = replace(RUN, technique=technique, seed=seed, lam=lam)
        network = make_network(SHAPE, run).double()
        ticket = None if sparsity is None else Ticket(network, sparsity)
        members.append(Member(run, network, ticket))
    return members


def train_alone(member, split):
    """With the masks of ``torch.nn.utils.prune`` and PyTorch's Adam."""
    run, network = member.run, member.network
    optimizer = torch.optim.Adam(network.parameters(), run.learning_rate, weight_decay=run.weight_decay)
    batches = Batches([run.seed], ROWS, 16)
    for step in range(STEPS):
        x, y = batches.take(split.data.x_train[None], split.data.y_train[None])
        optimizer.param_groups[0]["lr"] = run.learning_rate * (1 - step / STEPS)
        loss = F.cross_entropy(network(x[0]), y[0])
        if run.technique == "jumpstart":
            loss = loss + run.lam * jk.penalty(network)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), run.max_norm)
        optimizer.step()


@pytest.mark.parametrize("technique", ("plain", "jumpstart"))
def test_masked_networks_train_in_a_stack_as_alone(technique):
    """In float64, to rounding; what the masks hide stays zero in the stack and does not count alone."""
    splits = {seed: make_split(seed) for seed in (0, 1)}
    members, others = make_members(technique), make_members(technique)
    masks = [None if member.ticket is None else member.ticket.masks for member in members]
    records = train_members(members, splits, Schedule(steps=STEPS, batch_size=16))
    for member, other, mask, record in zip(members, others, masks, records, strict=True):
        split = splits[member.run.seed]
        train_alone(other, split)
        x, y = split.data.x_test, split.data.y_test
        for network in (member.network, other.network):
            network.eval()
        with torch.no_grad():
            outputs = member.network(x), other.network(x)
        torch.testing.assert_close(*outputs, rtol=1e-8, atol=1e-10)
        for name, layer in member.network.named_modules():
            if mask is not None and name in mask:
                alone = other.network.get_submodule(name).weight
                torch.testing.assert_close(layer.weight, alone, rtol=1e-8, atol=1e-10)
                assert torch.equal(layer.weight != 0, mask[name])
        assert record["accuracy"] == pytest.approx((outputs[1].argmax(1) == y).double().mean().item())
        assert record["steps"] == STEPS and record["step_seconds"] > 0 and record["diverged"] == 0


def test_what_is_reported_is_of_the_rows_that_it_says():
    split = make_split(0, torch.float32)
    (member,) = [Member(RUN, make_network(SHAPE, RUN))]
    (record,) = train_members([member], {0: split}, Schedule(steps=5))
    rows = {"accuracy": split.data[3:], "validation_accuracy": split.validation}
    for key, (x, y) in rows.items():
        assert record[key] == pytest.approx((member.network(x).argmax(1) == y).double().mean().item())
    report = jk.unit_usage(member.network, [split.data.x_test])
    assert record["dead"] == pytest.approx(report["unit_dead_ratio"])
    assert record["linear"] == pytest.approx(report["unit_linear_ratio"])


def test_more_networks_than_a_stack_takes(monkeypatch):
    splits = {seed: make_split(seed) for seed in (0, 1)}
    together = train_members(make_members("jumpstart"), splits, Schedule(steps=5))
    monkeypatch.setattr(tickets_training, "STACKED", 3)
    apart = train_members(make_members("jumpstart"), splits, Schedule(steps=5))
    assert [one["accuracy"] for one in together] == [one["accuracy"] for one in apart]


def test_rows_for_validation_are_of_no_other_part():
    split = make_split(0)
    data = split.data._replace(y_train=torch.arange(ROWS) % 4)
    held = hold_out(data, 1)
    x, y = held.validation
    assert len(x) == len(y) == ROWS / 5 and y.bincount().tolist() == [2] * 4
    assert torch.equal(held.data.x_test, data.x_test)
    joined = torch.cat([held.data.x_train, x])
    assert torch.equal(joined.sort(0).values, data.x_train.sort(0).values)
    assert not torch.equal(hold_out(data, 2).validation[0], x)
    assert torch.equal(hold_out(data, 1).validation[0], x)


def test_trained_weights_are_those_of_the_network():
    """A dense network and a ticket's get all parameters back, the classifier's too."""
    splits = {seed: make_split(seed) for seed in (0, 1)}
    members = make_members("plain")
    before = [copy.deepcopy(member.network.state_dict()) for member in members]
    train_members(members, splits, Schedule(steps=5))
    for member, weights in zip(members, before, strict=True):
        after = member.network.state_dict()
        changed = {name for name, value in after.items() if not torch.equal(value, weights[name])}
        assert {"classifier.bias"} <= changed and not any(name.endswith("_mask") for name in changed)
    assert changed == set(weights)  # of the last, which is dense
