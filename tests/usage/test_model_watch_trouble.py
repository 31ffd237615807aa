"""``jk.watch`` where something goes wrong, or is out of the ordinary: training goes on as without it."""

import copy
import io
import pickle
import threading
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from usage.definition import assert_unwatched, mixed

import jumpstart_kernels as jk


class Stopped(nn.Module):
    """Passes its input on; may be interrupted, or wait for another thread."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.todo = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        if self.todo is not None:
            todo, self.todo = self.todo, None
            todo()
        return x


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("compiled", [False, True])
def test_an_interrupted_forward_is_dropped(every, compiled):
    model = Stopped()
    if compiled:
        model.compile(backend="eager")
    with jk.watch(model, every=every) as watch:
        model(torch.ones(1, 3))
        model.todo = interrupt
        with pytest.raises(KeyboardInterrupt):
            model(torch.ones(2, 3))
        for _ in range(8):
            model(-torch.ones(4, 3))
        assert watch.forwards["training"] == 10
        assert len(watch.report().point_status) in (33, 13, 17)  # 1 + 4 · 8, or half of them
    assert_unwatched(model.relu)
    stance = []
    torch.compile(lambda x: (stance.append(torch.compiler.is_dynamo_compiling()), x + 1)[1])(torch.ones(2))
    assert stance == [True]


def test_a_forward_of_another_thread_meanwhile_is_passed_over():
    model = Stopped()

    def elsewhere() -> None:
        thread = threading.Thread(target=lambda: model(torch.ones(7, 3)))
        thread.start()
        thread.join()

    with jk.watch(model, every=1) as watch:
        model.todo = elsewhere
        model(-torch.ones(2, 3))
        elsewhere()  # nobody else runs it now
    assert watch.forwards["training"] == 2
    assert len(watch.report().point_status) == 9


def test_a_thread_that_compiles_something_else_does_not_matter():
    inside, done = threading.Event(), threading.Event()

    def backend(graph, _):
        inside.set()
        done.wait(10)
        return graph.forward

    def meanwhile() -> None:
        thread.start()
        inside.wait(10)

    thread = threading.Thread(target=lambda: torch.compile(lambda x: x + 1, backend=backend)(torch.ones(2)))
    model = Stopped()
    with jk.watch(model, every=1) as watch:
        model.todo = meanwhile
        model(torch.ones(2, 3))
        model(torch.ones(2, 3))
        done.set()
        thread.join()
    assert watch.forwards["training"] == 2 and len(watch.report().point_status) == 4


def test_copies_and_saves_within_a_batch():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.GELU(), jk.JumpstartReLU())
    with jk.watch(model, every=1) as watch:
        with watch.batch():
            model(torch.randn(5, 3))
            torch.save(model, io.BytesIO())
            others = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
            for other in others:
                other(torch.randn(9, 3))
        for other in others:
            other(torch.randn(9, 3))
        assert list(watch.report().layers) == ["1", "2", "3"] and len(watch.report().point_status) == 5


def test_a_model_that_holds_its_watch_is_copied_without():
    model = nn.Sequential(nn.ReLU())
    model.watch = jk.watch(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.watch is None
    assert model.watch is not None


@pytest.mark.parametrize("observed_before", [False, True])
def test_layers_may_be_replaced_and_restored(observed_before):
    torch.manual_seed(0)
    model, x = jk.replace_relu(nn.Sequential(nn.Linear(3, 4), nn.ReLU())), torch.randn(6, 3)
    with jk.watch(model, every=1) as watch:
        if observed_before:
            model(x)
            jk.clear_records(model)
        jk.restore_relu(model)
        watch.reset()
        model(x)
        maxima = watch.report().unit_max["1"]
        jk.replace_relu(model)
        model(x)
        jk.clear_records(model)
        assert torch.equal(watch.report().unit_max["1"], maxima)
    assert torch.equal(maxima, model[0](x).amax(0))


def test_a_transformer_in_evaluation_with_padding():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation=nn.ReLU())
    model, x = nn.TransformerEncoder(layer, 2).eval(), torch.randn(4, 5, 16)
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[0, 3:] = True
    with torch.no_grad():
        expected = model(x, src_key_padding_mask=mask)
        with jk.watch(model, every=1) as watch:
            found = model(x, src_key_padding_mask=mask)
        assert torch.backends.mha.get_fastpath_enabled()
    torch.testing.assert_close(found[~mask], expected[~mask])
    names = [f"layers.{i}.activation" for i in range(2)]
    assert list(watch.report("evaluation").layers) == names


def test_what_cannot_be_watched_is_left_out_with_one_warning():
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.odd, self.relu = nn.Identity(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.odd(x + 0j).real)

    x = mixed(6, 3)
    model = Complex()
    with jk.watch(model, every=1, layers=["odd", "relu"]) as watch:
        with pytest.warns(
            UserWarning, match="the layer 'odd' got what cannot be watched .*complex64"
        ) as told:
            assert torch.equal(model(x), x.relu())
            model(x)
        assert len([each for each in told if "odd" in str(each.message)]) <= 2  # its input, its output
    assert list(watch.report().layers) == ["relu"]


def test_fake_and_meta_tensors_and_empty_batches():
    model, meta = (
        nn.Sequential(nn.Linear(3, 4), nn.ReLU()),
        nn.Sequential(nn.Linear(3, 4), nn.ReLU()).to("meta"),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with (
            jk.watch(model, every=1, window=1, samples=0) as watch,
            jk.watch(meta, every=1, window=1) as other,
        ):
            with FakeTensorMode(allow_non_fake_inputs=True):
                model(torch.ones(4, 3))
            meta(torch.ones(4, 3, device="meta"))
            model(torch.ones(0, 3))
        assert watch.forwards["training"] == 1 and watch.history == [] == other.history


def test_not_a_number_is_reported():
    model = nn.Sequential(nn.ReLU())
    with jk.watch(model, every=1) as watch:
        model(torch.tensor([[float("nan"), 1.0]]))
    assert watch.report().nan_units == 1
