"""The penalty of all ranks' batches together is that of one process on the whole batch."""

import itertools

import pytest
import torch
import torch._dynamo
import torch.distributed as dist
from ranks import Ranks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import profile

import jumpstart_kernels as jk
from jumpstart_kernels.penalty import REDUCTIONS, TERMS, reduce_records_across
from jumpstart_kernels.records import clear, unwind

UNEVEN = (5, 3, 0, 4)  # samples of each rank; the third has none


@pytest.fixture(scope="module", params=(2, 4), ids=("two_ranks", "four_ranks"))
def ranks(request):
    ranks = Ranks(request.param)
    yield ranks
    ranks.close()


def make_model(dtype=torch.float32, **options):
    torch.manual_seed(0)
    relus = [jk.JumpstartReLU(**options) for _ in range(3)]
    return nn.Sequential(
        nn.Linear(6, 8), relus[0], nn.Linear(8, 8), relus[1], nn.Linear(8, 8), relus[2], nn.Linear(8, 3)
    ).to(dtype)


def make_batch(sizes, dtype=torch.float32, ties=False):
    """The batch of every rank, and where this rank's is in it."""
    x = 2 * torch.randn(sum(sizes), 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    begin = sum(sizes[: dist.get_rank()])
    mine = slice(begin, begin + sizes[dist.get_rank()])
    return (x.sign() if ties else x).to(dtype), mine


def even():
    return (4,) * dist.get_world_size()


def uneven():
    return UNEVEN[: dist.get_world_size()]


def grads_of(model):
    return [parameter.grad for parameter in model.parameters()]


def averaged(grads):
    """As DDP does it."""
    for grad in grads:
        dist.all_reduce(grad)
    return [grad / dist.get_world_size() for grad in grads]


def assert_close(actual, expected, dtype=torch.float32):
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=10 * tolerance, atol=tolerance, equal_nan=True)


def gradients(model, x, **options):
    model.zero_grad()
    model(x)
    value = jk.penalty(model, **options)
    value.backward()
    # The last layer is behind the last ReLU: no penalty reaches it.
    return [value.detach(), *(grad for grad in grads_of(model) if grad is not None)]


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


def explicit_loss(model, x, group):
    return model(x).square().mean() + 0.5 * jk.penalty(model, process_group=group)


def whole_batch_gradients(batch, steps=1):
    model = make_model()
    for _ in range(steps):
        model.zero_grad()
        explicit_loss(model, batch, None).backward()
    return grads_of(model)


def check_ddp(compiled, options):
    torch._dynamo.reset()
    batch, mine = make_batch(even())
    model = DistributedDataParallel(make_model(), **options)
    loss = explicit_loss
    if compiled == "step":
        loss = torch.compile(explicit_loss, backend="aot_eager")
    if compiled == "model":
        model = torch.compile(model, backend="aot_eager")
    for _ in range(3):
        model.zero_grad()
        loss(model, batch[mine], dist.group.WORLD).backward()
    assert_close(grads_of(model), whole_batch_gradients(batch))


@pytest.mark.parametrize(
    ("compiled", "options"),
    [
        ("", {}),
        ("", {"static_graph": True}),
        ("", {"find_unused_parameters": True}),
        ("model", {}),
        ("step", {"static_graph": True}),
    ],
    ids=str,
)
def test_ddp(ranks, compiled, options):
    ranks(check_ddp, compiled, options)


def check_fullgraph():
    torch._dynamo.reset()
    batch, mine = make_batch(even())
    model = make_model()
    loss = torch.compile(explicit_loss, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        model.zero_grad()
        loss(model, batch[mine], dist.group.WORLD).backward()
    assert_close(averaged(grads_of(model)), whole_batch_gradients(batch))


def test_penalty_across_ranks_in_one_compiled_graph(ranks):
    ranks(check_fullgraph)


def check_accumulation():
    batch, mine = make_batch(even())
    model = DistributedDataParallel(make_model())
    first, second = batch[mine][:2], batch[mine][2:]
    with model.no_sync():
        (explicit_loss(model, first, dist.group.WORLD) / 2).backward()
    (explicit_loss(model, second, dist.group.WORLD) / 2).backward()
    parts = batch.view(dist.get_world_size(), 2, 2, 6).transpose(0, 1).flatten(1, 2)
    whole = make_model()
    for part in parts:
        (explicit_loss(whole, part, None) / 2).backward()
    assert_close(grads_of(model), grads_of(whole))
    # Several forwards, one penalty.
    model.zero_grad(), whole.zero_grad()
    (
        sum(model(x).square().mean() for x in (first, second))
        + jk.penalty(model, process_group=dist.group.WORLD)
    ).backward()
    (sum(whole(x).square().mean() for x in parts) + jk.penalty(whole)).backward()
    assert_close(grads_of(model), grads_of(whole))


def test_accumulated_over_micro_batches(ranks):
    ranks(check_accumulation)


def check_fsdp(compiled, checkpointed, reshard):
    torch._dynamo.reset()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    batch, mine = make_batch(even())
    model = make_model()
    blocks = nn.Sequential(model[:2], model[2:4], model[4:])
    if checkpointed:
        from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

        blocks = nn.Sequential(*(checkpoint_wrapper(block) for block in blocks))
    for block in blocks:
        if compiled:
            block.compile(backend="aot_eager")
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard)
    fully_shard(blocks, mesh=mesh)
    for _ in range(2):
        blocks.zero_grad()
        explicit_loss(blocks, batch[mine], mesh).backward()
    grads = [grad.full_tensor() if isinstance(grad, DTensor) else grad for grad in grads_of(blocks)]
    assert_close(grads, whole_batch_gradients(batch))


@pytest.mark.parametrize("reshard", (True, False), ids=("reshard", "keep"))
@pytest.mark.parametrize("checkpointed", (False, True), ids=("plain", "checkpointed"))
@pytest.mark.parametrize("compiled", (False, True), ids=("eager", "compiled"))
def test_fsdp(ranks, compiled, checkpointed, reshard):
    ranks(check_fsdp, compiled, checkpointed, reshard)


def check_fsdp_penalty_alone():
    """No module's output is in the loss, whose gradient has FSDP2 gather the weights otherwise."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    batch, mine = make_batch(even())
    model, whole = make_model(), make_model()
    blocks = nn.Sequential(model[:2], model[2:4], model[4:6])
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(blocks, mesh=mesh)
    for _ in range(2):
        blocks.zero_grad()
        blocks(batch[mine])
        jk.penalty(blocks, process_group=mesh).backward()
    _, *expected = gradients(whole, batch)
    assert_close([grad.full_tensor() for grad in grads_of(blocks)], expected)


def test_fsdp_with_the_penalty_alone(ranks):
    ranks(check_fsdp_penalty_alone)


def check_fsdp_bfloat16():
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    batch, mine = make_batch(even())
    model = make_model()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    model(batch[mine])
    value = jk.penalty(model, process_group=mesh)
    whole = make_model().bfloat16()
    whole(batch.bfloat16())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, jk.penalty(whole), rtol=1e-6, atol=1e-6)


def test_fsdp_in_bfloat16(ranks):
    ranks(check_fsdp_bfloat16)


def check_injection_with_ddp():
    batch, mine = make_batch(even())
    model = make_model()
    counts = jk.count_units_and_points(model, batch[mine])
    model = DistributedDataParallel(model)
    with jk.inject_penalty(model, 0.5, counts=counts):
        model(batch[mine]).square().mean().backward()
    local = make_model()
    explicit_loss(local, batch[mine], None).backward()
    assert_close(grads_of(model), averaged(grads_of(local)))


def test_injected_penalty_is_the_ranks_own(ranks):
    ranks(check_injection_with_ddp)


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
        assert several.startswith("ValueError: process_group must be a mesh of one dimension, got 2")
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
    """By the way across ranks even where there is one: its kernels and NCCL's are those of many."""
    batch, mine = (part.cuda() if isinstance(part, torch.Tensor) else part for part in make_batch(even()))
    model, whole = make_model().cuda(), make_model().cuda()
    for reduction, terms in itertools.product(REDUCTIONS, TERMS):
        model.zero_grad(), whole.zero_grad()
        model(batch[mine])
        layers = [module for module in model if isinstance(module, jk.JumpstartReLU)]
        records = [record for layer in layers for record in unwind(layer._records)]
        for layer in layers:
            clear(layer)
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
