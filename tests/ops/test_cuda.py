"""The CUDA kernels without a GPU: their source, run by ``tests/cuda_emulator``, equals the reference."""

import math
from random import Random

import cuda_emulator
import pytest
import torch
from cuda_emulator import large
from cuda_emulator.cases import CASES, SPECIAL, assert_same, make_case, make_gradients, save

from benchmarks.plans import VALUES, changed
from jumpstart_kernels.ops import reference
from jumpstart_kernels.ops.activations import ACTIVATIONS, NONE
from jumpstart_kernels.ops.arguments import Options
from jumpstart_kernels.ops.layout import make_layout, unit_rows
from jumpstart_kernels.ops.slack import slack_gradients

_reason = cuda_emulator.unavailable()
pytestmark = pytest.mark.skipif(_reason is not None, reason=str(_reason))

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
PARAMETER = 0.3  # of an activation: products with it round


def make_bias(x, unit_dim, special=False):
    """One with which values tie that differed: beside the large ones, half of x is rounded away."""
    large = 2 / torch.finfo(x.dtype).eps
    values = [0.3, -0.0, large, 1.5, -large, -0.7, *((math.nan, math.inf, -math.inf) if special else ())]
    return torch.tensor(values, dtype=x.dtype)[torch.arange(x.shape[unit_dim]) % len(values)]


def check_forward(x, options, bias=None, **emulated):
    expected = reference.jumpstart_activation_forward(x, bias, options)
    actual = cuda_emulator.forward(x, bias, options, **emulated)
    for name in ("output", "mask", "extrema", "indices"):
        assert_same(getattr(actual, name), getattr(expected, name))
    # Multiples of 1/8 are exact in any order; float32 rounds those of large squares, and others with a bias.
    rtol = 1e-6 if bias is None else 1e-5
    torch.testing.assert_close(actual.slack_sums, expected.slack_sums, rtol=rtol, atol=0, equal_nan=True)
    return expected


def sum_addends(gradients, saved, options):
    """For each unit, the sum of the absolute values of all that its gradients are sums of."""
    by_output = gradients._replace(slack_sums=None, extrema=None)
    addends = reference.jumpstart_activation_backward(by_output, saved, options).x.double().abs()
    of_extrema = torch.zeros_like(saved.extrema)
    if gradients.extrema is not None:
        of_extrema += gradients.extrema.abs()
    if gradients.slack_sums is not None:
        units = saved.size[options.unit_dim]
        sums = gradients.slack_sums.abs()  # of one sign, so that nothing cancels
        of_extrema += slack_gradients(saved.extrema, sums, units, options.margin).abs()
    of_extrema = of_extrema.where(saved.indices >= 0, 0.0).double().nan_to_num(0, 0, 0).flatten()
    addends = addends.flatten().index_add(0, saved.indices.clamp(min=0).flatten(), of_extrema)
    return unit_rows(addends.view(saved.size), options.unit_dim).sum(1)


def check_backward(x, result, options, wanted, with_grad_bias=False, **emulated):
    """The gradient is bitwise equal to the reference's, which adds in the same order."""
    gradients, saved = make_gradients(x, result, wanted), save(x, result, options, with_grad_bias)
    expected = reference.jumpstart_activation_backward(gradients, saved, options)
    actual = cuda_emulator.backward(gradients, saved, options, **emulated)
    assert_same(actual.x, expected.x)
    if not with_grad_bias:
        assert actual.bias is None
        return
    # The sum of the gradient before it is rounded, within a few roundings of its addends.
    unrounded = saved._replace(dtype=result.extrema.dtype, with_grad_bias=False)
    exact = reference.jumpstart_activation_backward(gradients, unrounded, options).x.double()
    exact = unit_rows(exact, options.unit_dim).sum(1)
    error = 16 * torch.finfo(result.extrema.dtype).eps * sum_addends(gradients, unrounded, options)
    finite = exact.isfinite()
    assert_same(actual.bias[~finite].double(), exact[~finite])
    assert ((actual.bias - exact).abs() <= error)[finite].all()


KINDS = [*((dtype, False) for dtype in DTYPES), (torch.float32, True), (torch.bfloat16, True)]
RUNS = (("indexed", 1.0, 1), ("exact", 2.5, 132), ("limited", 0.5, 4))  # extrema, margin, multiprocessors
CLUSTERS = (0, 16, 1, 4)  # the most blocks that merge in the launch of the forward


@pytest.mark.parametrize(("dtype", "special"), KINDS, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_reference(name, dtype, special):
    """Of what goes together, all pairs; each case by each activation and with each set of gradients."""
    x, unit_dim, position_points = make_case(name, dtype, special)
    place, kind = list(CASES).index(name), KINDS.index((dtype, special))
    for run, (extrema, margin, multiprocessors) in enumerate(RUNS):
        for with_bias in (False, True):
            activation = list(ACTIVATIONS)[(place + kind + run + with_bias) % len(ACTIVATIONS)]
            options = Options(activation, PARAMETER, unit_dim, position_points, margin, extrema)
            bias = make_bias(x, unit_dim, special) if with_bias else None
            cluster_blocks = CLUSTERS[(place + kind + run) % len(CLUSTERS)]
            forward = {"multiprocessors": multiprocessors, "cluster_blocks": cluster_blocks}
            result = check_forward(x, options, bias, **forward, seed=multiprocessors)
            third = {wanted for wanted in range(1, 7) if (wanted + kind // 2 + run + with_bias) % 3 == 0}
            for wanted in (*third, 7):
                emulated = {"multiprocessors": multiprocessors, "seed": wanted}
                check_backward(x, result, options, wanted, with_bias, **emulated)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["aligned_large", "channels_last_large_samples", "planes_256"])
def test_misaligned_memory(name, dtype, activation):
    x, unit_dim, position_points = make_case(name, dtype)
    options = Options(activation, PARAMETER, unit_dim, position_points, 1.0, extrema_kind="exact")
    for bias in (None, make_bias(x, unit_dim)):
        result = check_forward(x, options, bias, aligned=False)
        check_backward(x, result, options, 7, bias is not None, aligned=False)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("name", CASES)
def test_the_output_may_overwrite_the_input(name, dtype):
    x, unit_dim, position_points = make_case(name, dtype, special=True)
    for activation in ACTIVATIONS:
        options = Options(activation, PARAMETER, unit_dim, position_points, 1.0, extrema_kind="indexed")
        check_forward(x, options, inplace=True)
        check_forward(x, options, make_bias(x, unit_dim, special=True), inplace=True)


@pytest.mark.parametrize("name", CASES)
def test_statistics_alone(name):
    x, unit_dim, position_points = make_case(name, torch.float32)
    options = Options(NONE, 0.0, unit_dim, position_points, 1.0, extrema_kind="indexed")
    for bias in (None, make_bias(x, unit_dim)):
        result = check_forward(x, options, bias)
        check_backward(x, result, options, 6, bias is not None)


@pytest.mark.parametrize("cluster_blocks", (0, 16))
@pytest.mark.parametrize(
    "name", ["odd_large", "channels_last_large_samples", "planes_196", "planes_positions"]
)
def test_same_bits_in_any_order_of_threads_and_blocks(name, cluster_blocks):
    x, unit_dim, position_points = make_case(name, torch.float32)
    x = x / 3  # sums that round
    options = Options("relu", 0.0, unit_dim, position_points, 1.0, extrema_kind="exact")
    for bias in (None, make_bias(x, unit_dim)):
        runs = [
            cuda_emulator.forward(x, bias, options, cluster_blocks=cluster_blocks, seed=i) for i in range(4)
        ]
        gradients, saved = make_gradients(x, runs[0], 7), save(x, runs[0], options, bias is not None)
        for i, results in enumerate(runs):
            runs[i] = *results, *cuda_emulator.backward(gradients, saved, options, seed=i)
        for results in runs[1:]:
            for first, other in zip(runs[0], results, strict=True):
                assert first is other is None or torch.equal(first, other)


@pytest.mark.parametrize("name", ["odd", "odd_large", "channels_last_large_samples", "planes_196"])
def test_whatever_the_workspace_held(name):
    """Its contents are irrelevant: nothing persists between calls, or replays of a graph."""
    x, unit_dim, position_points = make_case(name, torch.float32)
    options = Options("relu", 0.0, unit_dim, position_points, 1.0, extrema_kind="exact")
    bias = make_bias(x, unit_dim)
    sums = []
    for byte in (0x00, 0x01, 0x80, 0xFF):
        check_forward(x, options, workspace_byte=byte)
        check_forward(x, options, workspace_byte=byte, cluster_blocks=16)
        result = check_forward(x, options, bias, workspace_byte=byte)
        gradients, saved = make_gradients(x, result, 7), save(x, result, options, with_grad_bias=True)
        sums.append(cuda_emulator.backward(gradients, saved, options, workspace_byte=byte).bias)
    assert all(torch.equal(sums[0], other) for other in sums)


@pytest.mark.parametrize(("parameter", "value"), [(name, v) for name, all_ in VALUES.items() for v in all_])
def test_how_work_is_cut_changes_no_result(parameter, value):
    for name in ("narrow_large", "aligned_large", "channels_last_large_samples", "planes_long_aligned"):
        x, unit_dim, position_points = make_case(name, torch.bfloat16)
        bias = make_bias(x, unit_dim)
        of_cluster = parameter.startswith("cluster")
        for extrema in ("indexed", "limited"):
            options = Options("relu", 0.0, unit_dim, position_points, 1.0, extrema)
            with changed(cuda_emulator.plan_parameters(), parameter, value):
                clusters = 16 if of_cluster else 0
                result = check_forward(x, options, bias, multiprocessors=1, cluster_blocks=clusters)
                check_backward(x, result, options, 7, True, multiprocessors=1)


@pytest.mark.parametrize("most_blocks", (1, 3))
@pytest.mark.parametrize("name", CASES)
def test_blocks_that_take_several_regions(name, most_blocks):
    x, unit_dim, position_points = make_case(name, torch.bfloat16)
    with changed(cuda_emulator.plan_parameters(), "most_blocks", most_blocks):
        for extrema, bias in (("exact", None), ("limited", make_bias(x, unit_dim))):
            options = Options("leaky_relu", PARAMETER, unit_dim, position_points, 1.0, extrema)
            result = check_forward(x, options, bias, multiprocessors=132)
            for wanted in (1, 7):
                check_backward(x, result, options, wanted, bias is not None, multiprocessors=132)


@pytest.mark.parametrize("value", SPECIAL, ids=str)
@pytest.mark.parametrize("name", ["aligned_large", "channels_last_large_samples", "planes_256"])
def test_one_value_everywhere(name, value):
    """All elements tie: the first holds every extremum."""
    x, unit_dim, position_points = make_case(name, torch.bfloat16)
    options = Options("relu", 0.0, unit_dim, position_points, 1.0, extrema_kind="indexed")
    check_forward(torch.full_like(x, value), options)


@pytest.mark.parametrize(
    ("which", "message"),
    [(0, "out of bounds"), (1, "for its block"), (2, "for its warp"), (3, "for its cluster")],
)
def test_the_emulator_finds_faults(which, message):
    assert message in cuda_emulator.fault(which)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize(
    ("size", "channels_last"),
    [
        ((2**20, 2**12), False),
        ((2**17, 256), False),
        ((256, 256, 56, 56), True),
        ((256, 2048, 7, 7), True),
        ((256, 256, 56, 56), False),
        ((2**31, 4), False),
    ],
)
def test_workspace_is_a_small_part_of_a_large_activation(size, channels_last, dtype):
    workspace = cuda_emulator.workspace(size, 1, channels_last, dtype)
    statistics = 24 * size[0]  # bytes of the points' extrema and indices, which are there anyway
    assert 0 < workspace <= 0.05 * math.prod(size) * dtype.itemsize + statistics
    sums = cuda_emulator.backward_workspace(size, 1, channels_last, dtype)
    assert 0 < sums <= 0.02 * math.prod(size) * dtype.itemsize


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(256, 4), (256, 64), (256, 1024), (64, 13)], ids=str)
def test_backward_of_a_thin_layer_with_bias_is_one_launch(size, dtype):
    assert cuda_emulator.backward_workspace(size, 1, False, dtype) == 0


@pytest.mark.parametrize("vector", (1, 4, 8))
@pytest.mark.parametrize(
    ("size", "channels_last"),
    [((256, 4), False), ((256, 64), False), ((256, 128), False), ((64, 13), False), ((8, 32, 8, 8), True)],
    ids=str,
)
def test_forward_of_a_thin_layer_is_one_launch(size, channels_last, vector):
    """Where there are clusters; else only that of a matrix that one block takes."""
    layout = make_layout(size, 1, channels_last)
    if layout.matrix[1] % vector == 0:
        assert large.plan(layout, False, vector, 132).launches == 1


@pytest.mark.parametrize(("columns", "vector", "launches"), [(1024, 4, 1), (1024, 8, 1), (4096, 8, 2)])
@pytest.mark.parametrize("cluster_blocks", (1, 8, 16))
def test_a_cluster_takes_no_more_than_its_blocks(columns, vector, launches, cluster_blocks):
    plan = large.plan(make_layout((256, columns), 1, False), False, vector, 132, cluster_blocks)
    if plan.launches == 1:
        assert plan.work <= plan.blocks <= cluster_blocks
    if cluster_blocks == 16:
        assert plan.launches == launches
    if cluster_blocks == 1:
        assert plan.launches == 2


def test_clusters_take_all_work_and_no_more_blocks_than_there_are():
    random, in_one = Random(0), 0
    sizes = ((2000, 500), (20, 60, 12, 12))  # at most
    with changed(cuda_emulator.plan_parameters(), "small_bytes", 0):
        for place in range(4000):
            size = tuple(int(most ** random.random()) for most in sizes[place % 2])
            layout = make_layout(size, 1, place % 4 == 1)
            vector = 8 if layout.matrix[1] % 8 == 0 else 1
            most = 2 ** random.randrange(5)
            with changed(cuda_emulator.plan_parameters(), "cluster_steps", random.choice((1, 4, 63))):
                plan = large.plan(layout, place % 4 == 3, vector, 132, most)
            if plan.launches == 2 or layout.inner > 1 and place % 4 != 3:  # planes take no cluster
                continue
            in_one += 1
            assert plan.work <= plan.blocks <= most and plan.blocks.bit_count() == 1
            assert plan.extent < 2**16
    assert in_one > 1000
