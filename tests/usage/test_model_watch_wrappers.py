"""``jk.watch`` of compiled models, of models in wrappers, and across processes."""

import pytest
import torch
import torch.distributed as dist
from ranks import Ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from usage.definition import definition, mixed

import jumpstart_kernels as jk


@pytest.fixture(scope="module")
def ranks():
    ranks = Ranks(2)
    yield ranks
    ranks.close()


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu, self.rest = nn.Linear(3, 8), nn.ReLU(), Rest()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(self.relu(self.first(x)))


class Rest(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.second, self.gelu, self.third = nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.third(self.gelu(self.second(x)))


NAMES = ["relu", "rest.gelu"]


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return Network()


@pytest.mark.parametrize("compiled", ["wrapper", "in place", "a part", "before it is watched"])
def test_a_compiled_model_is_observed_as_if_it_were_not(compiled):
    model, x = make_network(), torch.randn(6, 3)
    expected = [parameter.grad for parameter in backward(make_network(), x).parameters()]
    with jk.watch(make_network(), every=1) as plain:
        plain._model(x)
    called = model
    if compiled == "wrapper":
        called = torch.compile(model, fullgraph=True)
    elif compiled == "a part":
        model.rest.compile(fullgraph=True)
    else:
        model.compile(fullgraph=True)
    if compiled == "before it is watched":
        called(x)
    with jk.watch(called, every=2) as watch:
        for _ in range(4):  # two of them, wherever they are
            model.zero_grad()
            backward(called, x)
            for parameter, grad in zip(model.parameters(), expected, strict=True):
                torch.testing.assert_close(parameter.grad, grad)
    assert watch.forwards["training"] == 4
    report = watch.report()
    assert list(report.layers) == NAMES and len(report.point_status) == 12
    assert torch.equal(report.unit_max["relu"], plain.report().unit_max["relu"])
    backward(called, x)
    assert watch.forwards["training"] == 4


def backward(model: nn.Module, x: torch.Tensor) -> nn.Module:
    model(x).sum().backward()
    return model


def test_inside_other_compiled_code_nothing_is_observed_but_by_batches():
    model, x = make_network(), torch.randn(6, 3)

    @torch.compile(fullgraph=True)
    def step(x: torch.Tensor) -> torch.Tensor:
        return model(x).sum()

    with jk.watch(model, every=1) as watch:
        with pytest.warns(UserWarning, match=r"will not be observed: .*watch.batch\(\)"):
            step(x).backward()
        with pytest.raises(RuntimeError, match=r"there was none\. .*watch.batch\(\)"):
            watch.report()
        with watch.batch():
            step(x).backward()
    assert len(watch.report().point_status) == 6


def test_two_watches_leave_compiled_code_as_it_was():
    model, x = make_network(), torch.randn(6, 3)
    compiled = torch.compile(model, fullgraph=True)
    with jk.watch(compiled, every=1), jk.watch(compiled, every=2), jk.watch(compiled, every=1):
        for _ in range(3):
            compiled(x)
    ran = []
    model.relu.register_forward_hook(lambda *_: ran.append(torch.compiler.is_dynamo_compiling()))
    torch._dynamo.reset()
    compiled(x)
    assert ran == [True]


def local_and_common(x):
    part = x[:5] if dist.get_rank() == 0 else x[5:]
    model = nn.Sequential(nn.ReLU())
    with jk.watch(model, every=1, window=1, samples=0, warn_dead=0.0) as watch:
        try:
            model(part)
            warned = False
        except jk.UnitWarning:
            warned = True
    common = watch.report(across_ranks=True)
    return warned, dict(watch.report()), dict(common), common.unit_max["0"]


def with_warnings_as_errors(x):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error", jk.UnitWarning)
        return local_and_common(x)


def test_each_process_reports_its_own_or_all(ranks):
    x = mixed(12, 4)
    answers = ranks(with_warnings_as_errors, x)
    for (warned, local, common, unit_max), part, rank in zip(answers, (x[:5], x[5:]), (0, 1), strict=True):
        assert warned == (rank == 0)
        assert local == pytest.approx(definition([part]))
        assert common == pytest.approx(definition([x]))
        assert torch.equal(unit_max, x.amax(0))


def one_without_data(x):
    model = nn.Sequential(nn.ReLU())
    with jk.watch(model, every=1) as watch:
        if dist.get_rank() == 0:
            model(x)
    return dict(watch.report(across_ranks=True))


def test_a_process_without_a_forward_leaves_nobody_waiting(ranks):
    x = mixed(12, 4)
    assert ranks(one_without_data, x) == [pytest.approx(definition([x]))] * 2


def in_ddp(x):
    model = DistributedDataParallel(make_network())
    with jk.watch(model, every=1) as watch:
        model(x[:5] if dist.get_rank() == 0 else x[5:]).sum().backward()
    report = watch.report(across_ranks=True)
    return list(report.layers), len(report.point_status)


def test_in_ddp_the_names_are_those_of_the_model(ranks):
    assert ranks(in_ddp, torch.randn(12, 3)) == [(NAMES, 12)] * 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_report_is_that_of_the_cpu():
    x, reports = torch.randn(64, 3), []
    for device in ("cpu", "cuda"):
        model = make_network().to(device)
        with jk.watch(model, every=1, effective_rank=True, cosines=True) as watch:
            for part in x.to(device).split(16):
                model(part).sum().backward()
        reports.append(watch.report())
    assert reports[0].layers == reports[1].layers
    for field in ("unit_max", "dormancy", "unit_mean", "cosines", "effective_ranks"):
        mine, other = (getattr(report, field) for report in reports)
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_captured_forwards_are_passed_over():
    model, x = make_network().cuda(), torch.randn(16, 3, device="cuda")
    with jk.watch(model, every=1) as watch:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            model(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = model(x)
        graph.replay()
    assert watch.forwards["training"] == 1 and torch.equal(output, model(x))
