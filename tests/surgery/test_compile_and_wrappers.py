"""Replaced models under torch.compile, torch.export and DDP."""

import pickle

import pytest
import torch
from surgery.models import FunctionalCNN, Sizes, build, quietly_replace
from torch import nn

from jumpstart_kernels import penalty
from jumpstart_kernels.surgery import restore_relu


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile(backend):
    torch._dynamo.reset()
    # Without dropout: its random numbers differ by backend.
    model, x = quietly_replace(build(FunctionalCNN, 0.0)), torch.randn(6, 1, 8, 8)
    other = pickle.loads(pickle.dumps(model)) if backend == "aot_eager" else model  # has no traces yet
    compiled = torch.compile(other, fullgraph=True, backend=backend)
    gradients = []
    for run_model, owner in ((model, model), (compiled, other)):
        owner.zero_grad()
        (run_model(x).square().mean() + penalty(owner)).backward()
        gradients.append(owner.conv1.weight.grad.clone())
    torch.testing.assert_close(*gradients)
    other.eval()
    torch.testing.assert_close(compiled(x), model.eval()(x))
    restore_relu(other.train())
    compiled(x)
    with pytest.raises(RuntimeError, match="has no JumpstartReLU"):
        penalty(other)


def test_export_of_a_replaced_model():
    model, x = quietly_replace(build(FunctionalCNN)).eval(), torch.randn(2, 1, 8, 8)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


def test_inside_ddp():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        check_inside_ddp()
    finally:
        torch.distributed.destroy_process_group()


def check_inside_ddp():
    """Its model is gone on return: a DDP model that outlives its group may wait for ever (pytorch #56297)."""
    model = nn.parallel.DistributedDataParallel(build(Sizes, nn.Linear(4, 4)))
    assert quietly_replace(model) is model
    (model(torch.randn(3, 4)).sum() * 0 + penalty(model)).backward()
    assert model.module[0].weight.grad.any()


def test_inside_a_compiled_wrapper():
    model = torch.compile(build(FunctionalCNN), backend="eager")
    assert quietly_replace(model) is model
    model(torch.randn(2, 1, 8, 8))
    assert penalty(model).isfinite()
