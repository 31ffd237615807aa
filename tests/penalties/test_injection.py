"""The injected penalty has the gradient of the explicit one, in pipelines too."""

import pytest
import torch
import torch._dynamo
import torch._dynamo.testing
import torch.distributed as dist
from ranks import Ranks
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

import jumpstart_kernels as jk
from jumpstart_kernels.penalties.reduction import REDUCTIONS, TERMS


def make_model(*, dtype=torch.float64, **options):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 5),
        jk.JumpstartReLU(**options),
        nn.Linear(5, 5),
        jk.JumpstartReLU(**options),
        nn.Linear(5, 3),
    ).to(dtype)


def make_input(rows=8, dtype=torch.float64):
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(1), dtype=dtype)


def criterion(output, _=None):
    return output.square().mean()


def gradients(model):
    grads = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    return grads


def explicit(model, x, weight, **options):
    (criterion(model(x)) + weight * jk.penalty(model, **options)).backward()
    return gradients(model)


def assert_close(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("reduction", [reduction for reduction in REDUCTIONS if reduction != "norm"])
@pytest.mark.parametrize(
    "options", ({}, {"inplace": True}, {"tie_breaking": "random"}, {"points": "position"}), ids=str
)
def test_injected_equals_explicit(target, reduction, options):
    device = target[1]
    model, x = make_model(**options).to(device), make_input().to(device)
    counts = jk.count_units_and_points(model, x)
    assert counts == jk.PenaltyCounts(10, 16)
    for terms in TERMS:
        chosen = {"reduction": reduction, "terms": terms, "sign_balance": 0.3}
        expected = explicit(model, x, 0.7, **chosen)
        with jk.inject_penalty(model, 0.7, counts=counts, **chosen):
            criterion(model(x)).backward()
        assert_close(gradients(model), expected)


def test_float64_keeps_its_precision():
    model, x = make_model(), make_input()
    expected = explicit(model, x, 0.7)
    with jk.inject_penalty(model, 0.7, counts=jk.PenaltyCounts(10, 16)):
        criterion(model(x)).backward()
    for actual, wanted in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-13, atol=1e-15)


def test_sums_need_no_counts():
    model, x = make_model(), make_input()
    for reduction in ("sum", "squared"):
        expected = explicit(model, x, 0.7, reduction=reduction)
        with jk.inject_penalty(model, 0.7, reduction=reduction):
            criterion(model(x)).backward()
        assert_close(gradients(model), expected)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_output_may_be_overwritten(dtype):
    model, x = make_model(dtype=dtype), make_input(dtype=dtype)
    model.insert(2, nn.Hardtanh(inplace=True))
    expected = explicit(model, x, 0.7, reduction="sum")
    with jk.inject_penalty(model, 0.7, reduction="sum"):
        criterion(model(x)).backward()
    assert_close(gradients(model), expected)


def test_weight_is_set_at_any_time():
    model, x = make_model(), make_input()
    counts = jk.count_units_and_points(model, x)
    injection = jk.inject_penalty(model, 1.0, counts=counts)
    for weight in (0.5, 0, torch.tensor(2.0), torch.tensor(0.25, dtype=torch.float64)):
        injection.weight = weight
        criterion(model(x)).backward()
        injected = gradients(model)
        injection.remove()
        assert_close(injected, explicit(model, x, weight))
        injection = jk.inject_penalty(model, 1.0, counts=counts)
    criterion(model(x)).backward()
    assert float(injection.weight) == 1.0


def test_weight_set_between_forward_and_backward_is_an_error():
    model, x = make_model(dtype=torch.float32), make_input(dtype=torch.float32)
    with jk.inject_penalty(model, 1.0, reduction="sum") as injection:
        loss = criterion(model(x))
        injection.weight = 2.0
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_with_loss_scale_and_accumulation():
    model = make_model(dtype=torch.float32)
    parts = make_input(dtype=torch.float32).split(4)
    for part in parts:
        ((criterion(model(part)) + 0.7 * jk.penalty(model)) / 2).backward()
    expected = gradients(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(model.parameters())
    with jk.inject_penalty(model, 0.0, counts=jk.count_units_and_points(model, parts[0])) as injection:
        injection.weight = scaler.scale(torch.tensor(0.7)) / 2
        outputs = [model(part) for part in parts]  # several forwards before one backward
        for output in outputs:
            scaler.scale(criterion(output) / 2).backward()
    scaler.unscale_(optimizer)
    assert_close(gradients(model), expected)


def test_weight_of_a_compiled_model_needs_no_new_compilation():
    torch._dynamo.reset()
    model, x = make_model(dtype=torch.float32), make_input(dtype=torch.float32)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    expected = [explicit(model, x, weight, reduction="sum") for weight in (0.1, 0.2, 0.3)]
    with jk.inject_penalty(model, 1.0, reduction="sum") as injection:
        for weight, grads in zip((0.1, 0.2, 0.3), expected, strict=True):
            injection.weight = weight
            criterion(compiled(x)).backward()
            assert_close(gradients(model), grads)
    assert counter.frame_count == 1


def test_layers_inject_in_training_with_grad_only_and_record_nothing():
    model, x = make_model(), make_input()
    with jk.inject_penalty(model, 1.0, reduction="sum"):
        model(x)
        with torch.no_grad():
            model(x)
        with pytest.raises(RuntimeError, match="every JumpstartReLU layer of the model injects"):
            jk.penalty(model)
        model.eval()
        criterion(model(x)).backward()
        plain = gradients(model)
    criterion(model(x)).backward()
    assert_close(gradients(model), plain)
    model.train()(x)
    assert jk.penalty(model) > 0


def test_counting_changes_nothing():
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), jk.JumpstartReLU(), nn.Dropout())
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    assert jk.count_units_and_points(model, make_input(dtype=torch.float32)) == jk.PenaltyCounts(5, 8)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(RuntimeError, match="recorded a forward"):
        jk.penalty(model)


def test_bad_arguments_are_errors_and_change_nothing():
    model, counts = make_model(), jk.PenaltyCounts(10, 16)
    for arguments, error, text in (
        ((3, 1.0), TypeError, "model must be a torch.nn.Module"),
        ((nn.Linear(2, 2), 1.0), ValueError, "model must have a JumpstartReLU layer"),
        ((model, "1"), TypeError, "weight must be a number or a 0-dim tensor, got str"),
        ((model, torch.ones(2)), ValueError, "weight must be a number or a 0-dim tensor, got 1 dim"),
    ):
        with pytest.raises(error, match=text):
            jk.inject_penalty(*arguments, counts=counts)
    for options, error, text in (
        ({}, ValueError, "counts must be given for reduction='balanced'"),
        ({"counts": (10, 16)}, TypeError, "counts must be PenaltyCounts, got tuple"),
        ({"reduction": "norm"}, ValueError, "reduction='norm' cannot be injected"),
        ({"counts": counts, "terms": "all"}, ValueError, "terms must be one of"),
        ({"counts": counts, "sign_balance": 2}, ValueError, "sign_balance must be in"),
    ):
        with pytest.raises(error, match=text):
            jk.inject_penalty(model, 1.0, **options)
    with pytest.raises(ValueError, match="must run a JumpstartReLU"):
        jk.count_units_and_points(nn.Linear(6, 2).double(), make_input())
    assert explicit(model, make_input(), 1.0)
    with jk.inject_penalty(model, 1.0, counts=counts), pytest.raises(ValueError, match="must not inject"):
        jk.inject_penalty(model[:2], 1.0, counts=counts)


SCHEDULES = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}


@pytest.fixture(scope="module")
def stages():
    ranks = Ranks(2)
    yield ranks
    ranks.close()


def run_pipeline(schedule, scale_grads):
    """Gradients of this rank's stage, injected and from the explicit loss, over four micro-batches."""
    model, x, weight = make_model(dtype=torch.float32), make_input(16, torch.float32), 0.7
    whole = make_model(dtype=torch.float32)
    for part in x.split(4):
        loss = criterion(whole(part)) + weight * jk.penalty(whole)
        (loss / 4 if scale_grads else loss).backward()
    counts = jk.count_units_and_points(model, x[:4])  # of the whole model, before it is cut
    rank = dist.get_rank()
    half = slice(3) if rank == 0 else slice(3, None)
    stage = PipelineStage(model[half], rank, 2, torch.device("cpu"))
    pipeline = SCHEDULES[schedule](stage, 4, loss_fn=criterion, scale_grads=scale_grads)
    with jk.inject_penalty(model[half], weight, counts=counts):
        if rank == 0:
            pipeline.step(x)
        else:
            pipeline.step(target=torch.zeros(16, 3))
    return gradients(model[half]), gradients(whole[half])


@pytest.mark.parametrize("scale_grads", (False, True))
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_pipeline_equals_the_explicit_loss(stages, schedule, scale_grads):
    for actual, expected in stages(run_pipeline, schedule, scale_grads):
        assert len(actual) > 0
        assert_close(actual, expected)
