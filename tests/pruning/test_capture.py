"""What is seen of tensors while a model runs."""

import numpy as np
import pytest
import torch
from torch import fx, nn

from jumpstart_kernels.pruning.capture import Products, inputs_of, observe, rows_of
from jumpstart_kernels.surgery.flow.units import Value


def value(dim, scaled=False):
    return Value(dim, (), scaled)


def test_rows_of_samples():
    x = torch.randn(5, 3)
    assert torch.equal(rows_of(x, value(-1), 3), x)


def test_rows_of_positions():
    x = torch.randn(5, 3, 4, 2)
    rows = rows_of(x, value(-3), 3)
    assert rows.shape == (40, 3)
    assert torch.equal(rows, x.permute(0, 2, 3, 1).reshape(40, 3))
    assert torch.equal(rows_of(x, value(-1), 2), x.reshape(60, 2))


def test_rows_of_flattened_units():
    x = torch.randn(5, 3, 4)
    assert torch.equal(rows_of(x.flatten(1), value(-1, True), 3), rows_of(x, value(-2), 3))


def test_rows_of_drawn_positions():
    x = torch.randn(5, 3, 40)
    rows = rows_of(x, value(-2), 3, limit=7)
    assert rows.shape == (35, 3)
    assert torch.equal(rows, rows_of(x, value(-2), 3, limit=7))
    every = rows_of(x, value(-2), 3).unflatten(0, (5, 40))
    places = [(every[0] == row).all(1).nonzero().item() for row in rows[:7]]
    assert places == sorted(set(places))
    assert torch.equal(every[:, places].flatten(0, 1), rows)


def test_products_are_weighted_sums():
    a, target = torch.randn(12, 3, dtype=torch.float64), torch.randn(12, 2, dtype=torch.float64)
    weights = torch.rand(4)
    found = Products()
    found.add(a[:6], target[:6], weights[:2])  # 3 rows a sample
    found.add(a[6:], target[6:], weights[2:])
    a = torch.cat([a, torch.ones(12, 1, dtype=torch.float64)], 1)
    weighted = a * weights.double().repeat_interleave(3)[:, None]
    assert found.rows == 12
    torch.testing.assert_close(found.own, weighted.T @ a)
    torch.testing.assert_close(found.with_target, weighted.T @ target)


def test_observes_before_what_runs_in_place():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    x = torch.randn(6, 3)
    graph = fx.symbolic_trace(model).graph
    seen = {}
    with torch.no_grad():
        observe(
            model, graph, x, {"_1": lambda z: seen.update(pre=z.clone()), "_2": lambda z: seen.update(post=z)}
        )
        assert torch.equal(seen["pre"], model[0](x))
        assert torch.equal(seen["post"], seen["pre"].relu())


def test_stops_when_all_is_seen():
    class Failing(nn.Module):
        def forward(self, x):
            raise AssertionError

    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), Failing())
    graph = fx.Tracer()
    graph.is_leaf_module = lambda module, name: True
    seen = []
    observe(model, graph.trace(model), torch.randn(6, 3), {"_1": seen.append})
    assert len(seen) == 1
    observe(model, graph.trace(model), torch.randn(6, 3), {})


def test_inputs():
    model = nn.Linear(3, 2, dtype=torch.bfloat16)
    x = torch.randn(4, 3)
    for loader in (
        [x],
        (x for _ in range(1)),
        [[x, 1]],
        [(x, None)],
        [x.numpy()],
        [x.numpy().astype(np.float64)],
    ):
        (found,) = inputs_of(loader, "loader", model)
        assert torch.equal(found, x.bfloat16())
    (found,) = inputs_of([torch.arange(4), torch.zeros(0)], "loader", model)
    assert torch.equal(found, torch.arange(4))
    assert inputs_of([x], "loader", nn.ReLU())[0].dtype == torch.float32


@pytest.mark.parametrize(
    "loader", [None, 3, "batches", {"x": torch.zeros(3)}, [object()], [None], [{"x": 1}]]
)
def test_no_inputs(loader):
    with pytest.raises(TypeError, match="unseen must"):
        inputs_of(loader, "unseen", nn.ReLU())
