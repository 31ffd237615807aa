"""The reference copies nothing from the host, which a GPU would wait for and a CUDA graph cannot hold."""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from jumpstart_kernels.ops import reference
from jumpstart_kernels.ops.activations import ACTIVATIONS, LINKED_ACTIVATIONS, NONE
from jumpstart_kernels.ops.arguments import EXTREMA_KINDS, Gradients, LinkedSaved, Options, Saved
from jumpstart_kernels.ops.layout import is_channels_last
from jumpstart_kernels.ops.slack import LAYER_SUMS

# lift_fresh: torch.tensor. The others read a value.
OF_THE_HOST = {"aten::lift_fresh", "aten::_local_scalar_dense", "aten::nonzero"}


class HostOperators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen |= {function._schema.name} & OF_THE_HOST
        return function(*args, **(kwargs or {}))


def inputs():
    x = torch.randn(3, 4, 5, 2, generator=torch.Generator().manual_seed(0))
    return x, x.contiguous(memory_format=torch.channels_last), x[:0]


def test_the_mode_sees_what_comes_from_the_host():
    with HostOperators() as mode:
        torch.tensor([1.0]).item()
    assert mode.seen == {"aten::lift_fresh", "aten::_local_scalar_dense"}


@pytest.mark.parametrize("kind", EXTREMA_KINDS)
@pytest.mark.parametrize("activation", (*ACTIVATIONS, NONE))
def test_activations(activation, kind):
    for x, position_points in itertools.product(inputs(), (False, True)):
        bias = torch.ones(4)
        options = Options(activation, 0.3, 1, position_points, 1.0, kind)
        with HostOperators() as mode:
            result = reference.jumpstart_activation_forward(x, bias, options)
            output = None if activation == NONE else result.output
            saved = Saved(
                result.mask, result.extrema, result.indices, x.shape, is_channels_last(x, 1), x.dtype, True
            )
            gradients = Gradients(output, result.slack_sums, result.extrema)
            reference.jumpstart_activation_backward(gradients, saved, options)
        assert not mode.seen


@pytest.mark.parametrize("activation", LINKED_ACTIVATIONS)
def test_linked_activations(activation):
    for x, position_points in itertools.product(inputs(), (False, True)):
        weight = torch.ones(2, 4) if activation == "linked_prelu" else None
        options = Options(activation, 0.0, 1, position_points, 1.0, "limited")
        kept = None if LINKED_ACTIVATIONS[activation].from_sign else x
        with HostOperators() as mode:
            result = reference.linked_activation_forward(x, weight, options)
            gradients = Gradients(result.output, result.slack_sums, result.extrema)
            saved = LinkedSaved(
                kept, weight, result.mask, result.extrema, result.indices, x.shape, is_channels_last(x, 1),
                x.dtype, weight is not None,
            )  # fmt: skip
            reference.linked_activation_backward(gradients, saved, options)
        assert not mode.seen


@pytest.mark.parametrize("square_root", (False, True))
def test_penalty(square_root):
    sums, weights = torch.rand(2, 5), [0.0, 0.5] * (LAYER_SUMS // 2)
    with HostOperators() as mode:
        value = reference.penalty([sums, sums], weights, square_root)
        reference.penalty_backward(torch.ones_like(value), value if square_root else None, weights)
    assert not mode.seen
