"""What the extension's layers record, and the gradient that a penalty leaves for all of them in one place."""

import gc
import threading
import weakref

import pytest
import torch
from dispatched import Dispatched

import jumpstart_kernels as jk
from jumpstart_kernels.nn.records import unwind
from jumpstart_kernels.ops import native

pytestmark = pytest.mark.skipif(native.extension() is None, reason=str(native.unavailable("cpu")))

WEIGHTS = [0.3, 0.7, 0.0, 0.0, 0.0, 0.2, 0.1, 0.0, 0.0, 0.0]


def make_input(*size):
    return torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()


def make_layers(count=3):
    """Layers that follow each other, of few units with slack."""
    torch.manual_seed(0)
    layers = [jk.JumpstartReLU(margin=3.0) for _ in range(count)]
    parts = [part for layer in layers for part in (torch.nn.Linear(5, 5).double(), layer)]
    return torch.nn.Sequential(*parts)


def run(model, x, reduction="balanced"):
    return model(x), jk.penalty(model, reduction=reduction)


def record_of(x):
    output, record = native.jumpstart_activation(x, None, "relu", 0.0, 1, False, 3.0, False, "limited")
    assert isinstance(record, native.extension().Record)
    return output, record


def test_nobody_makes_a_record():
    with pytest.raises(TypeError, match="cannot create"):
        native.extension().Record()


def test_its_attributes_are_those_of_the_operator():
    x = make_input(6, 5)
    _, record = record_of(x)
    expected = jk.functional.jumpstart_relu(x, margin=3.0)
    assert (record.units, record.points, record.margin) == (5, 6, 3.0)
    assert record.slack_sums is record.slack_sums and torch.equal(record.slack_sums, expected.slack_sums)
    assert torch.equal(record.extrema[0], torch.cat([expected.unit_max, expected.point_max]).clamp(max=3.0))
    for actual, other in ((record.slack_sums, expected.slack_sums), (record.extrema.sum(), None)):
        (grad,) = torch.autograd.grad(actual.sum(), x, retain_graph=True)
        if other is not None:
            assert torch.equal(grad, torch.autograd.grad(other.sum(), x, retain_graph=True)[0])
    assert grad.any()


def test_without_a_gradient_there_is_none():
    _, record = record_of(make_input(6, 5).detach())
    assert not record.slack_sums.requires_grad
    assert not native.penalty([record], WEIGHTS, False).requires_grad


@pytest.mark.parametrize("reduction", ("balanced", "norm"))
def test_parts_of_a_loss_may_go_backward_apart(reduction):
    model, x = make_layers(), make_input(7, 5)
    output, penalty = run(model, x, reduction)
    (whole,) = torch.autograd.grad(output.sum() + penalty, x, retain_graph=True)
    for _ in range(2):
        (by_output,) = torch.autograd.grad(output.sum(), x, retain_graph=True)
        (by_penalty,) = torch.autograd.grad(penalty, x, retain_graph=True)
        torch.testing.assert_close(by_output + by_penalty, whole)
    (scaled,) = torch.autograd.grad(output.sum() + 10 * penalty, x)
    torch.testing.assert_close(scaled, by_output + 10 * by_penalty)
    plain = make_layers()
    expected = torch.nn.Sequential(*(torch.nn.ReLU() if i % 2 else part for i, part in enumerate(plain)))(x)
    assert torch.equal(by_output, torch.autograd.grad(expected.sum(), x)[0])


def test_a_record_in_two_penalties():
    x = make_input(6, 5)
    _, record = record_of(x)
    first, second = (native.penalty([record], WEIGHTS, root) for root in (False, True))
    grads = [torch.autograd.grad(value, x, retain_graph=True)[0] for value in (first, second)]
    (both,) = torch.autograd.grad(first + second, x)
    torch.testing.assert_close(both, grads[0] + grads[1])


def test_a_record_seen_before_its_penalty():
    x = make_input(6, 5)
    _, record = record_of(x)
    seen = (record.slack_sums**2).sum()
    value = native.penalty([record], WEIGHTS, False)
    grads = [torch.autograd.grad(each, x, retain_graph=True)[0] for each in (seen, value)]
    (both,) = torch.autograd.grad(seen + value, x)
    torch.testing.assert_close(both, grads[0] + grads[1])


@pytest.mark.parametrize("square_root", (False, True))
@pytest.mark.parametrize("attribute", ("slack_sums", "extrema"))
def test_a_record_seen_after_its_penalty(attribute, square_root):
    x = make_input(6, 5)
    _, record = record_of(x)
    value = native.penalty([record], WEIGHTS, square_root)
    seen = (getattr(record, attribute) ** 2).sum()
    grads = [torch.autograd.grad(each, x, retain_graph=True)[0] for each in (seen, value)]
    assert all(grad.any() for grad in grads)
    (both,) = torch.autograd.grad(seen + value, x)
    torch.testing.assert_close(both, grads[0] + grads[1])


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("reduction", ("balanced", "norm"))
def test_a_mode_sees_the_gradient_of_the_penalty_once(reduction, dtype):
    """The gradient is the same to the bit as that which the layers take from the penalty's themselves."""
    model, x = make_layers().to(dtype), make_input(16, 5).detach().to(dtype).requires_grad_()
    output, penalty = run(model, x, reduction)
    (expected,) = torch.autograd.grad(output.sum() + 0.3 * penalty, x, retain_graph=True)
    with Dispatched() as mode:
        (grad,) = torch.autograd.grad(output.sum() + 0.3 * penalty, x)
    assert mode.seen.count("jumpstart_kernels.penalty_backward.native") == 1
    assert torch.equal(grad, expected)


def test_a_root_that_is_unpacked_as_a_lazy_value():
    model, x = make_layers(), make_input(7, 5)
    output, penalty = run(model, x, "norm")
    (expected,) = torch.autograd.grad(output.sum() + penalty, x)
    output = model(x)
    with torch.autograd.graph.saved_tensors_hooks(torch.neg, torch._neg_view):
        penalty = jk.penalty(model, reduction="norm")
    (grad,) = torch.autograd.grad(output.sum() + penalty, x)
    assert torch.equal(grad, expected)


@pytest.mark.parametrize("reduction", ("balanced", "norm"))
def test_second_derivatives(reduction):
    model = make_layers(2)

    def run_both(x):
        output, penalty = run(model, x, reduction)
        return output.square().sum(), penalty

    x = make_input(3, 5)
    assert torch.autograd.gradcheck(run_both, x)
    assert torch.autograd.gradgradcheck(run_both, x)


def test_backwards_of_one_graph_in_many_threads():
    model, x = make_layers(), make_input(16, 5)
    output, penalty = run(model, x)
    factors = [0.0, 1.0, 2.0, 5.0]
    expected = [
        torch.autograd.grad(output.sum() + factor * penalty, x, retain_graph=True)[0] for factor in factors
    ]
    wrong = []

    def repeat(factor, gradient):
        for _ in range(50):
            loss = output.sum() + factor * penalty
            (grad,) = torch.autograd.grad(loss, x, retain_graph=True)
            if not torch.equal(grad, gradient):
                wrong.append(factor)

    threads = [threading.Thread(target=repeat, args=each) for each in zip(factors, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_backward_inside_another_of_the_same_graph():
    model, x = make_layers(), make_input(7, 5)
    hidden = model[:2](x)
    output, penalty = model[2:](hidden), jk.penalty(model)
    other = torch.tensor(5.0, dtype=torch.float64)
    (expected,) = torch.autograd.grad(output.sum() + 2 * penalty, x, retain_graph=True)
    expected_inside = torch.autograd.grad(penalty, x, other, retain_graph=True)
    found = []

    def go_backward(grad):
        if not found:
            found.append(())
            found[0] = torch.autograd.grad(penalty, x, other, retain_graph=True)

    hidden.register_hook(go_backward)
    (grad,) = torch.autograd.grad(output.sum() + 2 * penalty, x, retain_graph=True)
    assert torch.equal(grad, expected) and torch.equal(found[0][0], expected_inside[0])


def test_a_failed_backward_leaves_no_gradient_behind():
    model, x = make_layers(), make_input(7, 5)
    output, penalty = run(model, x)
    (expected,) = torch.autograd.grad(output.sum(), x, retain_graph=True)

    def fail(grad):
        raise ValueError("on purpose")

    handle = x.register_hook(fail)
    with pytest.raises(ValueError, match="on purpose"):
        (output.sum() + penalty).backward(retain_graph=True)
    handle.remove()
    assert torch.equal(torch.autograd.grad(output.sum(), x)[0], expected)


def test_records_and_graphs_are_freed():
    model, x = make_layers(), make_input(7, 5)
    output, penalty = run(model, x)
    model(x)
    records = [record for layer in model[1::2] for record in unwind(layer._records)]
    _ = [record.extrema for record in records]
    alive = weakref.ref(x.grad_fn or output)
    (output.sum() + penalty).backward()
    jk.clear_records(model)
    del output, penalty, records, _
    gc.collect()
    assert alive() is None


def test_threads_that_free_the_same_graph():
    outcomes = []

    def race(loss, x, barrier):
        barrier.wait()
        try:
            torch.autograd.grad(loss, x)
            outcomes.append("done")
        except RuntimeError as error:
            outcomes.append("second time" if "second time" in str(error) else str(error))

    model = make_layers(20)
    for _ in range(30):
        x, barrier = make_input(8, 5), threading.Barrier(2)
        output, penalty = run(model, x * 1)
        threads = [threading.Thread(target=race, args=(output.sum() + penalty, x, barrier)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert set(outcomes) <= {"done", "second time"} and "done" in outcomes


class Failing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise ValueError("on purpose")


def test_a_failed_backward_with_a_graph_of_its_own_is_freed():
    model, x = make_layers(), make_input(7, 5)
    hidden = Failing.apply(x)
    output, penalty = run(model, hidden, "norm")
    alive = weakref.ref(hidden)
    with pytest.raises(ValueError, match="on purpose"):
        torch.autograd.grad(output.sum() + 2 * penalty, x, create_graph=True)
    del output, penalty, hidden
    gc.collect()
    assert alive() is None


def test_slack_sums_that_were_seen_have_the_gradient_of_the_penalty():
    model, x = make_layers(1), make_input(7, 5)
    model(x)
    (record,) = unwind(model[1]._records)
    slack_sums = record.slack_sums
    (grad,) = torch.autograd.grad(jk.penalty(model, reduction="sum"), slack_sums)
    expected = torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0], dtype=torch.float64).expand(2, 5)
    assert torch.equal(grad, expected)


def test_the_penalty_wants_a_list():
    with pytest.raises(TypeError, match="records must be a list"):
        native.penalty((), WEIGHTS, False)


def test_a_profiler_sees_the_inputs():
    model, x = make_layers(1), make_input(4, 5)
    with torch.profiler.profile(record_shapes=True) as profile:
        output, penalty = run(model, x)
        (output.sum() + penalty).backward()
    shapes = {event.name: event.input_shapes for event in profile.events() if "jumpstart" in event.name}
    prefix = "jumpstart_kernels::jumpstart_activation"
    assert shapes[prefix][0] == shapes[f"{prefix}_backward"][0] == [4, 5]
    assert "jumpstart_kernels::penalty" in shapes
    assert "jumpstart_kernels::penalty_backward" not in shapes  # each layer's backward does that
    assert any("PenaltyBackward" in event.name for event in profile.events())
