"""``JumpstartLeakyReLU``: an ``nn.LeakyReLU`` with the statistics of a ``JumpstartReLU``."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import jumpstart_kernels as jk

SLOPES = pytest.mark.parametrize("slope", (0.01, 0.0, -0.5, 2.0, 1))
SPECIAL = torch.tensor((math.nan, math.inf, -math.inf, -0.0, 0.0))


class Model(nn.Sequential):
    def forward(self, x):
        return F.leaky_relu(super().forward(x), 0.25)


def make_input(*size, seed=0, **options):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(**options)


def run(layer, x, grad):
    leaf = x.clone().requires_grad_()
    output = layer(leaf * 1)
    return output.detach(), *torch.autograd.grad(output, leaf, grad)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.float16, torch.bfloat16), ids=str)
@pytest.mark.parametrize("inplace", (False, True), ids=("new", "inplace"))
@SLOPES
def test_output_and_gradient_are_those_of_leaky_relu(target, slope, inplace, dtype):
    for size in ((7, 9), (0, 3), (2, 5, 3, 3)):
        x, grad = (make_input(*size, seed=seed, dtype=dtype, device=target[1]) for seed in (0, 1))
        x.view(-1)[: len(SPECIAL)] = SPECIAL[: x.numel()]
        x = x.to(memory_format=torch.channels_last if x.dim() == 4 else torch.preserve_format)
        output, grad_x = run(jk.JumpstartLeakyReLU(slope, inplace), x, grad)
        expected, expected_grad = run(nn.LeakyReLU(slope), x, grad)  # which in place has no negative slope
        torch.testing.assert_close(output, expected, rtol=0, atol=0, equal_nan=True)
        assert output.stride() == expected.stride()
        assert torch.equal(grad_x, torch.where(x.isnan(), grad, expected_grad))  # NaN counts as positive


@SLOPES
def test_penalty_and_derivatives(target, slope):
    leaky, relu = jk.JumpstartLeakyReLU(slope, margin=2.0), jk.JumpstartReLU(margin=2.0)
    x = make_input(4, 3, dtype=torch.float64, device=target[1]).requires_grad_()
    penalties = [jk.penalty(layer) for layer in (relu, leaky) if layer(x) is not None]
    assert torch.equal(*penalties) and torch.equal(*(torch.autograd.grad(p, x)[0] for p in penalties))
    assert torch.autograd.gradcheck(lambda x: (leaky(x), jk.penalty(leaky)), x)
    assert torch.autograd.gradgradcheck(lambda x: (leaky(x).sin(), jk.penalty(leaky).square()), x)


def test_replaced_by_request_copied_compiled_and_restored():
    torch.manual_seed(0)
    model = Model(nn.Linear(6, 5), nn.LeakyReLU(0.1), nn.ReLU(), nn.Linear(5, 4), nn.LeakyReLU(2.0, True))
    x, before, state = make_input(8, 6), repr(model), model.state_dict()
    expected = model(x)
    assert isinstance(jk.replace_relu(copy.deepcopy(model))[2], jk.JumpstartReLU)
    assert jk.replace_relu(model, activations=("relu", "leaky_relu")).load_state_dict(state)
    slopes = [m.negative_slope for m in model.modules() if isinstance(m, jk.JumpstartLeakyReLU)]
    assert slopes == [0.1, 2.0, 0.25] and model.state_dict().keys() == state.keys()
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    for twin in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), compiled):
        assert torch.equal(twin(x), expected) and jk.penalty(twin) > 0
    assert repr(jk.restore_relu(model)) == before and torch.equal(model(x), expected)


def test_repr_and_bad_slopes():
    text = "negative_slope=0.2, unit_dim=1, points='sample', margin=1.0, tie_breaking='single', inplace=True"
    assert repr(jk.JumpstartLeakyReLU(0.2, True)) == f"JumpstartLeakyReLU({text})"
    for slope in ("0.2", None, torch.ones(2), True):
        with pytest.raises(TypeError, match="negative_slope must be a number, got"):
            jk.JumpstartLeakyReLU(slope)
