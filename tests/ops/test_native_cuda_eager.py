"""Eager calls of native CUDA layers, which go past the dispatcher: what they compute, streams, memory."""

import weakref

import pytest
import torch
from dispatched import Dispatched

import jumpstart_kernels as jk
from jumpstart_kernels.ops import OVERLOADS, backends, native

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(
        backends.unavailable("native", "cuda") is not None, reason=str(backends.unavailable("native", "cuda"))
    ),
]

NATIVE = pytest.mark.skipif(
    not native.has_cuda() or native.extension().cuda_version is None, reason="no CUDA kernels"
)
ARGUMENTS = ("relu", 0.0, 1, False, 4.0)
SIZES = {"small": (64, 32), "rows": (256, 1024), "large": (4096, 1000), "planes": (8, 16, 14, 14)}


def make_input(size, dtype=torch.float32):
    generator = torch.Generator().manual_seed(sum(size))
    return torch.randn(size, generator=generator).to("cuda", dtype).requires_grad_()


def run(size, dtype, inplace, reduction):
    """What comes out of two layers, and their gradient."""
    layers = torch.nn.Sequential(*(jk.JumpstartReLU(margin=4.0, inplace=inplace) for _ in range(2)))
    x = make_input(size, dtype)
    output, value = layers(x * 2), jk.penalty(layers, reduction=reduction)
    (gradient,) = torch.autograd.grad((output * output.detach()).sum() + value, x)
    return output, value, gradient


@pytest.mark.parametrize("reduction", ["balanced", "norm"])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_same_bits_as_through_the_dispatcher(size, dtype, inplace, reduction):
    with jk.use_backend("native"):
        eager = run(size, dtype, inplace, reduction)
        with Dispatched():
            dispatched = run(size, dtype, inplace, reduction)
    for one, other in zip(eager, dispatched, strict=True):
        assert torch.equal(one, other)


@NATIVE
def test_one_penalty_of_layers_on_two_streams():
    """On one stream all layers read its gradient in one place; else it goes through their slack sums."""
    layers = torch.nn.Sequential(*(jk.JumpstartReLU(margin=4.0) for _ in range(2)))
    x, side = make_input(SIZES["rows"]), torch.cuda.Stream()
    gradients = []
    for stream in (torch.cuda.current_stream(), side):
        seen = []
        between = layers[0](x)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            output = layers[1](between)
        output.grad_fn.register_prehook(lambda grads, seen=seen: seen.append([g is not None for g in grads]))
        torch.cuda.current_stream().wait_stream(stream)
        gradients += torch.autograd.grad(output.sum() + jk.penalty(layers), x)
        torch.cuda.synchronize()
        assert seen == [[True] if stream != side else [True, True, False]]
    assert torch.equal(*gradients)


@NATIVE
def test_a_backward_leaves_nothing_to_its_thread():
    """Which may still be there when Python ends, and would then abort with a tensor that Python knows."""
    layers = torch.nn.Sequential(*(jk.JumpstartReLU(margin=4.0) for _ in range(2)))
    for _ in range(2000):  # what the thread still had, it had for microseconds
        layers(make_input((2, 2)))
        gradient = torch.ones((), device="cuda")
        alive = weakref.ref(gradient)
        jk.penalty(layers).backward(gradient)
        del gradient
        assert alive() is None


@NATIVE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [*SIZES.values(), (3, 7), (1, 1)], ids=str)
def test_small_results_share_memory_but_no_bytes(size, dtype):
    x, kept = make_input(size, dtype), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda t: t):
        _, record = native.jumpstart_activation(x, None, *ARGUMENTS, False, "limited")
    tensors = [*kept, record.slack_sums]  # mask, extrema and indices are saved
    ends = 0
    for tensor in sorted(tensors, key=torch.Tensor.data_ptr):
        begin, storage = tensor.data_ptr(), tensor.untyped_storage()
        assert begin >= ends and begin % 128 == 0 and tensor.is_contiguous()
        ends = begin + tensor.numel() * tensor.element_size()
        assert storage.data_ptr() <= begin and ends <= storage.data_ptr() + storage.nbytes()
    rounded = sum(-(-tensor.nbytes // 128) * 128 for tensor in tensors)
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == (1 if rounded <= 2**16 else 4)


@NATIVE
def test_what_is_kept_shares_no_memory():
    """What an operator returns, what a watched layer records. Where memory is shared, versions are not."""
    x = make_input(SIZES["small"])

    def storages(tensors):
        return len({tensor.untyped_storage().data_ptr() for tensor in tensors})

    _, record = native.jumpstart_activation(x, None, *ARGUMENTS, False, "limited")
    assert storages([record.slack_sums, record.extrema]) == 1
    version = record.extrema._version
    record.slack_sums.detach().zero_()
    assert record.extrema._version == version
    _, record = native.jumpstart_activation(x, None, *ARGUMENTS, False, "exact")
    assert storages([record.slack_sums, record.extrema]) == 2
    assert storages(OVERLOADS["native"](x, None, *ARGUMENTS, "limited")) == 5
