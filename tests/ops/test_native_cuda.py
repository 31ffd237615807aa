"""Native CUDA tests that need a GPU: streams, graphs, devices, bitwise reproducibility."""

import pytest
import torch

from jumpstart_kernels.ops import OVERLOADS, PENALTY_OVERLOADS, backends
from jumpstart_kernels.ops.activations import ACTIVATIONS
from jumpstart_kernels.ops.arguments import ForwardResult, Options
from jumpstart_kernels.ops.slack import LAYER_SUMS, SUMS_SHAPE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(
        backends.unavailable("native", "cuda") is not None, reason=str(backends.unavailable("native", "cuda"))
    ),
]

OPTIONS = Options("relu", 0.0, unit_dim=1, position_points=False, margin=4.0, extrema_kind="exact")
SIZES = {"small": (64, 32), "rows": (4096, 1000), "planes": (32, 64, 28, 28)}


def make_input(size, device="cuda", dtype=torch.float32):
    generator = torch.Generator().manual_seed(sum(size))
    return torch.randn(size, generator=generator).to(device, dtype).requires_grad_()


def make_bias(x):
    return torch.linspace(-1, 1, x.shape[1], dtype=x.dtype, device=x.device).requires_grad_()


def run(x):
    """Everything that comes out of a forward, a penalty and a backward, without a bias and with one."""
    return *run_with(x, None), *run_with(x, make_bias(x))


def run_with(x, bias):
    result = ForwardResult(*OVERLOADS["native"](x, bias, *OPTIONS))
    value = PENALTY_OVERLOADS["native"](
        [result.slack_sums, result.slack_sums], [0.5, 0.25] * SUMS_SHAPE[1], True
    )
    inputs = (x,) if bias is None else (x, bias)
    gradients = torch.autograd.grad((result.output * result.output.detach()).sum() + value, inputs)
    return *result, value, *gradients


def assert_equal(first, other):
    for a, b in zip(first, other, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_same_bits_in_a_hundred_runs(size):
    x = make_input(size)
    first = run(x)
    for _ in range(100):
        assert_equal(run(x), first)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_streams_do_not_meet(size):
    inputs = [make_input(size), (make_input(size) * 2).detach().requires_grad_()]
    expected = [run(x) for x in inputs]
    streams = [torch.cuda.Stream() for _ in inputs]
    results = [[], []]
    torch.cuda.synchronize()
    for _ in range(20):
        for x, stream, result in zip(inputs, streams, results, strict=True):
            with torch.cuda.stream(stream):
                result.append(run(x))
    torch.cuda.synchronize()
    for result, one in zip(results, expected, strict=True):
        for other in result:
            assert_equal(one, other)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_captured_graph_runs_on_new_values(size):
    x = make_input(size)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(x)
    for scale in (1.0, 0.1, 3.0):
        with torch.no_grad():
            x.copy_(make_input(size) * scale)
        expected = run(x)
        graph.replay()
        graph.replay()
        assert_equal(captured, expected)


def test_nothing_waits_for_the_device():
    x = make_input(SIZES["rows"])
    run(x)
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        run(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_another_device_than_the_current():
    if torch.cuda.device_count() < 2:
        pytest.skip("takes two CUDA devices")
    expected = run(make_input(SIZES["rows"], "cuda:0"))
    with torch.cuda.device(0):
        results = run(make_input(SIZES["rows"], "cuda:1"))
    assert all(tensor.device.index == 1 for tensor in results)
    assert_equal([tensor.cpu() for tensor in results], [tensor.cpu() for tensor in expected])


@pytest.mark.parametrize("layers", (3, 1000))
@pytest.mark.parametrize("square_root", (False, True))
def test_penalty_equals_the_cpu(layers, square_root):
    generator = torch.Generator().manual_seed(layers)
    sums = torch.rand((layers, *SUMS_SHAPE), generator=generator)
    weights = [0.0, 0.0, 0.09, 0.49, 0.42, 0.0, 0.0, 0.25, 0.25, 0.5]
    results = []
    for device in ("cpu", "cuda"):
        leaf = sums.detach().to(device, copy=True).requires_grad_()
        value = PENALTY_OVERLOADS["native"](list(leaf.unbind(0)), weights, square_root)
        value.backward()
        results.append((value.detach().cpu(), leaf.grad.cpu()))
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=0)


def test_penalty_of_layers_on_two_devices_is_an_error():
    sums = torch.ones(SUMS_SHAPE)
    with pytest.raises(ValueError, match="one device"):
        PENALTY_OVERLOADS["native"]([sums.cuda(), sums], [1.0] * LAYER_SUMS, False)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.float16, torch.bfloat16), ids=str)
@pytest.mark.parametrize("memory_format", (torch.contiguous_format, torch.channels_last), ids=str)
def test_more_elements_than_one_wave_of_blocks(dtype, memory_format, activation):
    x = make_input((64, 96, 56, 56), dtype=dtype).detach().contiguous(memory_format=memory_format)
    options = OPTIONS._replace(activation=activation, parameter=0.3)
    for bias in (None, make_bias(x).detach()):
        actual = ForwardResult(*OVERLOADS["native"](x, bias, *options))
        expected = ForwardResult(*OVERLOADS["reference"](x, bias, *options))
        for name in ("output", "mask", "extrema", "indices"):
            assert torch.equal(getattr(actual, name), getattr(expected, name))
        torch.testing.assert_close(actual.slack_sums, expected.slack_sums, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.float16, torch.bfloat16), ids=str)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_gradient_of_a_bias(size, dtype):
    x = make_input(size, dtype=dtype).detach()
    gradients = {}
    for backend in ("native", "reference"):
        bias = make_bias(x)
        result = ForwardResult(*OVERLOADS[backend](x, bias, *OPTIONS))
        loss = (result.output * result.output.detach()).sum() + result.slack_sums.sum()
        (gradients[backend],) = torch.autograd.grad(loss, bias)
    rtol = max(1e-5, 2 * torch.finfo(dtype).eps)
    torch.testing.assert_close(gradients["native"], gradients["reference"], rtol=rtol, atol=0)
