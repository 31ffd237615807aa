"""The mean cosine between samples against its definition over all pairs, and in front of a model's layers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from usage.definition import (
    Parallel,
    assert_unwatched,
    cosine_definition,
    mixed,
    network,
)

import jumpstart_kernels as jk
from jumpstart_kernels import JumpstartReLU
from jumpstart_kernels.usage.cosines import CosineWatch, sample_cosine
from jumpstart_kernels.usage.loader import unit_usage
from jumpstart_kernels.usage.metric import UnitUsage


@st.composite
def inputs(draw, dtype=torch.float64) -> Tensor:
    """``[N, C, *]`` with a common direction of any strength, samples of zero, and strides of all kinds."""
    shape = draw(st.lists(st.integers(0, 5), min_size=2, max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    x = x + draw(st.sampled_from([0.0, 0.1, 3.0])) * torch.randn(shape[1:], generator=generator)
    if draw(st.booleans()):
        x[torch.rand(shape[0], generator=generator) < 0.4] = 0.0
    x = x.to(dtype)
    how = draw(st.sampled_from(["contiguous", "channels_last", "transposed", "sliced", "expanded"]))
    if how == "channels_last" and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if how == "transposed":
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    if how == "sliced":
        return x.repeat_interleave(2, -1)[..., ::2]
    return x[:1].expand(shape) if how == "expanded" and shape[0] else x


PROFILE = settings(max_examples=150, deadline=None, derandomize=True)


@PROFILE
@given(inputs())
def test_the_cosine_is_that_of_all_pairs(x):
    before = x.clone()
    mean, pairs = sample_cosine(x)
    assert mean.dtype == torch.float64 and pairs.item() == len(x) * (len(x) - 1)
    assert mean.item() == pytest.approx(cosine_definition(x), abs=1e-12, nan_ok=True)
    assert torch.equal(x, before)


@PROFILE
@given(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]).flatmap(inputs))
def test_shorter_floats_are_computed_in_float32(x):
    mean, _ = sample_cosine(x)
    assert mean.dtype == torch.float32
    # Each of N unit vectors of D values is off by a few float32 ulps, which N² pairs share.
    assert mean.item() == pytest.approx(cosine_definition(x), abs=2e-6, nan_ok=True)


def test_hand_made_cosines():
    for x, expected in {
        ((1.0, 0.0), (2.0, 0.0)): 1.0,
        ((1.0, 0.0), (-3.0, 0.0)): -1.0,
        ((1.0, 0.0), (0.0, 1.0)): 0.0,
        ((1.0, 0.0), (1.0, 0.0), (0.0, 0.0)): 1 / 3,  # the pairs with the zero sample count as 0
        ((0.0, 0.0), (0.0, 0.0)): 0.0,
        ((1.0, 0.0),): math.nan,
        ((1.0, 0.0), (math.nan, 0.0), (1.0, 0.0)): math.nan,
        ((1.0, 0.0), (math.inf, 0.0)): math.nan,
    }.items():
        assert sample_cosine(torch.tensor(x))[0].item() == pytest.approx(expected, nan_ok=True), x


@pytest.mark.parametrize(
    "dtype, scale", [(torch.float32, 1e-38), (torch.float32, 1e37), (torch.float64, 1e-300)]
)
def test_vanished_and_exploded_signals_have_their_cosine(dtype, scale):
    """Squares of these values are 0 or infinite."""
    x = torch.randn(6, 5, dtype=dtype, generator=torch.Generator().manual_seed(0)) + 1
    assert sample_cosine(x * scale)[0].item() == pytest.approx(sample_cosine(x)[0].item(), rel=1e-4)


def test_identical_samples_do_not_exceed_1():
    for seed in range(50):
        x = torch.randn(1, 7, generator=torch.Generator().manual_seed(seed)).expand(3, 7)
        assert 1 - 1e-6 < sample_cosine(x)[0].item() <= 1


def test_every_layer_of_a_model():
    model, x = network(), torch.randn(6, 3)
    plain = jk.restore_relu(network())
    hidden = [model[0](x)]
    hidden.append(model[2](hidden[0].relu()))
    expected = dict(zip("13", map(cosine_definition, hidden), strict=True))
    model[3].eval()
    for each in (model, plain):
        flags = [module.training for module in each.modules()]
        cosines = jk.sample_cosines(each, x)
        assert list(cosines) == ["1", "3"] and cosines == pytest.approx(expected, abs=1e-6)
        assert [module.training for module in each.modules()] == flags
        assert_unwatched(each)
    with pytest.raises(RuntimeError, match="has recorded"):
        jk.penalty(model)


def test_layers_are_chosen_by_name():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)), torch.randn(6, 3)
    cosines = jk.sample_cosines(model, x, layers=iter(["0", "1"]))
    assert cosines == pytest.approx(
        {"0": cosine_definition(x), "1": cosine_definition(model[0](x).detach())}, abs=1e-6
    )


@pytest.mark.parametrize("activation", [JumpstartReLU, nn.ReLU])
def test_calls_in_order_and_inplace(activation):
    """A layer called twice is two; an in-place one is seen before it writes."""
    relu = activation(inplace=True)
    batches = [mixed(5, 4), mixed(5, 3, 2, seed=1)]
    with CosineWatch(model := Parallel(relu, activation(inplace=True), relu)) as watch, torch.no_grad():
        model(*(x.clone() for x in [*batches, batches[1]]))
        seen = watch.take()
        assert list(seen) == ["activations.0", "activations.1", "activations.0#2"]
        found = [cosine.mean.item() for cosine in seen.values()]
        assert watch.take() == {}
    expected = [cosine_definition(x) for x in [*batches, batches[1]]]
    assert found == pytest.approx(expected, abs=1e-6)


def test_unit_dim_tells_a_batch_from_one_sample():
    x = mixed(6, 3, 5)
    for layer, unit_dim in [
        (nn.ReLU(), -3),  # [C, H, W] is one sample
        (JumpstartReLU(unit_dim=-3), "auto"),
    ]:
        assert math.isnan(jk.sample_cosines(nn.Sequential(layer), x, unit_dim=unit_dim)["0"])
    for layer, unit_dim in [(nn.ReLU(), 1), (nn.ReLU(), -1), (JumpstartReLU(unit_dim=-1), "auto")]:
        found = jk.sample_cosines(nn.Sequential(layer), x, unit_dim=unit_dim)
        assert found == pytest.approx({"0": cosine_definition(x)}, abs=1e-6)
    positions = JumpstartReLU(unit_dim=0, points="position")  # [C, N, *]
    found = jk.sample_cosines(nn.Sequential(positions), x.transpose(0, 1))
    assert found == pytest.approx({"0": cosine_definition(x)}, abs=1e-6)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_recomputation_of_checkpointing_does_not_count(use_reentrant):
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.relu, x, use_reentrant=use_reentrant)

    model, x = Checkpointed(), mixed(6, 3).requires_grad_()
    with CosineWatch(model, unit_dim=1) as watch:
        model(x).sum().backward()
        assert list(watch.take()) == ["relu"]


@pytest.mark.parametrize("replaced", [True, False])
def test_compiled_models_and_parts_run_uncompiled(replaced):
    torch._dynamo.reset()
    model, x = network() if replaced else jk.restore_relu(network()), torch.randn(6, 3)
    expected = jk.sample_cosines(model, x)
    compiled = torch.compile(model.eval(), backend="eager")
    compiled(x)  # what is compiled by now runs no hooks of its layers
    assert jk.sample_cosines(compiled, x) == expected
    assert unit_usage(compiled, [x], cosines=True).cosines == pytest.approx(expected, abs=1e-6)
    assert list(jk.sample_cosines(nn.Sequential(compiled), x).values()) == list(expected.values())


def test_inputs_without_units_are_left_out_with_one_warning():
    for metric in (None, UnitUsage(cosines=True)):
        model = Parallel(nn.ReLU(), nn.ReLU())
        watch = CosineWatch(model) if metric is None else metric.watch(model)
        with watch, pytest.warns(UserWarning) as warned:
            model(torch.ones(3), torch.ones(2, 3))
            seen = list(watch.take() if metric is None else metric.report().cosines)
        assert seen == ["activations.1"]
        messages = [str(warning.message) for warning in warned]
        assert messages == [
            "the layer 'activations.0' got a 1-D tensor, which has no units: it is not watched there"
        ]


def test_autocast_does_not_round_the_cosines():
    x = torch.randn(64, 3)
    model = nn.Sequential(nn.ReLU())
    for options in ({"dtype": torch.bfloat16}, {"enabled": False}):
        with torch.autocast("cpu", **options):
            assert jk.sample_cosines(model, x)["0"] == pytest.approx(cosine_definition(x), abs=1e-6)


def test_wrong_arguments():
    model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.ones(2, 3)
    idle = nn.Identity()
    idle.relu = nn.ReLU()
    integers = nn.Sequential(nn.Embedding(4, 3), nn.ReLU())
    for error, match, call in [
        (TypeError, "model must be a torch.nn.Module, got list", lambda: jk.sample_cosines([], x)),
        (TypeError, "x must be a tensor, an array", lambda: jk.sample_cosines(model, "text")),
        (TypeError, "layers must be a list", lambda: jk.sample_cosines(model, x, layers="1")),
        (ValueError, "layers must be names", lambda: jk.sample_cosines(model, x, layers=["7"])),
        (TypeError, "unit_dim must be an int", lambda: jk.sample_cosines(model, x, unit_dim=1.0)),
        (ValueError, "layer '1': unit_dim must be in", lambda: jk.sample_cosines(model, x, unit_dim=2)),
        (ValueError, "layer '1': unit_dim must not be 0", lambda: jk.sample_cosines(model, x, unit_dim=0)),
        (ValueError, "model must run a watched layer", lambda: jk.sample_cosines(idle, x)),
        (
            TypeError,
            "layer '0': x must be float32, float64, float16 or bfloat16, got torch.int64",
            lambda: jk.sample_cosines(integers, x.long(), layers=["0"]),
        ),
    ]:
        with pytest.raises(error, match=match):
            call()
        assert_unwatched(model)
