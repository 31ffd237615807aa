"""Native CUDA layers on a device that is not the current one: where results are, and where kernels run.

Values are not looked at, so that one machine's stand-in for two GPUs is enough:

    python -m benchmarks.host_time --devices 2 --run pytest -m gpu tests/ops/test_two_devices.py
"""

import threading
from contextlib import nullcontext

import pytest
import torch
from dispatched import Dispatched
from linked import ACTIVATIONS, make_weight
from torch import nn
from two_devices import FIRST, SECOND, SIZES, alone, check_devices, make_input, make_layers, step

import jumpstart_kernels as jk
from jumpstart_kernels.functional import linked_relu
from jumpstart_kernels.ops import LINKED_OVERLOADS, OVERLOADS, PENALTY_OVERLOADS, backends
from jumpstart_kernels.ops.arguments import ForwardResult, Gradients, LinkedSaved, Options, Saved
from jumpstart_kernels.ops.slack import LAYER_SUMS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="takes two CUDA devices"),
    pytest.mark.skipif(
        backends.unavailable("native", "cuda") is not None, reason=str(backends.unavailable("native", "cuda"))
    ),
]


@pytest.fixture(params=("default_streams", "side_streams"), autouse=True)
def streams(request):
    """The current streams of both devices, of which the first one is current."""
    kind = torch.cuda.default_stream if request.param == "default_streams" else torch.cuda.Stream
    with torch.cuda.stream(kind(SECOND)), torch.cuda.stream(kind(FIRST)):
        assert torch.cuda.current_device() == FIRST.index
        yield


@pytest.mark.parametrize("reduction", ("balanced", "norm"))
@pytest.mark.parametrize("inplace", (False, True))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_eager_layers(size, dtype, inplace, reduction):
    layers = make_layers(inplace=inplace)
    step(layers, make_input(size, FIRST, dtype))  # what it has been allowed there does not count elsewhere
    with alone(SECOND):
        check_devices(step(layers, make_input(size, SECOND, dtype), reduction=reduction), SECOND)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_layers_through_the_dispatcher(size):
    with alone(SECOND), Dispatched():
        check_devices(step(make_layers(), make_input(size, SECOND), reduction="norm"), SECOND)


@pytest.mark.parametrize("size", ((64, 32), (256, 1024)), ids=str)
def test_biases(size):
    model = nn.Sequential(nn.Linear(size[1], size[1]), nn.ReLU(), nn.Linear(size[1], 8), nn.ReLU())
    model = jk.replace_relu(model.to(FIRST), fuse_bias=True)
    check_devices(step(model, make_input(size, FIRST)), FIRST)
    model.zero_grad()
    model.to(SECOND)
    with alone(SECOND):
        check_devices(step(model, make_input(size, SECOND)), SECOND)


def test_more_layers_than_a_launch_of_the_penalty_takes():
    layers = nn.Sequential(*(jk.JumpstartReLU() for _ in range(600)))
    with alone(SECOND):
        check_devices(step(layers, make_input((4, 3), SECOND)), SECOND)


@pytest.mark.parametrize("extrema_kind", ("none", "limited"))
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_linked_activations(size, activation, extrema_kind):
    with alone(SECOND):
        x = make_input(size, SECOND)
        weight = make_weight(activation, x, 1)
        inputs = (x,) if weight is None else (x, weight.requires_grad_())
        results = LINKED_OVERLOADS["native"](x, weight, activation, 0.0, 1, False, 1.0, extrema_kind)
        loss = results[0].sum() + (results[2].sum() if extrema_kind != "none" else 0)
        check_devices([*results, *torch.autograd.grad(loss, inputs)], SECOND)


def test_backwards_called_alone():
    """By a thread that has another device: those of autograd make it theirs before they call them."""
    call = torch.ops.jumpstart_kernels
    options = Options("relu", 0.0, 1, False, 1.0, "limited")
    with alone(SECOND):
        x, bias = torch.randn((256, 1024), device=SECOND), torch.randn(1024, device=SECOND)
        like = x.shape, False, x.dtype
        result = ForwardResult(*OVERLOADS["native"](x, bias, *options))
        saved = Saved(result.mask, result.extrema, result.indices, *like, True)
        gradients = Gradients(result.output, result.slack_sums, None)
        found = [*call.jumpstart_activation_backward.native(*gradients, *saved, *options)]
        sums, weights = [result.slack_sums], [0.5] * LAYER_SUMS
        value = PENALTY_OVERLOADS["native"](sums, weights, True)
        found.append(call.penalty_backward.native(torch.ones_like(value), value, weights))
        options = options._replace(activation="linked_prelu")
        weight = make_weight("linked_prelu", x, 1)
        result = ForwardResult(*LINKED_OVERLOADS["native"](x, weight, *options))
        saved = LinkedSaved(x, weight, result.mask, result.extrema, result.indices, *like, True)
        gradients = Gradients(result.output, result.slack_sums, None)
        found += call.linked_activation_backward.native(*gradients, *saved, *options)
    check_devices(found, SECOND)


@pytest.mark.parametrize("dispatched", (False, True))
@pytest.mark.parametrize("moved", ("output", "penalty", "linked"))
def test_gradients_that_a_hook_moves_are_refused(moved, dispatched):
    """As PyTorch's own operators do: the kernels would read another device's memory."""
    layers, x = make_layers(), make_input((64, 32), SECOND)
    with Dispatched() if dispatched else nullcontext():
        result = linked_relu(x) if moved == "linked" else layers(x)
        if moved == "penalty":
            result = jk.penalty(layers, reduction="norm")
        result.register_hook(lambda gradient: gradient.to(FIRST))
        with pytest.raises(ValueError, match="must be on the device of"):
            result.sum().backward()


@pytest.mark.parametrize("requires_grad", (True, False))
def test_one_penalty_of_layers_on_both_devices(requires_grad):
    layers = make_layers()
    x = make_input((64, 32), FIRST).requires_grad_(requires_grad)
    output = layers[1](layers[0](x).to(SECOND))
    value = jk.penalty(layers)
    check_devices([output], SECOND)
    check_devices([value], FIRST)
    if requires_grad:
        (output.sum() + value.to(SECOND)).backward()
        check_devices([x.grad], FIRST)


def test_a_penalty_for_each_device_in_one_backward():
    first, second = make_layers(), make_layers()
    x = make_input((64, 32), FIRST)
    output = second(first(x).to(SECOND))
    values = jk.penalty(first), jk.penalty(second)
    torch.autograd.backward([output.sum(), *values])
    check_devices([values[0], x.grad], FIRST)
    check_devices([values[1]], SECOND)


def test_a_thread_for_each_device():
    found = {}

    def run(device):
        with torch.cuda.device(device):
            steps = [step(make_layers(), make_input((256, 1024), torch.device("cuda"))) for _ in range(20)]
        found[device] = [tensor for tensors in steps for tensor in tensors]

    threads = [threading.Thread(target=run, args=(device,)) for device in (FIRST, SECOND)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.keys() == {FIRST, SECOND}
    for device, tensors in found.items():
        check_devices(tensors, device)
