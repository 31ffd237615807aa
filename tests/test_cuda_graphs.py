"""CUDA graphs and streams: capture, replay and concurrent kernels."""

import gc

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

import jumpstart_kernels as jk
from jumpstart_kernels.functional import jumpstart_relu
from jumpstart_kernels.ops import backends

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
REPLAYS = 50


@pytest.fixture(params=("native", "triton"), autouse=True)
def backend(request):
    """The reference does not wait for our kernels."""
    reason = backends.unavailable(request.param, "cuda")
    if reason is not None:
        pytest.skip(f"{request.param} on cuda: {reason}")
    with backends.use_backend(request.param):
        yield request.param


def make_model(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(inplace=True),
        nn.Flatten(), nn.Linear(24 * 64, 300), nn.ReLU(), nn.Linear(300, 5),
    )  # fmt: skip
    return jk.replace_relu(model).cuda()


def make_input(seed, samples=32):
    return torch.randn(samples, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).cuda()


def loss_of(model, x):
    return model(x).square().mean() + 0.3 * jk.penalty(model)


def step(model, x):
    """Loss and gradients, in memory owned by the graph."""
    loss = loss_of(model, x)
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


def warm_up(run):
    """On a side stream, like capture: compilation on first use must not happen in a graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)


def capture(run, **options):
    """A graph of ``run``, and its result."""
    warm_up(run)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, **options):
        results = run()
    return graph, results


def assert_close(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-5)


def test_a_step_is_captured_and_replayed():
    model, x = make_model(), make_input(0)
    graph, results = capture(lambda: step(model, x))
    for seed in range(1, 5):
        x.copy_(make_input(seed))
        graph.replay()
        assert_close(results, step(model, make_input(seed)))
    with pytest.raises(RuntimeError, match="recorded"):  # nothing is left behind
        jk.penalty(model)


def test_a_captured_training_learns_as_an_eager_one():
    x, losses = make_input(0), {}
    for captured in (False, True):
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

        def train_step(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = loss_of(model, x)
            loss.backward()
            optimizer.step()
            return loss.detach()

        initial = {name: value.clone() for name, value in model.state_dict().items()}
        if captured:
            graph, loss = capture(train_step)
            model.load_state_dict(initial)  # the warm-up has trained
        losses[captured] = []
        for _ in range(10):
            if captured:
                graph.replay()
            else:
                loss = train_step()
            losses[captured].append(loss.item())
    torch.testing.assert_close(losses[True], losses[False], rtol=1e-3, atol=1e-4)
    assert losses[True][-1] < losses[True][0]


def test_replay_after_another_graph_is_destroyed():
    model, x, other = make_model(), make_input(0), make_model(1)
    pool = torch.cuda.graph_pool_handle()
    expected = [result.clone() for result in step(model, x)]
    for options in ({}, {"pool": pool}):
        another, _ = capture(lambda: step(other, x), **options)
        graph, results = capture(lambda: step(model, x), **options)
        graph.replay()
        another.replay()
        del another
        gc.collect()
        torch.cuda.empty_cache()
        rubbish = [torch.full((2**20,), torch.nan, device="cuda") for _ in range(64)]
        for _ in range(3):
            graph.replay()
            assert_close(results, expected)
        del rubbish, graph, results


def test_graphs_on_two_streams_at_once():
    models, inputs = [make_model(seed) for seed in (0, 1)], [make_input(seed) for seed in (0, 1)]
    expected = [[value.clone() for value in step(model, x)] for model, x in zip(models, inputs, strict=True)]
    graphs = [capture(lambda m=model, x=x: step(m, x)) for model, x in zip(models, inputs, strict=True)]
    streams = [torch.cuda.Stream() for _ in graphs]
    torch.cuda.synchronize()
    for _ in range(REPLAYS):
        for (graph, results), stream in zip(graphs, streams, strict=True):
            with torch.cuda.stream(stream):
                for result in results:
                    result.zero_()
                graph.replay()
    torch.cuda.synchronize()
    for (_, results), values in zip(graphs, expected, strict=True):
        assert_close(results, values)


@pytest.mark.parametrize("size", [(4096, 64), (64, 32, 56, 56)], ids=str)
def test_kernels_on_two_streams_at_once(size):
    """Concurrent launches share nothing: results are bitwise equal to sequential launches."""

    def run(x):
        x = x.requires_grad_()
        result = jumpstart_relu(x)
        grads = [torch.ones_like(result.output), torch.ones_like(result.slack_sums)]
        return *result, *torch.autograd.grad(result[:2], x, grads)

    inputs = [torch.randn(size, generator=torch.Generator().manual_seed(seed)).cuda() for seed in (0, 1)]
    expected = [[value.detach().clone() for value in run(x)] for x in inputs]
    streams = [torch.cuda.Stream() for _ in inputs]
    torch.cuda.synchronize()
    for _ in range(REPLAYS):
        found = []
        for x, stream in zip(inputs, streams, strict=True):
            with torch.cuda.stream(stream):
                found.append(run(x))
        torch.cuda.synchronize()
        for values, others in zip(found, expected, strict=True):
            assert all(torch.equal(one, other) for one, other in zip(values, others, strict=True))


def test_backward_on_another_stream():
    """Autograd runs it on the stream of its forward, and waits where it has to."""
    model, x = make_model(), make_input(0)
    expected = step(model, x)
    forward, backward = torch.cuda.Stream(), torch.cuda.Stream()
    for _ in range(REPLAYS):
        forward.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(forward):
            logits = model(x)
        backward.wait_stream(forward)
        with torch.cuda.stream(backward):  # the penalty is there, backward begins there
            loss = logits.square().mean() + 0.3 * jk.penalty(model)
            grads = torch.autograd.grad(loss, list(model.parameters()))
        torch.cuda.current_stream().wait_stream(backward)
        assert_close([loss.detach(), *grads], expected)
        for tensor in (logits, loss, *grads):
            tensor.record_stream(torch.cuda.current_stream())


def test_graphed_callables_inject_the_penalty():
    model, twin = make_model(), make_model()
    x = make_input(0)
    counts = jk.count_units_and_points(model, x)
    injection = jk.inject_penalty(model, 0.3, counts=counts)
    graphed = torch.cuda.make_graphed_callables(model, (x.clone(),))
    for seed, weight in ((1, 0.3), (2, 0.7)):
        injection.weight = weight
        model.zero_grad()
        twin.zero_grad()
        batch = make_input(seed)
        graphed(batch).square().mean().backward()
        (twin(batch).square().mean() + weight * jk.penalty(twin)).backward()
        assert_close([p.grad for p in model.parameters()], [p.grad for p in twin.parameters()])


@pytest.mark.parametrize("penalty_inside", (True, False))
def test_reduce_overhead_is_graphs(penalty_inside):
    torch._dynamo.reset()
    counters.clear()
    model, twin = make_model(), make_model()
    compiled = torch.compile(loss_of if penalty_inside else model, fullgraph=True, mode="reduce-overhead")
    for seed in range(6):
        torch.compiler.cudagraph_mark_step_begin()
        model.zero_grad()
        twin.zero_grad()
        x = make_input(seed)
        loss = compiled(model, x) if penalty_inside else compiled(x).square().mean() + 0.3 * jk.penalty(model)
        loss.backward()
        other = loss_of(twin, x)
        other.backward()
        assert_close([loss], [other])
        assert_close([p.grad for p in model.parameters()], [p.grad for p in twin.parameters()])
    assert counters["inductor"]["cudagraph_skips"] == 0
