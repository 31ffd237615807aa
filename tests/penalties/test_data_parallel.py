"""DDP and FSDP2 with the global penalty: gradients equal those of one process on the whole batch."""

import pytest
import torch
import torch._dynamo
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from whole_batch import (
    assert_close,
    averaged,
    even,
    explicit_loss,
    gradients,
    grads_of,
    make_batch,
    make_model,
    whole_batch_gradients,
)

import jumpstart_kernels as jk


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
    """No module's output is in the loss, so FSDP2 is not triggered to gather the weights."""
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
