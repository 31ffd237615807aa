"""Activation checkpointing: whatever is recomputed is recorded once, counted once, with the same gradient."""

import contextlib

import pytest
import torch
import torch._dynamo
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    checkpoint_sequential,
    create_selective_checkpoint_contexts,
)

import jumpstart_kernels as jk
from jumpstart_kernels.nn.records import unwind


def make_input():
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()


class Blocks(nn.Module):
    """Three blocks; ``wraps`` says how each is called."""

    def __init__(self, *wraps, inplace=False, tie_breaking="single"):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace), nn.Linear(6, 6), nn.ReLU(inplace))
            for _ in range(3)
        )
        jk.replace_relu(self, tie_breaking=tie_breaking)
        self.wraps = wraps or (call, call, call)

    def forward(self, x):
        for block, wrap in zip(self.blocks, self.wraps, strict=True):
            x = wrap(block, x)
        return x


def call(block, x):
    return block(x)


def recompute(block, x):
    return checkpoint(block, x, use_reentrant=False)


def recompute_nested(block, x):
    def first(x):
        return block[1](block[0](x))

    def both(x):
        return block[3](block[2](checkpoint(first, x, use_reentrant=False)))

    return checkpoint(both, x, use_reentrant=False)


def recompute_reentrant(block, x):
    return checkpoint(block, x, use_reentrant=True)


def recompute_selectively(block, x):
    def policy(ctx, op, *args, **kwargs):
        return CheckpointPolicy.MUST_SAVE if "jumpstart" in str(op) else CheckpointPolicy.PREFER_RECOMPUTE

    return checkpoint(
        block,
        x,
        use_reentrant=False,
        context_fn=lambda: create_selective_checkpoint_contexts(policy),
    )


def open_records(model):
    layers = [module for module in model.modules() if isinstance(module, jk.JumpstartReLU)]
    return sum(1 for layer in layers for _ in unwind(layer._records))


def explicit_loss(model, x):
    return model(x).square().mean() + 0.5 * jk.penalty(model)


def gradients(model, loss=explicit_loss, steps=2):
    """Gradients of the last of several steps: leftovers of one would show in the next."""
    device = next(model.parameters()).device
    for _ in range(steps):
        x = make_input().detach().to(device).requires_grad_()
        model.zero_grad()
        loss(model, x).backward()
        assert open_records(model) == 0
    return [x.grad, *(parameter.grad for parameter in model.parameters())]


def assert_equal(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


WRAPS = {
    "all": (recompute, recompute, recompute),
    "some": (call, recompute, call),
    "nested": (recompute_nested, call, recompute_nested),
    "selective": (recompute_selectively, recompute, recompute_selectively),
}


@pytest.mark.parametrize("inplace", (False, True), ids=("new", "inplace"))
@pytest.mark.parametrize("tie_breaking", ("single", "average"))
@pytest.mark.parametrize("name", WRAPS)
def test_checkpointed_equals_plain(target, name, tie_breaking, inplace):
    if name == "selective" and inplace:
        pytest.skip("PyTorch refuses operators that overwrite in a selective checkpoint")
    choice = (name in ("some", "nested")) + (tie_breaking == "average") + inplace
    if target == ("triton", "cpu") and choice % 2:
        pytest.skip("interpreted kernels are slow: here half of the combinations")
    options = {"inplace": inplace, "tie_breaking": tie_breaking}
    checkpointed, plain = Blocks(*WRAPS[name], **options), Blocks(**options)
    assert_equal(gradients(checkpointed.to(target[1])), gradients(plain.to(target[1])))


def test_whole_model_and_sequential():
    model = Blocks()
    expected = gradients(model)
    assert_equal(
        gradients(model, lambda model, x: recompute(model, x).square().mean() + 0.5 * jk.penalty(model)),
        expected,
    )

    def in_segments(model, x):
        layers = nn.Sequential(*(layer for block in model.blocks for layer in block))
        return checkpoint_sequential(layers, 3, x, use_reentrant=False).square().mean() + 0.5 * jk.penalty(
            model
        )

    assert_equal(gradients(model, in_segments), expected)


# torch 2.11 compiles hooks of its own checkpoint, a plain network's too, anew for each tensor that they keep.
many_compilations = torch._dynamo.config.patch(recompile_limit=64)


@pytest.mark.parametrize("name", ("all", "some", "nested"))
@many_compilations
def test_compiled_blocks_in_a_checkpoint(name):
    torch._dynamo.reset()
    model = Blocks(*WRAPS[name])
    for block in model.blocks:
        block.compile(backend="aot_eager", fullgraph=True)
    assert_equal(gradients(model, steps=3), gradients(Blocks()))


@pytest.mark.parametrize("penalty_inside", (False, True))
@pytest.mark.parametrize("name", ("all", "some"))
@torch._dynamo.config.patch(skip_fwd_side_effects_in_bwd_under_checkpoint=True)
def test_checkpoints_in_a_compiled_model(name, penalty_inside):
    torch._dynamo.reset()
    model = Blocks(*WRAPS[name])
    if penalty_inside:
        loss = torch.compile(explicit_loss, backend="aot_eager", fullgraph=True)
    else:
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)

        def loss(model, x):
            return compiled(x).square().mean() + 0.5 * jk.penalty(model)

    assert_equal(gradients(model, loss, steps=3), gradients(Blocks()))


def test_checkpoints_in_a_compiled_model_point_to_the_setting():
    torch._dynamo.reset()
    model = Blocks(*WRAPS["all"])
    with pytest.raises(Exception, match="skip_fwd_side_effects_in_bwd_under_checkpoint = True"):
        torch.compile(model, backend="aot_eager", fullgraph=True)(make_input())


@torch._dynamo.config.patch(skip_fwd_side_effects_in_bwd_under_checkpoint=True)
def test_nested_checkpoints_in_a_compiled_model_are_an_error():
    """PyTorch 2.13 cannot return records from the inner one; injection needs none (below)."""
    torch._dynamo.reset()
    model = Blocks(*WRAPS["nested"])
    with pytest.raises(RuntimeError):
        torch.compile(model, backend="aot_eager", fullgraph=True)(make_input())


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("compiled", (False, True), ids=("eager", "compiled"))
def test_reentrant_blocks_are_named(compiled):
    torch._dynamo.reset()
    model = Blocks(call, recompute_reentrant, call)
    if compiled:
        for block in model.blocks:
            block.compile(backend="aot_eager", fullgraph=True)
    reached = r"cannot reach the layers 'blocks.1.1', 'blocks.1.3': .*use_reentrant=False.*inject_penalty"
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(RuntimeError, match=reached):
        explicit_loss(model, make_input()).backward()  # compiled blocks are found out in backward
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert open_records(model) == 0
    model.wraps = (call, recompute, call)
    assert_equal(gradients(model), gradients(Blocks()))


def test_reentrant_whole_model_is_an_error_too():
    model = Blocks()
    output = recompute_reentrant(model, make_input())
    with pytest.raises(
        RuntimeError, match=r"cannot reach the layers 'blocks.0.1', .* and 1 more: .*reentrant"
    ):
        jk.penalty(model)
    output.sum().backward()
    assert open_records(model) == 0


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_reentrant_forward_that_is_not_trained_on():
    model = Blocks(call, recompute_reentrant, call)
    model.eval()(make_input())
    with torch.no_grad():
        Blocks.forward(model.train(), make_input())
    with torch.inference_mode():
        model(make_input())
    jk.clear_records(model)
    model.wraps = (call, call, call)
    assert_equal(gradients(model), gradients(Blocks()))


@pytest.mark.parametrize("wrap", (recompute, recompute_reentrant))
def test_usage_sees_each_forward_once(wrap):
    expected = jk.UnitUsage()
    plain = Blocks()
    with expected.watch(plain):
        plain(make_input())
    jk.clear_records(plain)
    metric, model = jk.UnitUsage(), Blocks(call, wrap, wrap)
    with metric.watch(model):
        model(make_input()).sum().backward()
    jk.clear_records(model)
    assert metric.update_count == 1
    assert str(metric.report()) == str(expected.report())


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("compiled", (False, True), ids=("eager", "compiled"))
@pytest.mark.parametrize("name", ("all", "some", "nested", "reentrant", "plain"))
@many_compilations
def test_injected_equals_explicit(name, compiled):
    torch._dynamo.reset()
    wraps = {"plain": (call,) * 3, "reentrant": (recompute_reentrant, call, recompute_reentrant), **WRAPS}[
        name
    ]
    model = Blocks(*wraps)
    counts = jk.count_units_and_points(model, make_input())
    if compiled:
        for block in model.blocks:
            block.compile(backend="aot_eager", fullgraph=True)
    with jk.inject_penalty(model, 0.5, counts=counts):
        injected = gradients(model, lambda model, x: model(x).square().mean())
    assert_equal(injected, gradients(Blocks()))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("wrap", (recompute, recompute_nested, recompute_reentrant))
def test_injected_in_a_compiled_model_of_checkpoints(wrap):
    torch._dynamo.reset()
    model = Blocks(wrap, call, wrap)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with contextlib.ExitStack() as stack:
        counts = jk.count_units_and_points(model, make_input())
        injection = stack.enter_context(jk.inject_penalty(model, 7.0, counts=counts))
        injection.weight = 0.5
        injected = gradients(model, lambda _, x: compiled(x).square().mean())
    assert_equal(injected, gradients(Blocks()))
