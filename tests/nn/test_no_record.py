"""``no_record``: forwards whose loss is not the model's own."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import jumpstart_kernels as jk


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), jk.JumpstartReLU(), nn.Linear(5, 3), jk.JumpstartReLU())


def make_x(seed=1):
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))


def gradients(model):
    return [parameter.grad for parameter in model.parameters()]


def test_generator_step_leaves_nothing_to_the_discriminator():
    discriminator, alone = make_model(), make_model()
    fake = make_x().requires_grad_()
    with jk.no_record(discriminator):
        loss = discriminator(fake).sum()
    loss.backward()
    assert fake.grad.any()
    discriminator.zero_grad()
    for model in (discriminator, alone):
        (model(make_x(2)).sum() + jk.penalty(model)).backward()
    assert all(map(torch.equal, gradients(discriminator), gradients(alone)))


def test_output_and_gradient_are_those_of_relu():
    model, plain = make_model(), jk.restore_relu(make_model())
    with jk.no_record(model):
        model(make_x()).sum().backward()
    plain(make_x()).sum().backward()
    assert all(map(torch.equal, gradients(model), gradients(plain)))
    with pytest.raises(RuntimeError, match="has recorded"):
        jk.penalty(model)


def test_records_of_before_stay_and_blocks_nest():
    model = make_model()
    model(make_x())
    expected = jk.penalty(model)
    model(make_x())
    with jk.no_record(model):
        with jk.no_record(model[1]):
            model(make_x(2))
        model(make_x(3))
    assert torch.equal(jk.penalty(model), expected)
    with pytest.raises(ZeroDivisionError), jk.no_record(model):
        raise ZeroDivisionError
    model(make_x())
    assert torch.equal(jk.penalty(model), expected)


def test_copies_made_inside_record():
    model = make_model()
    with jk.no_record(model):
        copies = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    for other in copies:
        other(make_x())
        assert jk.penalty(other).isfinite()


@pytest.mark.parametrize("reentrant", (False, True), ids=("saved", "reentrant"))
@pytest.mark.parametrize("backward_inside", (False, True))
def test_checkpoint(reentrant, backward_inside):
    model, x = make_model(), make_x().requires_grad_()
    with jk.no_record(model):
        loss = checkpoint(model, x, use_reentrant=reentrant).sum()
        if backward_inside:
            loss.backward()
    if not backward_inside:
        loss.backward()
    actual = gradients(model)
    assert all(grad.any() for grad in actual)
    plain = jk.restore_relu(make_model())
    plain(make_x()).sum().backward()
    assert all(map(torch.equal, actual, gradients(plain)))
    model(make_x())  # nothing is left that the penalty would trip over
    assert jk.penalty(model).isfinite()


def test_checkpoint_recorded_and_recomputed_inside():
    model, expected = make_model(), make_model()
    loss = checkpoint(model, make_x(), use_reentrant=False).sum() + jk.penalty(model)
    with jk.no_record(model):
        loss.backward()
    (expected(make_x()).sum() + jk.penalty(expected)).backward()
    assert all(map(torch.equal, gradients(model), gradients(expected)))


@pytest.mark.parametrize("checkpointed", (False, True), ids=("plain", "checkpointed"))
def test_no_injection(checkpointed):
    model, plain = make_model(), jk.restore_relu(make_model())

    def run(x):
        return checkpoint(model, x, use_reentrant=False) if checkpointed else model(x)

    with jk.inject_penalty(model, 1.0, reduction="sum"):
        with jk.no_record(model):
            loss = run(make_x()).sum()
        loss.backward()
        plain(make_x()).sum().backward()
        assert all(map(torch.equal, gradients(model), gradients(plain)))
        run(make_x(2)).sum().backward()
    plain(make_x(2)).sum().backward()
    assert not torch.equal(model[0].weight.grad, plain[0].weight.grad)


def test_reentrant_checkpoint_that_injects_is_an_error():
    model = make_model()
    with (
        jk.inject_penalty(model, 1.0, reduction="sum"),
        jk.no_record(model),
        pytest.raises(RuntimeError, match="no_record cannot apply"),
    ):
        checkpoint(model, make_x().requires_grad_(), use_reentrant=True)


def test_compiled():
    torch._dynamo.reset()
    model = make_model()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled(make_x())
    expected = jk.penalty(compiled)
    with jk.no_record(compiled):
        compiled(make_x(2)).sum().backward()
    compiled(make_x())
    assert torch.equal(jk.penalty(compiled), expected)


def test_blocks_of_threads_may_interleave():
    model, entered, leave = make_model(), threading.Event(), threading.Event()

    def other():
        with jk.no_record(model):
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=other)
    with jk.no_record(model):
        thread.start()
        assert entered.wait(30)
    model(make_x())  # the other thread's block is open
    leave.set()
    thread.join()
    with pytest.raises(RuntimeError, match="has recorded"):
        jk.penalty(model)
    model(make_x())
    assert jk.penalty(model).isfinite()


def test_whole_step_compiled():
    torch._dynamo.reset()
    model = make_model()

    @torch.compile(backend="aot_eager", fullgraph=True)
    def step(x):
        with jk.no_record(model):
            other = model(x).sum()
        return other + model(x).sum() + jk.penalty(model)

    expected = step(make_x())
    assert expected.isfinite() and model[1]._pauses == 0
    with pytest.raises(RuntimeError, match="has recorded"):
        jk.penalty(model)


def test_layers_that_come_and_go_inside():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x, again=False):
            x = torch.relu(self.fc(x))
            return torch.relu(x - 1) if again else x

    model = jk.replace_relu(Branching())
    with jk.no_record(model):
        model(make_x(), again=True)  # another trace, and a layer more
    with pytest.raises(RuntimeError, match="has recorded"):
        jk.penalty(model)
    model(make_x(), again=True)
    assert jk.penalty_by_layer(model).keys() == {"jumpstart_relu_0", "jumpstart_relu_1"}
    jk.penalty(model)
    with jk.no_record(model):
        jk.restore_relu(model)
    model = make_model()
    with jk.no_record(model):
        jk.replace_relu(jk.restore_relu(model))
    model(make_x())
    assert jk.penalty(model).isfinite()


def test_usage_is_watched_inside():
    model, metric = make_model(), jk.UnitUsage()
    with metric.watch(model), jk.no_record(model):
        model(make_x())
    assert metric.report().layers.keys() == {"1", "3"}


def test_no_module():
    with pytest.raises(TypeError, match="model must be a torch.nn.Module"), jk.no_record([]):
        pass
