"""Threads: models trained concurrently, graphs passed between threads, the choice of a backend."""

import threading
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import jumpstart_kernels as jk
from jumpstart_kernels.ops import backends

STEPS = 12
PATIENCE = 120  # seconds that a thread waits for another before a test fails


class Checkpointed(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return checkpoint(self.body, x, use_reentrant=False)


def make_model(seed, kind="plain"):
    torch.manual_seed(seed)
    body = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(96, 40),
        nn.ReLU(),
        nn.Linear(40, 3),
        nn.Tanh(),  # behind the layers, so that a checkpoint runs all of them again
    )
    return jk.replace_relu(Checkpointed(body) if kind == "checkpointed" else body)


def make_input(seed, rows=24):
    return torch.randn(rows, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


def wide_input(seed):
    """Large enough for multi-threaded kernels."""
    return torch.randn(512, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


def train(model, x, forward=None, before_step: Callable[[], object] = lambda: None):
    """Losses of all steps, and the parameters at the end."""
    forward = forward or model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    results = []
    for _ in range(STEPS):
        before_step()
        optimizer.zero_grad()
        loss = forward(x).square().mean() + 0.3 * jk.penalty(model)
        loss.backward()
        optimizer.step()
        results.append(loss.detach())
    with pytest.raises(RuntimeError, match="has recorded a forward"):
        jk.penalty(model)
    return [*results, *(parameter.detach().clone() for parameter in model.parameters())]


def in_threads(*functions):
    """The results of functions called concurrently, each in its own thread."""
    results = [None] * len(functions)
    errors = []

    def run(i, function):
        torch.set_num_threads(1)  # as alone: sums of a matrix product depend on it
        try:
            results[i] = function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a thread waits for ever"
    if errors:
        raise errors[0]
    return results


def assert_same(actual, expected):
    assert len(actual) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))


@pytest.mark.parametrize("make", (make_input, wide_input), ids=("small", "wide"))
@pytest.mark.parametrize("kind", ("plain", "checkpointed"))
def test_two_models_train_as_if_alone(kind, make):
    alone = [in_threads(lambda seed=seed: train(make_model(seed, kind), make(seed)))[0] for seed in (0, 1)]
    models = [make_model(seed, kind) for seed in (0, 1)]
    together = threading.Barrier(2, timeout=PATIENCE)
    results = in_threads(
        *(lambda seed=seed: train(models[seed], make(seed), before_step=together.wait) for seed in (0, 1))
    )
    for actual, expected in zip(results, alone, strict=True):
        assert_same(actual, expected)


def test_one_compiled_one_eager():
    """Compiled while the other trains; each rounds as it does on its own."""
    torch._dynamo.reset()
    models = [make_model(seed, "checkpointed" if seed == 0 else "plain") for seed in (0, 1)]
    alone = [in_threads(lambda seed=seed: train(make_model(seed), make_input(seed)))[0] for seed in (0, 1)]
    compiled = torch.compile(models[1], fullgraph=True, backend="aot_eager")
    results = in_threads(
        lambda: train(models[0], make_input(0)), lambda: train(models[1], make_input(1), compiled)
    )
    for result, expected in zip(results, alone, strict=True):
        for actual, wanted in zip(result, expected, strict=True):
            torch.testing.assert_close(actual, wanted)


def test_a_checkpoint_recomputes_while_another_thread_compiles():
    """PyTorch reports all threads as compiling while one is."""
    torch._dynamo.reset()
    compiling, trained = threading.Event(), threading.Event()

    def compiler(graph, inputs):
        compiling.set()
        assert trained.wait(PATIENCE)
        return graph.forward

    def train_meanwhile():
        assert compiling.wait(PATIENCE)
        try:
            return train(make_model(0, "checkpointed"), make_input(0))
        finally:
            trained.set()

    alone = in_threads(lambda: train(make_model(0, "checkpointed"), make_input(0)))[0]
    add = torch.compile(lambda x: x + 1, backend=compiler)
    _, results = in_threads(lambda: add(torch.ones(2)), train_meanwhile)
    for actual, expected in zip(results, alone, strict=True):
        torch.testing.assert_close(actual, expected)


def gradients(model):
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("kind", ("plain", "checkpointed"))
def test_forward_penalty_and_backward_in_three_threads(kind):
    model, x = make_model(0, kind), make_input(0)
    (model(x).square().mean() + jk.penalty(model)).backward()
    expected = gradients(model)
    model.zero_grad()
    (output,) = in_threads(lambda: model(x))
    (loss,) = in_threads(lambda: output.square().mean() + jk.penalty(model))
    in_threads(loss.backward)
    for actual, wanted in zip(gradients(model), expected, strict=True):  # convolutions round by their threads
        torch.testing.assert_close(actual, wanted)


def test_a_forward_is_recorded_while_another_thread_runs_backward():
    """Inside backward a forward counts as recomputed: in the thread of that backward only."""
    first, second = make_model(0), make_model(1)
    inside, recorded = threading.Event(), threading.Event()

    def wait(grad):
        inside.set()
        assert recorded.wait(PATIENCE)
        return grad

    def run_backward():
        output = first(make_input(0))
        output.register_hook(wait)
        (output.square().mean() + jk.penalty(first)).backward()

    def run_forward():
        assert inside.wait(PATIENCE)
        try:
            second(make_input(1))
        finally:
            recorded.set()
        return jk.penalty(second)

    _, value = in_threads(run_backward, run_forward)
    second(make_input(1))
    assert torch.equal(value, jk.penalty(second))


def test_penalty_in_one_thread_while_another_runs_forward():
    models, rounds = [make_model(seed) for seed in (0, 1)], 50
    models[0](make_input(0))
    expected = jk.penalty(models[0])

    def take_penalties():
        values = []
        for _ in range(rounds):
            models[0](make_input(0))
            values.append(jk.penalty(models[0]))
        return values

    def run_forwards():
        for _ in range(rounds):
            models[1](make_input(1))
        return jk.penalty(models[1], reduction="sum")

    values, total = in_threads(take_penalties, run_forwards)
    assert all(torch.equal(value, expected) for value in values)
    models[1](make_input(1))
    torch.testing.assert_close(total, rounds * jk.penalty(models[1], reduction="sum"))


def node_name(x):
    return jk.functional.jumpstart_relu(x).output.grad_fn.name()


def usable():
    names = [name for name in ("native", "reference") if backends.unavailable(name, "cpu") is None]
    return names if len(names) == 2 else pytest.skip("the native backend is not built")


def test_a_backend_holds_for_all_threads():
    usable()
    x = torch.randn(3, 2, requires_grad=True)
    with jk.use_backend("native"):
        native = node_name(x)
    with jk.use_backend("reference"):
        assert in_threads(lambda: node_name(x)) == [node_name(x)] and node_name(x) != native


def test_blocks_of_two_threads_may_overlap():
    """The first block exits before the second: neither choice remains."""
    usable()
    x = torch.randn(3, 2, requires_grad=True)
    before, entered, left = node_name(x), threading.Event(), threading.Event()
    names = {}
    for backend in ("native", "reference"):
        with jk.use_backend(backend):
            names[backend] = node_name(x)

    def first():
        with jk.use_backend("reference"):
            second_inside.wait(PATIENCE)
        left.set()

    def second():
        assert entered.wait(PATIENCE)
        with jk.use_backend("native"):
            second_inside.set()
            assert left.wait(PATIENCE)
            return node_name(x)

    second_inside = threading.Event()
    with jk.use_backend("reference"):
        entered.set()
        assert in_threads(first, second)[1] == names["native"]
        assert node_name(x) == names["reference"]
    assert node_name(x) == before


def test_threads_that_change_the_backend_change_no_result():
    usable()
    alone = [in_threads(lambda seed=seed: train(make_model(seed), make_input(seed)))[0] for seed in (0, 1)]

    models = [make_model(seed) for seed in (0, 1)]  # here: the threads share the random generator

    def train_by(backend, seed):
        model = models[seed]

        def forward(x):
            with jk.use_backend(backend):
                return model(x)

        return train(model, make_input(seed), forward)

    results = in_threads(lambda: train_by("native", 0), lambda: train_by("reference", 1))
    for result, expected in zip(results, alone, strict=True):
        for actual, wanted in zip(result, expected, strict=True):
            torch.testing.assert_close(actual, wanted)
    assert backends._chosen == backends._default and not backends._open


def test_a_watcher_sees_the_forwards_of_its_own_model():
    models = [make_model(seed).eval() for seed in (0, 1)]
    loader = [make_input(seed) for seed in range(4)]
    alone = [jk.unit_usage(model, loader) for model in models]
    together = in_threads(*(lambda model=model: jk.unit_usage(model, loader) for model in models))
    for actual, expected in zip(together, alone, strict=True):
        assert str(actual) == str(expected)


def test_relu_outside_of_training_is_plain_in_any_thread():
    model, x = make_model(0).eval(), make_input(0)
    (output,) = in_threads(lambda: model(x))
    assert torch.equal(output, model(x)) and torch.equal(F.relu(x), x.clamp(min=0))
