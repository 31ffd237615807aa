"""A model and a batch shared by several ranks, and the results of one process on the whole batch."""

import torch
import torch.distributed as dist
from torch import nn

import jumpstart_kernels as jk

UNEVEN = (5, 3, 0, 4)  # samples of each rank; the third has none


def make_model(dtype=torch.float32, **options):
    torch.manual_seed(0)
    relus = [jk.JumpstartReLU(**options) for _ in range(3)]
    return nn.Sequential(
        nn.Linear(6, 8), relus[0], nn.Linear(8, 8), relus[1], nn.Linear(8, 8), relus[2], nn.Linear(8, 3)
    ).to(dtype)


def make_batch(sizes, dtype=torch.float32, ties=False):
    """The global batch, and the slice of this rank."""
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
    """Average over ranks, as DDP does."""
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


def explicit_loss(model, x, group):
    return model(x).square().mean() + 0.5 * jk.penalty(model, process_group=group)


def whole_batch_gradients(batch, steps=1):
    model = make_model()
    for _ in range(steps):
        model.zero_grad()
        explicit_loss(model, batch, None).backward()
    return grads_of(model)
