"""Biases that activations add, under compilers, tracers, transforms, checkpoints and across ranks."""

import copy

import pytest
import torch
import torch.distributed as dist
from fused_bias import cnn, draw, fused, mlp, results, with_and_without
from ranks import Ranks
from torch import fx, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.func import functional_call, grad, jvp, stack_module_state, vmap
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import jumpstart_kernels as jk
from jumpstart_kernels.surgery import restore_relu


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile(backend):
    torch._dynamo.reset()
    model, without = with_and_without(mlp())
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for _ in range(2):
        torch.testing.assert_close(results(model, draw(7, 4), compiled), results(without, draw(7, 4)))
    torch.testing.assert_close(compiled.eval()(draw(7, 4)), without.eval()(draw(7, 4)))
    compiled.train(), without.train()
    model[0] = without[0]  # it leaves its bias to nothing
    torch.testing.assert_close(compiled(draw(7, 4)), without(draw(7, 4)))
    restore_relu(model)
    torch.testing.assert_close(compiled(draw(7, 4)), without(draw(7, 4)))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_export(strict, training):
    model, without = with_and_without(mlp())
    model.train(training), without.train(training)
    with torch.no_grad():  # else it is a mutation of the model: the layers record
        exported = torch.export.export(model, (draw(7, 4),), strict=strict).module()
        torch.testing.assert_close(exported(draw(7, 4)), without(draw(7, 4)))


def test_symbolic_trace():
    model, without = with_and_without(cnn())
    x = draw(3, 2, 6, 6)
    traced = fx.symbolic_trace(model)
    for each in (traced, copy.deepcopy(traced)):
        for mode in (True, False):
            torch.testing.assert_close(each.train(mode)(x), without.train(mode)(x))


def test_torchscript():
    model, without = with_and_without(mlp())
    for part in (model, model[0]):
        with pytest.raises(RuntimeError, match="restore_relu"):
            torch.jit.script(part)
    for each in (model, without):
        traced = torch.jit.trace(each.eval(), draw(7, 4))
        torch.testing.assert_close(traced(draw(7, 4)), without.eval()(draw(7, 4)))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint(reentrant):
    def steps(model):
        def run(x):
            for layer in model:  # each alone: a layer and its activation in different ones
                x = checkpoint(layer, x, use_reentrant=reentrant)
            return checkpoint(model, x[:, :1].expand(-1, 4), use_reentrant=reentrant)

        if reentrant:
            jk.inject_penalty(model, 0.5, reduction="sum")
            return results(model, draw(7, 4), run, lambda _: 0)
        return results(model, draw(7, 4), run)

    torch.testing.assert_close(*map(steps, with_and_without(mlp())))


def test_transforms():
    x = draw(7, 4)
    found = []
    for model in with_and_without(mlp()):
        parameters = {name: value.detach() for name, value in model.named_parameters()}
        tangents = {name: torch.ones_like(value) for name, value in parameters.items()}

        def loss(parameters, x, model=model):
            output = functional_call(model, parameters, (x,))
            return output.square().sum() + jk.penalty(model)

        other = copy.deepcopy(model)
        stacked, _ = stack_module_state([model, other])
        with jk.no_record(model):
            ensemble = vmap(lambda p, model=model: functional_call(model, p, (x,)))(stacked)
        found.append(
            [
                ensemble,
                grad(loss)(parameters, x),
                jvp(lambda p, loss=loss: loss(p, x), (parameters,), (tangents,)),
                vmap(grad(loss), (None, 0))(parameters, x[:, None]),
            ]
        )
    torch.testing.assert_close(*found)


@pytest.fixture(scope="module")
def ranks():
    ranks = Ranks(2)
    yield ranks
    ranks.close()


def _mine(x):
    return x.chunk(2)[dist.get_rank()]


def _model():
    torch.manual_seed(0)
    tail = nn.Sequential(nn.Linear(5, 7), nn.ReLU())
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), tail, nn.Linear(7, 2))


def _check_steps(model, without, parallel, prepare=lambda model: None):
    """Steps of two ranks equal those of one process that averages their losses."""
    optimizers = [torch.optim.SGD(each.parameters(), 0.1, momentum=0.9) for each in (model, without)]
    assert len(fused(model)) == 3
    for step in range(3):
        x = draw(8, 4) + step
        for optimizer in optimizers:
            optimizer.zero_grad()
        (parallel(_mine(x)).square().sum() + 0.5 * jk.penalty(model)).backward()
        for part in x.chunk(2):
            ((without(part).square().sum() + 0.5 * jk.penalty(without)) / 2).backward()
        found, expected = ([p.grad for p in each.parameters()] for each in (model, without))
        torch.testing.assert_close([_whole(each) for each in found], expected)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(*([_whole(p) for p in each.parameters()] for each in (model, without)))


def _whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def check_ddp(options):
    model, without = with_and_without(_model())
    _check_steps(model, without, DistributedDataParallel(model, **options))


@pytest.mark.parametrize("options", [{}, {"static_graph": True}, {"find_unused_parameters": True}], ids=str)
def test_ddp(ranks, options):
    ranks(check_ddp, options)


def check_fsdp(units, reshard):
    model, without = with_and_without(_model())
    mesh = init_device_mesh("cpu", (2,))
    for unit in units:
        fully_shard(model[unit], mesh=mesh, reshard_after_forward=reshard)
    fully_shard(model, mesh=mesh, reshard_after_forward=reshard)
    _check_steps(model, without, model)
    if reshard and 0 in units:
        assert not isinstance(model[0].bias, nn.Parameter) or hasattr(model[0].bias, "full_tensor")
        restore_relu(model), restore_relu(without)
        torch.testing.assert_close(model(_mine(draw(8, 4))), without(_mine(draw(8, 4))))


@pytest.mark.parametrize("reshard", [True, False])
@pytest.mark.parametrize("units", [(0, 2, 4, 5), ()], ids=["layers", "whole"])
def test_fsdp(ranks, units, reshard):
    """Also where the bias is sharded again by the time the activation adds it."""
    ranks(check_fsdp, units, reshard)


def check_fsdp_accumulation():
    model, without = with_and_without(_model())
    mesh = init_device_mesh("cpu", (2,))
    for layer in model[0], model[2], model:
        fully_shard(layer, mesh=mesh)
    for last in (False, True, False, True):
        model.set_requires_gradient_sync(last)
        x = draw(8, 4) + last
        (model(_mine(x)).square().sum() + 0.5 * jk.penalty(model)).backward()
        for part in x.chunk(2):
            ((without(part).square().sum() + 0.5 * jk.penalty(without)) / 2).backward()
        if last:
            found, expected = ([p.grad for p in each.parameters()] for each in (model, without))
            torch.testing.assert_close([_whole(each) for each in found], expected)


def test_fsdp_accumulation(ranks):
    """Gradients of several backwards, exchanged at the last."""
    ranks(check_fsdp_accumulation)


def check_fsdp_mixed_precision():
    model, without = with_and_without(_model())
    model.float(), without.float()
    mesh = init_device_mesh("cpu", (2,))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for each in (model, without):
        for layer in each[0], each[2], each:
            fully_shard(layer, mesh=mesh, mp_policy=policy)
    found, expected = (results(each, _mine(draw(8, 4)).float()) for each in (model, without))
    assert found[0].dtype == torch.bfloat16
    torch.testing.assert_close(
        *(list(map(_whole, each[3:])) for each in (found, expected)), rtol=0.1, atol=0.1
    )


def test_fsdp_mixed_precision(ranks):
    ranks(check_fsdp_mixed_precision)


def check_fsdp_checkpoint(reentrant):
    model, without = with_and_without(_model())
    mesh = init_device_mesh("cpu", (2,))
    for each in (model, without):
        for layer in each[0], each[2], each:
            fully_shard(layer, mesh=mesh)

        def run(x, model=each):
            return checkpoint(model, x, use_reentrant=False)

        each.step = run
    found, expected = (results(each, _mine(draw(8, 4)), each.step) for each in (model, without))
    torch.testing.assert_close(list(map(_whole, found)), list(map(_whole, expected)))


def test_fsdp_checkpoint(ranks):
    ranks(check_fsdp_checkpoint, False)


def check_tensor_parallelism():
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    model, without = with_and_without(mlp())
    mesh = init_device_mesh("cpu", (2,))
    without.load_state_dict(model.state_dict())
    parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    x = draw(7, 4)
    output, expected = model(x), without(x)
    assert fused(model) == []
    torch.testing.assert_close(output, expected)
    output.sum().backward(), expected.sum().backward()
    found = [_whole(parameter.grad) for parameter in model.parameters()]
    torch.testing.assert_close(found, [parameter.grad for parameter in without.parameters()])


def test_tensor_parallelism(ranks):
    """Biases that are split by it are added where they are."""
    ranks(check_tensor_parallelism)
