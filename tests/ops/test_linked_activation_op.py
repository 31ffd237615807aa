"""The registered operator ``linked_activation``: fakes, autograd, double backward, ``torch.compile``."""

import itertools

import pytest
import torch
from linked import ACTIVATIONS, make_weight, run_linked_forward
from operator_inputs import away_from_kinks, check_gradients, layouts, names_of
from torch._subclasses.fake_tensor import FakeTensorMode

from jumpstart_kernels.ops import LINKED_OVERLOADS

KINDS = ("none", "exact", "indexed")


@pytest.mark.parametrize("name", ("2d", "channels_last", "units_first", "2d_sliced", "empty"))
def test_opcheck(target, name):
    backend, device = target
    _, x, unit_dim = next(layout for layout in layouts(device) if layout[0] == name)
    for activation, kind in itertools.product(ACTIVATIONS, KINDS if name == "2d" else ("none",)):
        weight = make_weight(activation, x, unit_dim)
        options = (activation, 0.0, unit_dim, unit_dim == 0, 1.0, kind)
        arguments = (x.detach().requires_grad_(), None if weight is None else weight.requires_grad_())
        torch.library.opcheck(LINKED_OVERLOADS[backend], (*arguments, *options))


@pytest.mark.parametrize("name", names_of(layouts()))
def test_fakes_have_the_strides_of_the_real(target, name):
    backend, device = target
    _, x, unit_dim = next(layout for layout in layouts(device) if layout[0] == name)
    for activation, kind in itertools.product(ACTIVATIONS, KINDS):
        weight = make_weight(activation, x, unit_dim)
        options = (activation, 0.0, unit_dim, unit_dim == 0, 1.0, kind)
        real = LINKED_OVERLOADS[backend](x, weight, *options)
        with FakeTensorMode() as mode:
            fake_weight = None if weight is None else mode.from_tensor(weight)
            fake = LINKED_OVERLOADS[backend](mode.from_tensor(x), fake_weight, *options)
        for real_tensor, fake_tensor in zip(real, fake, strict=True):
            assert real_tensor.shape == fake_tensor.shape and real_tensor.dtype == fake_tensor.dtype
            assert real_tensor.stride() == fake_tensor.stride()
            assert real_tensor.device == fake_tensor.device


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("size", ((3, 5), (2, 5, 1, 2)))
def test_gradcheck_and_gradgradcheck(target, activation, size):
    backend, device = target
    x = away_from_kinks(*size).to(device).requires_grad_()
    weight = make_weight(activation, x, 1)
    inputs = (x,) if weight is None else (x, weight.requires_grad_())

    def output_and_extrema(x, weight=None):
        result = run_linked_forward(backend, activation, x, weight, extrema_kind="indexed")
        return result.output, result.slack_sums, result.extrema

    check_gradients(output_and_extrema, inputs, target)
    check_gradients(lambda *given: run_linked_forward(backend, activation, *given).output, inputs, target)


@pytest.mark.parametrize("wanted", ("x", "weight"))
def test_gradients_of_one_of_the_two(target, wanted):
    backend, device = target
    x = away_from_kinks(3, 5).to(device)
    weight = make_weight("linked_prelu", x, 1)
    of = (x if wanted == "x" else weight).requires_grad_()
    found, expected = (
        torch.autograd.grad(run_linked_forward(by, "linked_prelu", x, weight).output.sin().sum(), of)[0]
        for by in (backend, "reference")
    )
    torch.testing.assert_close(found, expected)


def step(backend, activation):
    def run(x, weight=None):
        result = run_linked_forward(backend, activation, x * 2, weight, extrema_kind="exact")
        return result.output.sin().sum() + result.slack_sums.sum()

    return run


@pytest.mark.parametrize("compiler", ("aot_eager", "inductor"))
@pytest.mark.parametrize("activation", ("linked_relu", "linked_prelu"))
def test_compiled_equals_eager(target, compiler, activation):
    backend, device = target
    torch._dynamo.reset()
    x = away_from_kinks(3, 6, 2, 4).to(device).contiguous(memory_format=torch.channels_last)
    inputs = [x] if activation == "linked_relu" else [x, make_weight(activation, x, 1)]
    results = []
    for run in (
        step(backend, activation),
        torch.compile(step(backend, activation), fullgraph=True, backend=compiler),
    ):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        value = run(*leaves)
        results.append((value, *torch.autograd.grad(value, leaves)))
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager)
        assert compiled.stride() == eager.stride()
