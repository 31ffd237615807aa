"""The global penalty equals that of one process on the whole batch."""

import itertools

import pytest
import torch
import torch.distributed as dist
from ranks import Ranks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.profiler import profile
from whole_batch import assert_close, averaged, even, gradients, grads_of, make_batch, make_model, uneven

import jumpstart_kernels as jk
from jumpstart_kernels.nn.records import clear, unwind
from jumpstart_kernels.penalties.reduction import REDUCTIONS, TERMS, reduce_records_across


def check_options(dtype, sizes, ties):
    batch, mine = make_batch(sizes, dtype, ties)
    model = make_model(dtype, margin=2.0)
    model[1].margin, model[3].margin = 0.5, 1.0
    for reduction, terms in itertools.product(REDUCTIONS, TERMS):
        options = {"reduction": reduction, "terms": terms, "sign_balance": 0.3}
        value, *parts = gradients(model, batch[mine], process_group=dist.group.WORLD, **options)
        expected = gradients(model, batch, **options)
        assert_close([value, *averaged(parts)], expected, dtype)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("sizes", (even, uneven))
@pytest.mark.parametrize("ties", (False, True), ids=("apart", "ties"))
def test_global_penalty_is_that_of_the_whole_batch(ranks, dtype, sizes, ties):
    ranks(run_with_sizes, check_options, dtype, sizes, ties)


def run_with_sizes(check, dtype, sizes, ties):
    check(dtype, sizes(), ties)


def check_layer(values, reduction, points):
    """One layer on given pre-activations ``[ranks, N, C, *]``, equal to the layer on all."""
    layer = jk.JumpstartReLU(points=points)
    mine = values[dist.get_rank()].clone().requires_grad_()
    whole = values.flatten(0, 1).clone().requires_grad_()
    layer(mine)
    value = jk.penalty(layer, reduction=reduction, process_group=dist.group.WORLD)
    (part,) = torch.autograd.grad(value, mine)
    layer(whole)
    expected = jk.penalty(layer, reduction=reduction)
    (grad,) = torch.autograd.grad(expected, whole)
    assert_close(
        [value, part / dist.get_world_size()],
        [expected, grad.unflatten(0, values.shape[:2])[dist.get_rank()]],
    )


def check_special_values():
    count = dist.get_world_size()
    for reduction, points in itertools.product(REDUCTIONS, ("sample", "position")):
        ordinary = torch.randn(count, 2, 5, 3, generator=torch.Generator().manual_seed(2))
        check_layer(ordinary, reduction, points)
        check_layer(torch.zeros(count, 2, 5, 3), reduction, points)
        check_layer(torch.zeros(count, 0, 5, 3), reduction, points)  # nothing on any rank
        check_layer(ordinary.sign() * 0.0, reduction, points)  # zeros of both signs are one tie
        infinite = ordinary.clone()
        infinite[:, :, 0], infinite[:, :, 1] = -torch.inf, torch.inf
        check_layer(infinite, reduction, points)
        broken = ordinary.clone()
        broken[count - 1, 1, 2, 1] = -torch.nan
        check_layer(broken, reduction, points)


def test_ties_infinities_and_nan_across_ranks(ranks):
    ranks(check_special_values)


def check_second_derivative():
    layer, x = jk.JumpstartReLU(), torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    results = []
    for group in (dist.group.WORLD, None):
        same = x * 1  # the same batch on each rank: twice as many points, the same means
        layer(same)
        value = jk.penalty(layer, process_group=group, reduction="norm", terms="unit")
        (grad,) = torch.autograd.grad(value, x, create_graph=True)
        (second,) = torch.autograd.grad(grad.square().sum(), x)
        results.append((value, grad, second))
    (value, grad, second), expected = results
    count = dist.get_world_size()
    if dist.get_rank() == 0:  # of equal extrema the lowest rank's count
        assert_close([value, grad / count, second / count**2], expected, torch.float64)
    else:
        assert not grad.any() and not second.any()


def test_second_derivative(ranks):
    ranks(seeded, check_second_derivative)


def seeded(check):
    torch.manual_seed(3)
    check()


def check_collectives():
    model, (batch, mine) = make_model(), make_batch(even())
    model(batch[mine])
    with profile() as events:
        jk.penalty(model, process_group=dist.group.WORLD)
    names = [event.key for event in events.key_averages() for _ in range(event.count)]
    return sum(name.startswith("c10d::") for name in names)


def test_one_collective_for_all_layers(ranks):
    assert set(ranks(check_collectives)) == {1}


def error_of(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def check_different_layers():
    model = nn.Sequential(nn.Linear(6, 8 + dist.get_rank() % 2), jk.JumpstartReLU())
    twin = nn.Sequential(nn.Linear(6, 9 - dist.get_rank() % 2), jk.JumpstartReLU())
    model.append(twin)  # as many units in all, in another order
    for part in (model[:2], twin):
        part(torch.ones(2, 6))
    message = error_of(lambda: jk.penalty(model, process_group=dist.group.WORLD))
    dist.barrier()
    return message


def test_ranks_with_different_layers_are_an_error(ranks):
    for message in ranks(check_different_layers):
        assert "ranks of process_group must have recorded the same forwards" in message


def check_bad_groups():
    count = dist.get_world_size()
    model = make_model()
    model(torch.ones(2, 6))
    other = dist.new_group([0])
    mesh = init_device_mesh("cpu", (count // 2, 2), mesh_dim_names=("a", "b"))
    messages = [error_of(lambda group=group: jk.penalty(model, process_group=group)) for group in (mesh, 3)]
    if dist.get_rank() > 0:
        messages.append(error_of(lambda: jk.penalty(model, process_group=other)))
    value = jk.penalty(model, process_group=mesh["b"])  # nothing was lost; a part of the ranks is a group too
    assert value.isfinite()
    return messages


def test_bad_groups_are_errors(ranks):
    first, *others = ranks(check_bad_groups)
    for several, number, *_ in (first, *others):
        assert several.startswith("ValueError: process_group must be a one-dimensional mesh, got 2")
        assert number.startswith("TypeError: process_group must be a torch.distributed.ProcessGroup")
    for _, _, outside in others:
        assert outside == "ValueError: process_group must be a group that this process belongs to"


def test_process_group_needs_distributed():
    model = make_model()
    model(torch.ones(2, 6))
    with pytest.raises(RuntimeError, match=r"needs torch.distributed.init_process_group\(\) first"):
        jk.penalty(model, process_group=object())
    assert jk.penalty(model).isfinite()


def check_on_gpus():
    """Uses the multi-rank path even with one rank: kernels and NCCL calls are the same."""
    batch, mine = (part.cuda() if isinstance(part, torch.Tensor) else part for part in make_batch(even()))
    model, whole = make_model().cuda(), make_model().cuda()
    for reduction, terms in itertools.product(REDUCTIONS, TERMS):
        model.zero_grad(), whole.zero_grad()
        model(batch[mine])
        layers = [module for module in model if isinstance(module, jk.JumpstartReLU)]
        records = [record for layer in layers for record in unwind(layer._records)]
        clear(layers)
        value = reduce_records_across(records, dist.group.WORLD, reduction, 0.3, terms)
        value.backward()
        whole(batch)
        expected = jk.penalty(whole, reduction=reduction, sign_balance=0.3, terms=terms)
        expected.backward()
        reached = [grad for grad in grads_of(model) if grad is not None]
        assert_close([value, *averaged(reached)], [expected, *(g for g in grads_of(whole) if g is not None)])


@pytest.mark.gpu
def test_on_gpus():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    ranks = Ranks(torch.cuda.device_count(), "nccl")
    try:
        ranks(check_on_gpus)
    finally:
        ranks.close()
