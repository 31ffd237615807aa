"""The usage metric against its definition, and what watching a model must not do to it."""

import copy
import math
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import jumpstart_kernels
from jumpstart_kernels import JumpstartReLU, clear_records, penalty
from jumpstart_kernels.modules import LayerExtrema
from jumpstart_kernels.usage import UnitUsage, unit_usage

NAMES = [
    "unit_dead_ratio",
    "unit_linear_ratio",
    "unit_nonlinear_ratio",
    "point_dead_ratio",
    "point_linear_ratio",
    "point_nonlinear_ratio",
    "deathness_ratio",
    "linearity_ratio",
    "nonlinearity_ratio",
    "point_efficiency",
]


class Parallel(nn.Module):
    """One activation for each input, so that a test chooses every pre-activation."""

    def __init__(self, *activations: nn.Module) -> None:
        super().__init__()
        self.activations = nn.ModuleList(activations)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return [activation(x) for activation, x in zip(self.activations, inputs, strict=True)]


def status_of(values: Tensor) -> int:
    if values.max() <= 0:
        return -1
    return 0 if values.min() > 0 else 1


def definition(inputs: list[Tensor]) -> dict[str, float]:
    """The ratios by their definition, value by value; units are dimension 1, points dimension 0."""
    units = [status_of(x[:, c]) for x in inputs for c in range(x.shape[1])]
    points = [[status_of(x[n]) for x in inputs] for n in range(len(inputs[0]))]
    pairs = [status for point in points for status in point]
    left = [len(point) - max((i + 1 for i, s in enumerate(point) if s == -1), default=0) for point in points]
    values = [units.count(status) / len(units) for status in (-1, 0, 1)]
    values += [
        sum(-1 in point for point in points) / len(points),
        sum(set(point) == {0} for point in points) / len(points),
        sum(set(point) == {1} for point in points) / len(points),
    ]
    values += [pairs.count(status) / len(pairs) for status in (-1, 0, 1)]
    return dict(zip(NAMES, [*values, sum(left) / len(pairs)], strict=True))


def mixed(*shape: int, seed: int = 0) -> Tensor:
    """Values with dead, linear and nonlinear units among them; with an odd seed, such points."""
    generator = torch.Generator().manual_seed(seed)
    dim = 1 - seed % 2
    shift = 5 * (torch.arange(shape[dim]) % 3 - 1)
    return torch.randn(shape, generator=generator) + shift.view(
        [-1 if i == dim else 1 for i in range(len(shape))]
    )


def layer_inputs() -> list[Tensor]:
    return [mixed(12, 4), mixed(12, 3, 2, 2, seed=1), mixed(12, 5, 3, seed=2), mixed(12, 6, seed=3)]


def watched(model: nn.Module, *batches: list[Tensor], **options) -> UnitUsage:
    metric = UnitUsage()
    with metric.watch(model, **options):
        for inputs in batches:
            model(*inputs)
    return metric


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), JumpstartReLU(), nn.Linear(4, 4), JumpstartReLU(), nn.Linear(4, 2))


def assert_ratios(metric: UnitUsage, expected: dict[str, float]) -> None:
    computed = metric.compute()
    assert list(computed) == NAMES
    torch.testing.assert_close({name: float(value) for name, value in computed.items()}, expected)


@pytest.mark.parametrize("activation", [JumpstartReLU, nn.ReLU])
def test_ratios_are_those_of_the_definition(target, activation):
    _, device = target
    inputs = layer_inputs()
    expected = definition(inputs)
    assert all(0 < value < 1 for name, value in expected.items() if name != "point_linear_ratio")
    model = Parallel(*(activation() for _ in inputs)).eval()
    metric = watched(model, [x.to(device) for x in inputs])
    assert_ratios(metric, expected)
    assert dict(metric.report()) == pytest.approx(expected)


def test_ratios_of_a_hand_made_case():
    # Points down, units across. Point 0 is dead in layer 0 only, point 1 linear in both, point 2 nonlinear in
    # layer 0 and dead in layer 1, point 3 nonlinear in both.
    first = torch.tensor([[-1.0, 0.0], [1.0, 2.0], [1.0, -1.0], [2.0, 0.0]])
    second = torch.tensor([[3.0, 1.0, -1.0], [1.0, 1.0, 1.0], [0.0, -1.0, -2.0], [1.0, 0.5, -1.0]])
    report = watched(Parallel(nn.ReLU(), nn.ReLU()).eval(), [first, second]).report()
    assert report.unit_status["activations.0"].tolist() == [1, 1]
    assert report.unit_status["activations.1"].tolist() == [1, 1, 1]
    assert report.point_status.tolist() == [[-1, 1], [0, 0], [1, -1], [1, 1]]
    assert dict(report) == pytest.approx(
        dict(zip(NAMES, [0, 0, 1, 2 / 4, 1 / 4, 1 / 4, 2 / 8, 2 / 8, 4 / 8, 5 / 8], strict=True))
    )


def test_a_unit_is_dead_or_linear_on_all_of_the_data():
    model = Parallel(nn.ReLU()).eval()
    batches = [[torch.tensor([[-1.0, 1.0, -1.0, 2.0]])], [torch.tensor([[0.0, 2.0, 1.0, 0.0]])]]
    assert watched(model, *batches).report().unit_status["activations.0"].tolist() == [-1, 0, 1, 1]


@pytest.mark.parametrize("sizes", [(12,), (5, 7), (1, 10, 1), (4, 0, 8)])
def test_batches_give_what_one_batch_gives(sizes):
    inputs = layer_inputs()
    model = Parallel(*(JumpstartReLU() for _ in inputs)).eval()
    batches = list(zip(*(x.split(sizes) for x in inputs), strict=True))
    assert_ratios(watched(model, *batches), definition(inputs))


def test_float64_is_not_rounded():
    x = torch.tensor([[1e-300, -1e-300]], dtype=torch.float64)
    assert watched(Parallel(nn.ReLU()), [x]).report().unit_status["activations.0"].tolist() == [0, -1]


def test_nan_counts_as_nonlinear_and_is_reported():
    nan = math.nan
    x = torch.tensor([[nan, -1.0, 1.0], [-1.0, -1.0, 1.0]])
    report = watched(Parallel(nn.ReLU()), [x], [-x.abs()]).report()
    assert report.unit_status["activations.0"].tolist() == [1, -1, 1]
    assert report.point_status[:, 0].tolist() == [1, 1, 1, -1]
    assert str(report).endswith("units that saw a NaN, counted as nonlinear: 1")


def test_forward_returns_the_ratios_of_the_batch_and_adds_it():
    inputs = layer_inputs()
    batches: list[dict[str, LayerExtrema]] = []
    model = Parallel(*(JumpstartReLU() for _ in inputs)).eval()
    for i, relu in enumerate(model.activations):
        relu._watchers.append(lambda extrema, i=i: batches[-1].update({str(i): extrema}))
    for part in zip(*(x.split((8, 4)) for x in inputs), strict=True):
        batches.append({})
        model(*part)
    metric = UnitUsage()
    first, second = (metric(batch) for batch in batches)
    assert {k: float(v) for k, v in first.items()} == pytest.approx(definition([x[:8] for x in inputs]))
    assert {k: float(v) for k, v in second.items()} == pytest.approx(definition([x[8:] for x in inputs]))
    assert_ratios(metric, definition(inputs))


def test_merge_state_adds_the_data_of_another_metric():
    inputs = layer_inputs()
    model = Parallel(*(nn.ReLU() for _ in inputs))
    first = watched(model, [x[:5] for x in inputs])
    first.compute()  # whose result must not outlive the merge
    first.merge_state(watched(model, [x[5:] for x in inputs]))
    first.merge_state(UnitUsage())
    assert_ratios(first, definition(inputs))
    empty = UnitUsage()
    empty.merge_state(first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_ratios(empty, definition(inputs))
    with pytest.raises(ValueError, match="differ: activations.1, activations.2, activations.3"):
        first.merge_state(watched(Parallel(nn.ReLU()), inputs[:1]))
    with pytest.raises(TypeError, match="must be a UnitUsage, got dict"):
        first.merge_state({})


def test_copies_keep_the_data_and_reset_forgets_it():
    inputs = layer_inputs()
    model = Parallel(*(nn.ReLU() for _ in inputs))
    metric = watched(model, inputs)
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), metric.clone()):
        assert_ratios(twin, definition(inputs))
        with twin.watch(model):
            model(*inputs)
        assert len(twin.report().point_status) == 24
    metric.reset()
    with pytest.raises(RuntimeError, match="has seen no data"):
        metric.report()
    other = nn.Sequential(nn.ReLU())
    with metric.watch(other):
        other(inputs[0])
    assert_ratios(metric, definition(inputs[:1]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("metric_device", ["cpu", "cuda"])
def test_metric_and_model_may_be_on_different_devices(metric_device):
    inputs = layer_inputs()
    model = Parallel(*(JumpstartReLU() for _ in inputs)).eval()
    metric = UnitUsage().to(metric_device)
    with metric.watch(model):
        model(*(x.cuda() for x in inputs))
    assert metric.unit_max.device.type == metric_device
    assert_ratios(metric, definition(inputs))
    metric.to("cuda")
    with metric.watch(model):
        model(*(x.cuda() for x in inputs))
    assert_ratios(metric, definition(inputs))


PROCESS = """
import sys, torch
import torch.distributed as dist
from torch import nn
from jumpstart_kernels.usage import UnitUsage

rank, store, data = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
inputs = torch.load(data)
shares = [(0, 3), (3, 8)] if rank == 0 else [(8, 12)]  # uneven: two updates here, one there
model = nn.ReLU()
metric = UnitUsage()
with metric.watch(model):
    for start, stop in shares:
        model(inputs[start:stop])
values = {name: float(value) for name, value in metric.compute().items()}
report = metric.report()
assert dict(report) == report.ratios and len(report.point_status) == 12, report
assert len(metric.metric_state["point_status"]) == len(shares), "unsynced again"
torch.save(values, f"{data}.{rank}")
if rank == 1:
    metric.reset()
try:
    metric.report()
except RuntimeError as error:
    assert "every process must have seen a batch" in str(error), error
else:
    raise AssertionError("no error where a process has no data")
dist.destroy_process_group()
"""


def test_two_processes_give_what_one_gives(tmp_path):
    x = mixed(12, 4)
    torch.save(x, tmp_path / "data")
    root = str(Path(jumpstart_kernels.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), str(tmp_path / "store"), str(tmp_path / "data")],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=100)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    for rank in range(2):
        assert torch.load(tmp_path / f"data.{rank}") == pytest.approx(definition([x]))


def test_watching_in_eval_records_nothing_for_the_penalty():
    model = network().eval()
    watched(model, [torch.randn(5, 3)])
    with pytest.raises(RuntimeError, match="no JumpstartReLU layer of the model has recorded"):
        penalty(model)


def test_watching_in_training_leaves_outputs_penalty_and_gradients_alone():
    x = torch.randn(5, 3)
    results = []
    for watch in (False, True):
        model = network()
        metric = UnitUsage()
        if watch:
            with metric.watch(model):
                output = model(x)
        else:
            output = model(x)
        loss = output.sum() + penalty(model)
        loss.backward()
        results.append([output, loss, *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(plain, seen) for plain, seen in zip(*results, strict=True))
    assert len(metric.report().point_status) == 5


def assert_unwatched(model: nn.Module) -> None:
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks, module
        assert not getattr(module, "_watchers", None), module


def test_nothing_stays_on_the_model():
    model = nn.Sequential(nn.Linear(3, 4), JumpstartReLU(), nn.ReLU())
    watched(model, [torch.randn(5, 3)])
    assert_unwatched(model)
    with pytest.raises(ZeroDivisionError), UnitUsage().watch(model):
        raise ZeroDivisionError
    assert_unwatched(model)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        unit_usage(model, [torch.randn(5, 4)])
    assert_unwatched(model)
    assert model.training


def test_a_forward_that_raises_leaves_no_half_of_a_batch():
    class Fragile(Parallel):
        def forward(self, *inputs: Tensor) -> list[Tensor]:
            outputs = [self.activations[0](inputs[0])]
            if inputs[1] is None:
                self.activations[2](inputs[0])
                raise ZeroDivisionError
            return [*outputs, self.activations[1](inputs[1])]

    def refuse(*_: object) -> None:
        raise ZeroDivisionError

    inputs = [mixed(12, 4), mixed(12, 3)]
    model = Fragile(JumpstartReLU(), nn.ReLU(), nn.ReLU()).eval()
    metric = UnitUsage()
    with metric.watch(model):
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                model(torch.ones(2, 4), None)
        refusal = model.register_forward_pre_hook(refuse, prepend=True)
        with pytest.raises(ZeroDivisionError):
            model(*inputs)
        refusal.remove()
        model(*inputs)
    assert_ratios(metric, definition(inputs))


@pytest.mark.parametrize("activation", [JumpstartReLU, nn.ReLU])
def test_inplace_layers_are_seen_before_they_write(activation):
    inputs = layer_inputs()
    model = Parallel(*(activation(inplace=True) for _ in inputs)).eval()
    assert_ratios(watched(model, [x.clone() for x in inputs]), definition(inputs))


@pytest.mark.parametrize("activation", [JumpstartReLU, nn.ReLU])
def test_a_module_called_twice_is_two_layers(activation):
    relu = activation()
    inputs = [mixed(12, 4), mixed(12, 3, seed=1)]
    metric = watched(Parallel(relu, relu).eval(), inputs)
    assert list(metric.report().layers) == ["activations.0", "activations.0#2"]
    assert_ratios(metric, definition(inputs))


def test_layers_chooses_any_module():
    x = torch.randn(6, 3)
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 4), nn.ReLU())
    metric = watched(model, [x], layers=["1"])
    assert list(metric.report().layers) == ["1"]
    assert_ratios(metric, definition([model[0](x)]))


@pytest.mark.parametrize("unit_dim", [-1, 2])
def test_unit_dim_of_plain_layers(unit_dim):
    x = mixed(6, 3, 5)
    metric = watched(Parallel(nn.ReLU()), [x.transpose(1, 2)], unit_dim=unit_dim)
    assert_ratios(metric, definition([x]))


def test_positions_are_reduced_to_their_sample():
    inputs = [mixed(6, 3, 5), mixed(6, 3, 2, 2, seed=1), mixed(6, 3, seed=2)]
    model = Parallel(*(JumpstartReLU(points="position") for _ in inputs)).eval()
    assert_ratios(watched(model, inputs), definition(inputs))


def test_a_layer_without_the_samples_in_dimension_0_is_left_out_of_the_points():
    inputs = [mixed(6, 3), mixed(18, 4, seed=1), mixed(6, 2, seed=2)]
    model = Parallel(*(JumpstartReLU() for _ in inputs)).eval()
    # The second layer counts the samples by chance in the second batch: out all the same.
    batches = [inputs, [inputs[0], inputs[1][:6], inputs[2]]]
    report = watched(model, *batches).report()
    matched = definition([torch.cat([inputs[0]] * 2), torch.cat([inputs[2]] * 2)])
    for name in NAMES[3:]:
        assert report[name] == pytest.approx(matched[name])
    for name in NAMES[:3]:
        assert report[name] == pytest.approx(definition(inputs)[name])
    assert report.point_layers == ("activations.0", "activations.2")
    points = torch.cat([inputs[1], inputs[1][:6]])
    counts = [sum(status_of(point) == status for point in points) for status in (-1, 0, 1)]
    assert list(report.layers["activations.1"][4:]) == [24, *counts]
    assert str(report).endswith("points not those of most layers, so not in the total: activations.1")


def test_no_layer_with_the_samples_gives_no_ratio_over_points():
    model = Parallel(nn.ReLU(), nn.ReLU())
    report = watched(model, [mixed(6, 3), mixed(4, 3)], [mixed(4, 3), mixed(6, 3)]).report()
    assert report.point_layers == ("activations.0",)
    model = Parallel(nn.ReLU(), nn.ReLU(), nn.ReLU())
    a, b = mixed(6, 3), mixed(4, 3)
    report = watched(model, [a, a, b], [b, a, a], [a, b, a]).report()
    assert all(math.isnan(report[name]) for name in NAMES[3:])
    assert not any(math.isnan(report[name]) for name in NAMES[:3])
    assert "nan" in str(report)


def test_a_model_within_itself_and_two_metrics_at_once():
    class Recursive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = JumpstartReLU()

        def forward(self, x: Tensor, depth: int = 2) -> Tensor:
            return self.relu(self(x, depth - 1) - 1) if depth else x

    x = mixed(6, 3)
    model = Recursive().eval()
    outer = UnitUsage()
    with outer.watch(model):
        inner = watched(model, [x])
    expected = definition([x - 1, torch.relu(x - 1) - 1])
    for metric in (outer, inner):
        assert metric.update_count == 1
        assert_ratios(metric, expected)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_recomputation_of_checkpointing_does_not_count(use_reentrant):
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = JumpstartReLU()

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.relu, x, use_reentrant=use_reentrant)

    x = mixed(6, 3).requires_grad_()
    model = Checkpointed()
    metric = UnitUsage()
    with metric.watch(model):
        for _ in range(2):
            model(x).sum().backward()
    clear_records(model)
    assert metric.update_count == 2
    assert_ratios(metric, definition([x.detach()]))


def test_a_compiled_model_is_watched():
    x = torch.randn(6, 3)
    model = network().eval()
    expected = dict(unit_usage(model, [x, x]))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    compiled(x)
    assert dict(watched(compiled, [x], [x]).report()) == expected
    assert dict(unit_usage(compiled, [x, x])) == expected
    plain = nn.Sequential(model[0], nn.ReLU(), model[2], nn.ReLU()).eval()
    compiled = torch.compile(plain, backend="eager", fullgraph=True)
    with torch.no_grad():
        compiled(x)  # what is compiled by now runs no hooks of its layers
    assert dict(unit_usage(compiled, [x, x])) == expected


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x, 0), lambda x: [x]])
def test_unit_usage_runs_the_loader_in_eval(wrap):
    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert not self.training and not torch.is_grad_enabled()
            return x

    x = mixed(12, 4)
    model = nn.Sequential(nn.BatchNorm1d(4), nn.ReLU(), Spy(), nn.Dropout(0.5))
    model[3].eval()
    flags = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    report = unit_usage(model, map(wrap, x.split(5)), progress=True)
    expected = definition([model.eval()[0](x).detach()])
    assert dict(report) == pytest.approx(expected)
    assert flags == [True, True, True, True, False]
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_unit_usage_puts_the_training_flags_back():
    model = nn.Sequential(nn.ReLU(), nn.Dropout(0.5), nn.Dropout(0.5))
    model[1].eval()
    unit_usage(model, [mixed(4, 3)])
    assert [module.training for module in model.modules()] == [True, True, False, True]


def test_the_report_prints_as_a_table():
    first = torch.tensor([[-1.0, 0.0], [1.0, 2.0], [1.0, -1.0], [2.0, 0.0]])
    second = torch.tensor([[3.0, 1.0, -1.0], [1.0, 2.0, 0.0], [0.5, -1.0, -2.0], [1.0, 0.5, -1.0]])
    report = watched(Parallel(nn.ReLU(), nn.ReLU()), [first, second]).report()
    expected = """
               units                            points
layer          count   dead  linear  nonlinear   count   dead  linear  nonlinear
activations.0      2   0.0%    0.0%     100.0%       4  25.0%   25.0%      50.0%
activations.1      3  33.3%   33.3%      33.3%       4   0.0%    0.0%     100.0%
--------------------------------------------------------------------------------
total              5  20.0%   20.0%      60.0%       8  12.5%   12.5%      75.0%
points: 25.0% dead in a layer, 0.0% linear in all, 50.0% nonlinear in all; efficiency 87.5%"""
    assert str(report) == repr(report) == expected.removeprefix("\n")


def test_errors_of_watch():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    for error, match, arguments in [
        (TypeError, "model must be a torch.nn.Module, got list", {"model": []}),
        (ValueError, "model has no JumpstartReLU or nn.ReLU layer", {"model": nn.Linear(2, 2)}),
        (TypeError, "layers must be a list of names, got the str '1'", {"model": model, "layers": "1"}),
        (
            ValueError,
            r"layers must be names of modules of the model, got \['7'\]",
            {"model": model, "layers": ["7"]},
        ),
        (ValueError, r"layers must be names", {"model": model, "layers": []}),
        (TypeError, "unit_dim must be an int, got float", {"model": model, "unit_dim": 1.0}),
    ]:
        with pytest.raises(error, match=match), UnitUsage().watch(**arguments):
            pytest.fail("watch took it")
        assert_unwatched(model)


def test_errors_of_a_forward_name_the_layer():
    with pytest.raises(ValueError, match="layer '0': unit_dim must be in"):
        watched(nn.Sequential(nn.ReLU()), [torch.ones(2, 3)], unit_dim=2)
    with pytest.raises(TypeError, match="layer '0': x must be float32"):
        watched(nn.Sequential(nn.ReLU()), [torch.ones(2, 3, dtype=torch.int64)])
    idle = nn.Identity()
    idle.relu = nn.ReLU()
    with pytest.raises(ValueError, match="no watched layer ran"):
        watched(idle, [torch.ones(2, 3)])
    with pytest.raises(RuntimeError, match="has seen no data"):
        watched(nn.Sequential(nn.ReLU()), [torch.ones(0, 3)]).compute()


def test_the_layers_of_all_updates_are_the_same():
    model = nn.Sequential(nn.ReLU())
    metric = watched(model, [torch.ones(2, 3)])
    with (
        pytest.raises(
            ValueError, match="must have the layers and units of the first update; these differ: 0"
        ),
        metric.watch(model),
    ):
        model(torch.ones(2, 4))
    with pytest.raises(ValueError, match="these differ: 0, other"):
        metric({"other": LayerExtrema(*torch.ones(4, 3))})
    assert len(metric.report().point_status) == 2


def test_errors_of_unit_usage():
    model = nn.Sequential(nn.ReLU())
    with pytest.raises(ValueError, match="loader must yield at least one batch"):
        unit_usage(model, [])
    for batch in ({"x": torch.ones(2, 3)}, (), [0, 1]):
        with pytest.raises(TypeError, match="loader must yield tensors, or tuples"):
            unit_usage(model, [batch])
    assert_unwatched(model)
