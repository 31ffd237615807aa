"""``jk.watch``: which forwards it observes, what it reports, when it warns; and that nothing changes."""

import copy
import gc
import pickle
import warnings
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from usage.definition import Parallel, assert_unwatched, definition, mixed, network

import jumpstart_kernels as jk
from jumpstart_kernels.usage.loader import unit_usage


def plain_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def assert_same(report, expected) -> None:
    assert str(report) == str(expected) and report.point_layers == expected.point_layers
    for field in ("unit_status", "unit_max", "unit_min", "dormancy", "unit_mean"):
        torch.testing.assert_close(getattr(report, field), getattr(expected, field))
    for field in ("ratios", "cosines", "effective_ranks"):
        assert getattr(report, field) == pytest.approx(getattr(expected, field), rel=1e-6)
    assert torch.equal(report.point_status, expected.point_status)


@pytest.mark.parametrize("activation", [nn.ReLU, jk.JumpstartReLU, nn.Tanh])
def test_a_report_is_that_of_unit_usage_on_the_observed_forwards(activation):
    batches = [mixed(n, 4, 2, seed=n) for n in (6, 4, 8, 2, 6, 4, 12)]
    model = nn.Sequential(nn.Identity(), activation()).train()
    options = {"dormancy": True, "effective_rank": True, "cosines": True}
    options |= {"samples": 0, "warn_dead": None, "warn_linear": None}
    with jk.watch(model, every=1, window=3, **options) as watch:
        for x in batches:
            model(x)
    assert watch.forwards == {"training": 7, "evaluation": 0}
    assert_same(
        watch.report(), unit_usage(model, batches[4:], dormancy=True, effective_rank=True, cosines=True)
    )
    assert_unwatched(model)
    model(batches[0])
    assert watch.forwards["training"] == 7


def test_training_and_evaluation_are_apart():
    model = nn.Sequential(nn.ReLU())
    with jk.watch(model, every=1) as watch:
        for i in range(4):
            model.train()(torch.full((2, 3), 1.0 + i))
            model.eval()(torch.full((2, 3), -1.0 - i))
            with torch.no_grad():  # acting: no forward of training
                model.train()(torch.full((2, 3), -8.0))
    assert watch.forwards == {"training": 4, "evaluation": 8}
    assert watch.report()["unit_linear_ratio"] == 1 == watch.report("evaluation")["unit_dead_ratio"]
    assert watch.report("evaluation").unit_max["0"].tolist() == [-1.0] * 3
    assert len(watch.history) == 0


@pytest.mark.parametrize("period", [2, 5, 10, 50])
def test_no_rhythm_of_the_loop_hides_a_forward(period):
    model = nn.Sequential(nn.ReLU())
    seen = []
    with jk.watch(model, every=50, window=1, samples=0, warn_linear=None) as watch:
        for i in range(50 * 40):
            model(torch.full((2, 1), float(i)))
            seen.append(watch.report().unit_max["0"].item())
        assert torch.rand(1) != torch.rand(1)  # its choice is none of PyTorch's generator
    observed = sorted(set(seen))
    assert [int(i) // 50 for i in observed] == list(range(40)) and observed[0] == 0
    places = [int(i) % period for i in observed]
    assert max(places.count(place) for place in set(places)) < 36


def test_a_window_holds_forwards_and_samples():
    model = nn.Sequential(nn.ReLU())
    with jk.watch(model, every=1, window=2, samples=6, warn_linear=None) as watch:
        for i in range(9):
            assert watch.full == (i >= 6)
            model(torch.full((1 if i < 6 else 4, 3), 1.0 + i))
            kept = len(watch.report().point_status)
            assert kept == (1, 2, 3, 4, 5, 6, 6, 8, 8)[i]
        assert [record["forward"] for record in watch.history] == [6, 8]
        model(torch.zeros(0, 3))
        assert len(watch.report().point_status) == 8
        watch.reset()
        assert not watch.full


def test_history_is_a_record_of_every_full_window_of_training():
    model = nn.Sequential(nn.ReLU())
    dead, alive = torch.full((2, 4), -1.0), torch.tensor([[1.0, -1, 1, 1], [-1.0, 1, -1, 1]])
    with jk.watch(model, every=1, window=2, samples=0, warn_dead=None, warn_linear=None) as watch:
        for x in (dead, dead, alive, dead, alive):
            model(x)
    ratios = ("unit_dead_ratio", "unit_linear_ratio", "unit_dormant_ratio")
    assert [record["forward"] for record in watch.history] == [2, 4]
    assert [tuple(record[name] for name in ratios) for record in watch.history] == [(1, 0, 1), (0, 0, 0)]
    pytest.importorskip("matplotlib")
    jk.plots.learning_curves(watch.history, x="forward", y=list(ratios))


def test_results_gradients_penalty_and_random_numbers_are_those_of_the_model_alone():
    x, results = torch.randn(6, 3), []
    for watched in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), jk.JumpstartReLU(), nn.Dropout(), nn.Linear(8, 8), nn.GELU())
        watch = jk.watch(model, every=1, effective_rank=True, cosines=True) if watched else None
        output = model(x)
        loss = output.sum() + jk.penalty(model)
        loss.backward()
        found = [output, loss, torch.rand(2), *(parameter.grad for parameter in model.parameters())]
        results.append(found)
        keys = list(model.state_dict())
    assert watch is not None and watch.report().layers.keys() == {"1", "4"}
    assert all(torch.equal(alone, seen) for alone, seen in zip(*results, strict=True))
    assert keys == list(network_like(model).state_dict())


def network_like(model: nn.Module) -> nn.Module:
    return nn.Sequential(*(copy.deepcopy(module) for module in model))


def test_between_observed_forwards_the_layers_have_no_hooks():
    model = plain_network()
    with jk.watch(model, every=3):
        for _ in range(7):
            model(torch.randn(4, 3))
            for module in list(model.modules())[1:]:
                assert_unwatched(module)


def test_a_warning_names_the_layers_once_until_they_recover():
    model = Parallel(nn.ReLU(), nn.ReLU())
    healthy = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(2, 5)  # [4, 10]
    dead, linear = healthy.clone(), healthy.clone()
    dead[:, :2], linear[:, :3] = -1.0, 1.0
    nearly = healthy.clone()
    nearly[:, 0] = -1.0

    def told(*inputs: Tensor) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                model(*inputs)
        assert all(issubclass(each.category, jk.UnitWarning) for each in caught)
        return [str(each.message) for each in caught]

    with jk.watch(model, every=1, window=2, samples=0, warn_linear=0.25):
        assert told(healthy, healthy) == []
        (message,) = told(dead, healthy)
        assert "more than 10% of the units are dead in activations.0 (2 of 10)" in message
        assert "in 2 observed forwards (8 samples) up to forward 4" in message
        assert told(dead, healthy) == []
        assert told(nearly, healthy) == []
        assert told(dead, healthy) == []  # a tenth was no recovery
        assert told(healthy, healthy) == []
        assert len(told(dead, healthy)) == 1
        both = told(linear, dead)
        assert (
            len(both) == 2 and "activations.1 (2 of 10)" in both[0] and "activations.0 (3 of 10)" in both[1]
        )
    with jk.watch(model, every=1, window=2, samples=0, warn_dead=None, warn_linear=None):
        assert told(dead, linear) == []
    with jk.watch(model, every=1, window=2, samples=0, warn_dead=0.2, warn_linear=1.0):
        assert told(dead, linear) == []  # exactly a fifth is not more


def test_of_many_layers_the_worst_are_named():
    model = Parallel(*(nn.ReLU() for _ in range(7)))
    inputs = [torch.cat([torch.full((2, i + 1), -1.0), torch.eye(2)], 1) for i in range(7)]
    with jk.watch(model, every=1, window=1, samples=0), pytest.warns(jk.UnitWarning) as caught:
        model(*inputs)
    assert "activations.6 (7 of 9), activations.5" in str(caught[0].message)
    assert str(caught[0].message).count(" of ") - 1 == 5 and "and 2 more layers" in str(caught[0].message)


def test_layers_may_differ_from_forward_to_forward():
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.left, self.right = nn.ReLU(), nn.ReLU(), nn.GELU()

        def forward(self, x: Tensor, left: bool) -> Tensor:
            return self.left(self.shared(x) - 1) if left else self.right(self.shared(x[:, :2]) - 1)

    x = mixed(8, 3)
    model = Routed()
    with jk.watch(model, every=1, window=4, samples=0, warn_dead=None, warn_linear=None) as watch:
        for left in (True, False, True, False):
            model(x, left)
            watch.report()
        model(x, True)
    report = watch.report()
    assert {name: layer.units for name, layer in report.layers.items()} == {
        "shared": 3,
        "left": 3,
        "right": 2,
    }
    assert report.point_layers == ("shared",) and len(report.point_status) == 32
    assert report.layers["left"].points == 16 == report.layers["right"].points
    expected = definition([x, torch.relu(x) - 1])
    with jk.watch(model, every=1, window=2) as watch:
        model(x, True)
    assert dict(watch.report()) == pytest.approx(expected)


def test_a_forward_that_raises_is_dropped_and_leaves_nothing():
    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            if len(self.relu(x)) == 1:
                raise ZeroDivisionError
            return x

    model = Fragile()
    with jk.watch(model, every=1) as watch:
        with pytest.raises(ZeroDivisionError):
            model(torch.ones(1, 3))
        assert_unwatched(model.relu)
        with pytest.raises(RuntimeError, match="observed: of 1, none that was to be observed has ended"):
            watch.report()
        model(-torch.ones(2, 3))
        assert watch.report()["unit_dead_ratio"] == 1.0


def test_batches_of_several_calls():
    model = Parallel(nn.ReLU(), nn.ReLU())
    with jk.watch(model, every=1) as watch:
        watch.begin_batch()
        model.activations[0](torch.ones(2, 3))
        model(torch.ones(2, 3), -torch.ones(2, 3))
        watch.end_batch()
        watch.end_batch()
        watch.begin_batch()
        model.activations[0](torch.ones(2, 3))
        watch.begin_batch()  # the last one failed
        model.activations[1](torch.ones(2, 3))
        watch.end_batch()
        with pytest.raises(KeyboardInterrupt), watch.batch():
            model.activations[0](torch.ones(2, 3))
            raise KeyboardInterrupt
        assert_unwatched(model.activations[0])
    assert watch.forwards["training"] == 4
    names = ["activations.0", "activations.0#2", "activations.1"]
    assert list(watch.report().layers) == names and len(watch.report().point_status) == 4
    watch.begin_batch()
    assert watch.forwards["training"] == 4  # it is removed
    with jk.watch(model.eval(), every=1) as watch:
        for mode in ("training", None, "training"):
            with watch.batch(mode):
                model.activations[0](torch.ones(2, 3))
    assert watch.forwards == {"training": 2, "evaluation": 1}
    with pytest.raises(ValueError, match="mode must be one of 'training', 'evaluation', got 'test'"):
        watch.begin_batch("test")


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("activation", [nn.ReLU, jk.JumpstartReLU, nn.GELU])
def test_recomputation_of_checkpointing_does_not_count(use_reentrant, activation):
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), activation()

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(lambda x: self.second(self.first(x)), x, use_reentrant=use_reentrant)

    grads = []
    for watched in (False, True):
        torch.manual_seed(0)
        model, x = Checkpointed(), torch.randn(6, 3).requires_grad_()
        watch = jk.watch(model, every=1) if watched else None
        for _ in range(3):
            checkpoint(model, x, use_reentrant=use_reentrant).sum().backward()  # whole, and again inside
            jk.clear_records(model)
        grads.append([x.grad, *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(alone, seen) for alone, seen in zip(*grads, strict=True))
    assert watch is not None and watch.forwards["training"] == 3
    assert watch.report().layers["second"].points == 18


def test_copies_and_pickles_are_not_watched_and_a_watch_does_not_keep_a_model():
    model = plain_network()
    watch = jk.watch(model, every=1)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other(torch.randn(4, 3))
    assert watch.forwards["training"] == 0
    reference = weakref.ref(model)
    del model, watch, other
    gc.collect()
    assert reference() is None


def test_two_watches_and_removal_in_any_order():
    model, x = plain_network(), torch.randn(4, 3)
    first, second = jk.watch(model, every=1), jk.watch(model, every=1, layers=["3"])
    model(x)
    first.remove()
    first.remove()
    model(x)
    model(x)
    assert (first.forwards["training"], second.forwards["training"]) == (1, 3)
    assert list(second.report().layers) == ["3"] and len(second.report().point_status) == 12
    second.reset()
    with pytest.raises(RuntimeError, match=r"none since the last reset\(\) or recycle\(\)"):
        second.report()
    second.remove()
    assert_unwatched(model)
    assert "3 forwards in training, 0 forwards in evaluation; one in 1 observed" in repr(second)


def test_transforms_traces_and_exports_are_passed_over():
    model, x = plain_network(), torch.randn(4, 3)
    with jk.watch(model, every=1) as watch:
        parameters = dict(model.named_parameters())
        torch.func.vmap(lambda row: torch.func.functional_call(model, parameters, (row,)))(x)
        torch.jit.trace(model, x, check_trace=False)
        torch.export.export(model, (x,))
        torch.fx.symbolic_trace(nn.Sequential(model))
        assert watch.forwards["training"] == 0
        model(x)
    assert watch.forwards["training"] == 1


def test_bad_arguments():
    model = plain_network()
    for error, match, arguments in [
        (TypeError, "model must be a torch.nn.Module, got int", {"model": 3}),
        (ValueError, "every must be at least 1, got 0", {"every": 0}),
        (TypeError, "every must be an int, got float", {"every": 2.0}),
        (ValueError, "window must be at least 1", {"window": 0}),
        (ValueError, r"warn_dead must be in \[0, 1\]", {"warn_dead": 10}),
        (TypeError, "warn_linear must be a number", {"warn_linear": "often"}),
        (TypeError, "layers must be a list of names", {"layers": "1"}),
        (ValueError, "layers must be names of modules", {"layers": ["9"]}),
        (TypeError, "unit_dim must be an int or 'auto'", {"unit_dim": 1.0}),
        (TypeError, "dormancy must be True or False, got 0.1", {"dormancy": 0.1}),
        (ValueError, "model has no nn.ReLU, nn.GELU or other", {"model": nn.Linear(2, 2)}),
    ]:
        with pytest.raises(error, match=match):
            jk.watch(**{"model": model, **arguments})
        assert_unwatched(model)
    with jk.watch(model) as watch, pytest.raises(ValueError, match="mode must be one of 'training'"):
        watch.report("testing")


def test_the_network_of_the_penalty_is_watched_by_its_own_kernels():
    model = network()
    with jk.watch(model, every=1, dormancy=False) as watch:
        model(torch.randn(5, 3))
    jk.clear_records(model)
    assert watch.report().layers.keys() == {"1", "3"} and watch.report().dormancy == {}
