"""``torch.compile`` and ``torch.export`` of models with Jumpstart layers."""

import pytest
import torch
import torch._dynamo
import torch._dynamo.testing
import torch.nn.functional as F
from torch import nn

import jumpstart_kernels as jk
from jumpstart_kernels.nn.records import unwind
from jumpstart_kernels.ops import backends


def make_input(*size):
    return torch.randn(size, generator=torch.Generator().manual_seed(sum(size)))


def make_model(layer=jk.JumpstartReLU, **options):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 5), layer(**options), nn.Linear(5, 4), layer(**options), nn.Linear(4, 3)
    )


def make_cnn():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3), nn.ReLU()
    )
    return jk.replace_relu(
        model.append(nn.AdaptiveAvgPool2d(2)).append(nn.Flatten()).append(nn.Linear(24, 3))
    )


def count(model):
    layers = [module for module in model.modules() if isinstance(module, jk.JumpstartReLU)]
    return sum(1 for layer in layers for _ in unwind(layer._records))


def train_step(model, x):
    return model(x).square().mean() + 0.1 * jk.penalty(model)


def gradients(step, model, x):
    model.zero_grad()
    loss = step(model, x)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters())]


def assert_close(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.fixture
def compilations():
    """The aot_eager backend, ``backend=compilations``; ``compilations()`` counts the compiled graphs."""
    torch._dynamo.reset()
    return torch._dynamo.testing.CompileCounterWithBackend("aot_eager")


@pytest.mark.parametrize("compiler", ("aot_eager", "inductor"))
@pytest.mark.parametrize("penalty_inside", (True, False))
def test_compiled_step_equals_eager(compiler, penalty_inside):
    torch._dynamo.reset()
    model, x = make_model(), make_input(8, 6)
    expected = gradients(train_step, model, x)
    if penalty_inside:
        step = torch.compile(train_step, fullgraph=True, backend=compiler)
    else:
        compiled = torch.compile(model, fullgraph=True, backend=compiler)

        def step(model, x):
            return train_step(compiled, x)

    for _ in range(3):  # the first call traces, the others reuse
        assert_close(gradients(step, model, x), expected)
        assert count(model) == 0


@pytest.mark.parametrize("mode", ("reduce-overhead", "max-autotune-no-cudagraphs"))
@pytest.mark.parametrize("penalty_inside", (True, False))
def test_modes_of_inductor(mode, penalty_inside):
    """On a GPU reduce-overhead means graphs: tests/test_cuda_graphs.py."""
    torch._dynamo.reset()
    model, x = make_cnn(), make_input(2, 3, 8, 8)
    expected = gradients(train_step, model, x)
    compiled = torch.compile(train_step if penalty_inside else model, fullgraph=True, mode=mode)
    for _ in range(2):
        if penalty_inside:
            actual = gradients(compiled, model, x)
        else:
            actual = gradients(lambda model, x: train_step(compiled, x), model, x)
        assert_close(actual, expected)


def recompilations(run, counter, batches):
    """How many batches after the first trigger compilation. (The first may count twice, for its floats.)"""
    run(batches[0])
    first = counter.frame_count
    for x in batches[1:]:
        run(x)
    return counter.frame_count - first


@pytest.mark.parametrize("penalty_inside", (True, False))
@pytest.mark.parametrize("make", (make_model, make_cnn))
def test_batches_of_any_size_compile_no_more_than_with_relu(compilations, make, penalty_inside):
    size = (6,) if make is make_model else (3, 9, 9)
    batches = [make_input(rows, *size) for rows in (8, 5, 13, 31, 2, 7, 64, 3, 9, 10, 11, 12)]
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    plain = torch.compile(jk.restore_relu(make()), fullgraph=True, dynamic=True, backend=counter)
    expected = recompilations(lambda x: plain(x).sum().backward(), counter, batches)
    assert expected == (0 if make is make_model else 1)  # PyTorch's own, on the size of a convolution's batch
    torch._dynamo.reset()
    model = make()
    compiled = torch.compile(
        train_step if penalty_inside else model, fullgraph=True, dynamic=True, backend=compilations
    )
    step = compiled if penalty_inside else lambda model, x: train_step(compiled, x)

    def check(x):
        assert_close(gradients(step, model, x), gradients(train_step, model, x))

    assert recompilations(check, compilations, batches) == expected


def test_automatic_dynamic_shapes_are_two_compilations(compilations):
    model = make_model()
    compiled = torch.compile(model, fullgraph=True, backend=compilations)  # static first, then dynamic
    for rows in (8, 5, 13, 31, 2, 7):
        x = make_input(rows, 6)
        actual = gradients(lambda model, x: train_step(compiled, x), model, x)
        assert_close(actual, gradients(train_step, model, x))
    assert compilations.frame_count == 2


def test_any_number_of_open_records_is_one_compilation(compilations):
    model, x = make_model(), make_input(8, 6)
    compiled = torch.compile(model, fullgraph=True, backend=compilations)
    for forwards in (1, 3, 12, 2):
        losses = [compiled(x).square().mean() for _ in range(forwards)]
        assert count(model) == 2 * forwards
        model.zero_grad()
        (sum(losses) / forwards + 0.1 * jk.penalty(model)).backward()
        actual = [parameter.grad for parameter in model.parameters()]
        # The mean over as many equal forwards is that of one.
        assert_close([grad.clone() for grad in actual], gradients(train_step, model, x)[1:])
    assert compilations.frame_count == 1


def test_steps_of_one_kind_are_one_compilation(compilations):
    """Training, then validation, then training again: each mode compiles once."""
    model, x = make_model(), make_input(8, 6)
    compiled = torch.compile(model, fullgraph=True, backend=compilations)
    for _ in range(4):
        for _ in range(3):
            assert_close(
                gradients(lambda model, x: train_step(compiled, x), model, x), gradients(train_step, model, x)
            )
        compiled.eval()
        with torch.no_grad():
            assert torch.equal(compiled(x), model(x))
        compiled.train()
    assert compilations.frame_count == 2 and count(model) == 0


def test_records_of_compiled_and_eager_forwards_add_up():
    torch._dynamo.reset()
    model, x = make_model(), make_input(8, 6)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for forwards in ((model, compiled), (compiled, model), (model, model, compiled, model)):
        for forward in forwards:
            forward(x)
        value = jk.penalty(model)
        model(x)
        torch.testing.assert_close(value, jk.penalty(model))


@pytest.mark.parametrize("used_before", (False, True))
def test_compiled_by_every_backend(target, compilations, used_before):
    model, x = make_model().to(target[1]), make_input(8, 6).to(target[1])
    expected = gradients(train_step, model, x) if used_before else None
    backends._resolved.clear()
    compiled = torch.compile(model, fullgraph=True, backend=compilations)
    for _ in range(2):
        actual = gradients(lambda model, x: train_step(compiled, x), model, x)
        assert_close(actual, expected or gradients(train_step, model, x))
    with backends.use_backend("reference"):  # another choice is another graph
        assert_close(gradients(lambda model, x: train_step(compiled, x), model, x), actual)
    assert compilations.frame_count == (1 if target[0] == "reference" else 2)


def test_shared_layer_in_a_compiled_model(compilations):
    relu = jk.JumpstartReLU()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), relu, nn.Linear(6, 6), relu)
    compiled = torch.compile(model, fullgraph=True, backend=compilations)
    x = make_input(8, 6)
    for _ in range(3):
        actual = gradients(lambda model, x: train_step(compiled, x), model, x)
        assert_close(actual, gradients(train_step, model, x))
    assert compilations.frame_count == 1


def test_compiled_eval_is_relu():
    torch._dynamo.reset()
    model, plain = make_model().eval(), make_model(nn.ReLU).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(make_input(8, 6)), plain(make_input(8, 6)))
    assert count(model) == 0


def test_export_of_the_model_in_eval():
    model, x = make_model().eval(), make_input(8, 6)
    exported = torch.export.export(model, (x,))
    assert torch.equal(exported.module()(x), model(x))


@pytest.mark.parametrize("make", (make_model, make_cnn))
def test_export_of_the_trained_model_after_restore(make):
    model = make()
    x = make_input(8, 6) if make is make_model else make_input(8, 3, 8, 8)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    gradients(train_step, model, x)
    optimizer.step()
    plain = jk.restore_relu(model).eval()
    batch = {0: torch.export.Dim("batch", min=2, max=64)}
    exported = torch.export.export(plain, (x,), dynamic_shapes=(batch,))
    assert not any("jumpstart" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(x[:3]), plain(x[:3]))


class Statistics(nn.Module):
    def forward(self, x):
        return tuple(jk.functional.jumpstart_relu(x, unit_dim=1))


def test_export_of_the_operator_itself(target):
    x = make_input(8, 6, 5).to(target[1])
    batch = {0: torch.export.Dim("batch", min=2, max=64)}
    exported = torch.export.export(Statistics(), (x,), dynamic_shapes=(batch,))
    assert any("jumpstart_activation" in str(node.target) for node in exported.graph.nodes)
    for rows in (8, 3):
        part = x[:rows]
        assert_close(exported.module()(part), (F.relu(part), *jk.functional.jumpstart_relu(part)[1:]))


def test_export_of_the_operator_survives_saving(target, tmp_path):
    x = make_input(8, 6).to(target[1])
    torch.export.save(torch.export.export(Statistics(), (x,)), tmp_path / "operator.pt2")
    loaded = torch.export.load(tmp_path / "operator.pt2")
    assert_close(loaded.module()(x), tuple(jk.functional.jumpstart_relu(x)))
