"""What the benchmark measures, and in which order; timings are not checked."""

import pytest
import torch

from jumpstart_kernels.bench import timing
from jumpstart_kernels.bench.cases import (
    DTYPES,
    HEALTHS,
    Case,
    Health,
    add_bias,
    make_bias,
    make_gradient,
    make_input,
    select_cases,
)
from jumpstart_kernels.bench.peer import Peer

CPU = torch.device("cpu")


def test_unhealthy_units_are_dead_and_linear():
    torch.manual_seed(0)
    x = make_input(Case((50, 20), dead=0.2, linear=0.2), CPU)
    assert (x.amax(0) <= 0).sum() == 4 and (x.amin(0) > 0).sum() == 4
    healthy = make_input(Case((50, 20)), CPU)
    assert (healthy.amax(0) > 0).all() and (healthy.amin(0) < 0).all()
    assert (make_input(Case((50, 20), dead=1.0), CPU) < 0).all()
    x = make_input(Case((50, 4), dead=0.1), CPU)  # at least one unit
    assert (x.amax(0) <= 0).tolist() == [True, False, False, False] and (x.amin(0) < 0).all()


def test_cases_name_the_health_of_their_units():
    assert {
        name: Case((2, 3), dead=each.dead, linear=each.linear).health for name, each in HEALTHS.items()
    } == {name: name for name in HEALTHS}
    assert Case((2, 3), dead=0.3).health == "unhealthy"
    assert str(Case((2, 3), dead=1.0)) == "2x3 float32 contiguous, all units dead"
    cases = select_cases("cpu", selection="quick", healths=list(HEALTHS.values()))
    assert [case.health for case in cases] == [*HEALTHS] * 3
    assert {case.health for case in select_cases("cpu", selection="all")} == {"healthy"}
    (case,) = select_cases("cpu", shapes=[(2, 3)], dtypes=["float32"], healths=[Health(0.25, 0.25)])
    assert (case.dead, case.linear) == (0.25, 0.25)


def test_inputs_have_the_layout_and_dtype_of_the_case():
    case = Case((2, 3, 4, 5), "bfloat16", "channels_last")
    for tensor in (make_input(case, CPU), make_gradient(case, CPU)):
        assert tensor.dtype == torch.bfloat16
        assert tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape, layout", [((50, 20), "contiguous"), ((5, 20, 3, 3), "channels_last")])
def test_with_its_bias_an_input_is_what_the_case_says(shape, layout, dtype):
    torch.manual_seed(0)
    case = Case(shape, dtype, layout, dead=0.2, linear=0.2, bias=True)
    x, bias = make_input(case, CPU), make_bias(case, CPU)
    assert bias.shape == (20,) and torch.equal(bias, make_bias(case, CPU)) and bias.unique().numel() > 10
    assert x.is_contiguous(memory_format=torch.channels_last) == (layout == "channels_last")
    rows = add_bias(x, bias).movedim(1, 0).flatten(1)
    assert x.dtype == bias.dtype == rows.dtype == DTYPES[dtype]
    assert (rows[:4] <= 0).all() and (rows[-4:] >= 0).all()
    assert (rows[4:-4].amax(1) > 0).all() and (rows[4:-4].amin(1) < 0).all()
    assert rows.double().std() == pytest.approx(1, abs=0.2)


def test_cases_with_a_bias():
    assert str(Case((2, 3), bias=True)) == "2x3 float32 contiguous, bias"
    cases = select_cases("cuda", graphs=True, bias=True)
    assert cases == [case._replace(bias=True) for case in select_cases("cuda", graphs=True)]


def test_selections():
    cpu = select_cases("cpu")
    assert len(cpu) == 12 and {case.dtype for case in cpu} == {"float32", "bfloat16"}
    assert [case.shape for case in cpu if case.layout == "channels_last"] == [(64, 64, 56, 56)] * 2
    large = [case for case in select_cases("cuda") if case.bytes >= 2**28]
    assert {(len(case.shape), case.dtype) for case in large} == {
        (dim, dtype) for dim in (2, 4) for dtype in ("float32", "bfloat16")
    }
    graphs = [case for case in select_cases("cuda", graphs=True) if case.graphs]
    assert {case.shape for case in graphs} == {(256, 4), (256, 1024), (1024, 1024)}
    everything = select_cases("cpu", selection="all")
    assert {case.dtype for case in everything} == set(DTYPES) and len(everything) > 3 * len(cpu) / 2
    sizes = [case.bytes for case in select_cases("cuda", selection="sweep")]
    assert sizes == sorted(sizes) and sizes[-1] >= 2**28
    chosen = select_cases("cpu", shapes=[(2, 3), (2, 3, 4, 5)], layouts=["channels_last"], dtypes=["float16"])
    assert chosen == [Case((2, 3, 4, 5), "float16", "channels_last")]


def test_samples_are_interleaved_and_turned():
    order = []

    def sampler(name):
        return timing.Sampler(lambda: order.append(name) or len(order), 1)

    rounds = list(timing.interleave([sampler("a"), sampler("b"), sampler("c")], 3, budget=0))
    assert "".join(order) == "abccbaabc"
    assert rounds == [[1, 2, 3], [6, 5, 4], [7, 8, 9]]  # in the order of the samplers, each time


def test_rounds_fill_the_budget():
    nothing = timing.Sampler(lambda: 0.0, 1)
    assert len(list(timing.interleave([nothing], None, budget=0.0))) == timing.MIN_ROUNDS
    assert len(list(timing.interleave([nothing], None, budget=0.05))) > timing.MIN_ROUNDS


@pytest.mark.parametrize("each, iterations", [(1.0, 1), (3e-3, 1), (1e-3, 2), (1e-5, 200), (1e-9, 1000)])
def test_short_runs_are_repeated_within_a_sample(each, iterations, monkeypatch):
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 2e-3)
    counts = []
    sampler = timing.calibrate(lambda count: counts.append(count) or each)
    sampler.sample()
    assert sampler.iterations == counts[-1] == iterations


def test_a_pass_runs_what_it_says():
    calls = []

    def forward(x):
        calls.append("forward")
        return (x * 2,)

    peer = Peer("peer", forward, forward)
    peer.backward = lambda x, outputs, grad: calls.append("backward")
    peer.step = lambda x, grad: calls.append("step")
    buffers = timing.Buffers(Case((2, 3)), CPU)
    for name, expected in {
        "forward": ["forward"] * 2,
        "backward": ["forward"] * 2 + ["backward"] * 2,
        "forward+backward": ["forward", "backward"] * 2,
        "step": ["step"] * 2,
    }.items():
        calls.clear()
        assert timing.take_sample(peer, name, buffers, 2) > 0
        assert calls == expected


def test_quartiles():
    assert timing.quartiles([5.0]) == (5, 5, 5)
    assert timing.quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == (2, 3, 4)
