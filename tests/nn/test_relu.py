"""``JumpstartReLU``: its records, and that otherwise it is an ``nn.ReLU``."""

import copy
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import jumpstart_kernels as jk
from jumpstart_kernels.nn.activation import LayerExtrema
from jumpstart_kernels.nn.records import UNCLAIMED_WARNING, unwind
from jumpstart_kernels.ops import backends


def make_input(*size):
    return torch.randn(size, generator=torch.Generator().manual_seed(sum(size)))


def make_model(layer=jk.JumpstartReLU, **options):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 5), layer(**options), nn.Linear(5, 4), layer(**options), nn.Linear(4, 3)
    )


def count(model):
    return sum(len(list(unwind(m._records))) for m in model.modules() if isinstance(m, jk.JumpstartReLU))


def test_output_and_gradient_are_those_of_relu(target):
    x = make_input(7, 5).to(target[1]).requires_grad_()
    y = x.detach().clone().requires_grad_()
    layer = jk.JumpstartReLU()
    output, expected = layer(x), F.relu(y)
    assert type(output) is torch.Tensor and torch.equal(output, expected)
    output.sin().sum().backward()
    expected.sin().sum().backward()
    assert torch.equal(x.grad, y.grad)


def test_records_in_training_with_grad_only():
    layer = jk.JumpstartReLU()
    x = make_input(4, 3)
    with torch.no_grad():
        assert torch.equal(layer(x), F.relu(x))
    with torch.inference_mode():
        layer(x)
    layer.eval()
    assert layer(x.requires_grad_()).grad_fn.name() == "ReluBackward0"  # F.relu itself
    assert count(layer) == 0
    layer.train()(x)
    assert count(layer) == 1
    layer(x)
    assert count(layer) == 2
    jk.penalty(layer)
    assert count(layer) == 0


def test_used_twice_it_records_twice():
    shared = jk.JumpstartReLU()
    model = nn.Sequential(nn.Linear(3, 3), shared, nn.Linear(3, 3), shared)
    model(make_input(4, 3))
    assert count(model) == 2
    jk.clear_records(model)
    assert count(model) == 0


def test_penalty_reaches_the_weights():
    model = make_model()
    (model(make_input(8, 6)).square().sum() + jk.penalty(model)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    plain = make_model()
    plain(make_input(8, 6)).square().sum().backward()
    assert not torch.equal(model[0].weight.grad, plain[0].weight.grad)


@pytest.mark.parametrize("ties", ("single", "average", "random"))
def test_inplace(ties):
    grads = []
    for inplace in (False, True):
        model = make_model(inplace=inplace, tie_breaking=ties)
        model(make_input(8, 6)).sum().add(jk.penalty(model)).backward()
        grads.append([p.grad for p in model.parameters()])
    for grad, expected in zip(*grads, strict=True):
        torch.testing.assert_close(grad, expected)
    layer = jk.JumpstartReLU(inplace=True, tie_breaking=ties)
    x = make_input(3, 4)
    assert layer(x) is x and (x >= 0).all()
    with pytest.raises(RuntimeError, match="leaf Variable"):
        layer(make_input(3, 4).requires_grad_())
    layer.eval()
    y = make_input(3, 4)
    assert layer(y) is y and (y >= 0).all()


@pytest.mark.parametrize("size", ((5, 3), (33, 4), (64, 17), (3, 5, 7, 7), (2, 3, 2, 2)), ids=str)
@pytest.mark.parametrize("broken", (False, True), ids=("finite", "nan"))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "view"))
def test_inplace_is_out_of_place(size, broken, layout):
    x = make_input(*size)
    if broken:
        x.view(-1)[:4] = torch.tensor([1.0, -torch.nan, 2.0, torch.nan])
    if layout == "channels_last":
        if x.dim() != 4:
            pytest.skip("channels_last is a layout of images")
        x = x.to(memory_format=torch.channels_last)
    results = []
    for inplace in (False, True):
        leaf = x.clone().requires_grad_()
        hidden = leaf * 1
        layer = jk.JumpstartReLU(inplace=inplace)
        output = layer(hidden[:] if layout == "view" else hidden)
        assert (output.data_ptr() == hidden.data_ptr()) == inplace
        (output.square().sum() + jk.penalty(layer)).backward()
        results.append((output.detach(), leaf.grad))
    for value, expected in zip(*results, strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=0, equal_nan=True)


def test_inplace_takes_no_memory_but_for_mask_and_statistics():
    if backends.select(torch.empty(0)) != "native":
        pytest.skip("without the compiled backend the output is copied over the input")
    hidden = (make_input(256, 1024).requires_grad_() * 1).relu() - 0.5
    layer = jk.JumpstartReLU(inplace=True)
    with torch.profiler.profile(profile_memory=True) as profile:
        layer(hidden)
    events = profile.profiler.kineto_results.events()
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    assert 0 < sum(size for size in sizes if size > 0) < hidden.nbytes / 8


def test_state_dicts_fit_both_ways():
    jumpstart, plain = make_model(), make_model(nn.ReLU)
    assert list(jumpstart.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(jumpstart.state_dict())
    jumpstart.load_state_dict(plain.state_dict())
    assert not jk.JumpstartReLU().state_dict() and not list(jk.JumpstartReLU().buffers())


@pytest.mark.parametrize("duplicate", (copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))))
def test_copies_leave_the_records_behind(duplicate):
    model = make_model(margin=0.5, points="position", inplace=True)
    x = make_input(4, 6)
    expected = model(x)
    twin = duplicate(model)
    assert count(model) == 2 and count(twin) == 0
    assert repr(twin) == repr(model) and torch.equal(twin(x), expected)
    assert count(twin) == 2 and count(model) == 2
    assert torch.equal(jk.penalty(twin), jk.penalty(model))


def test_repr():
    assert repr(jk.JumpstartReLU()) == (
        "JumpstartReLU(unit_dim=1, points='sample', margin=1.0, tie_breaking='single')"
    )
    layer = jk.JumpstartReLU(True, unit_dim=-1, points="position", margin=2, tie_breaking="random")
    assert eval(repr(layer), {"JumpstartReLU": jk.JumpstartReLU}).__dict__.keys() == layer.__dict__.keys()
    assert "inplace=True" in repr(layer) and "margin=2.0" in repr(layer)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"unit_dim": "1"}, TypeError, "unit_dim must be an int, got str"),
        ({"unit_dim": True}, TypeError, "unit_dim must be an int, got bool"),
        ({"points": "pixel"}, ValueError, "points must be one of"),
        ({"margin": -1.0}, ValueError, "margin must be finite and not negative"),
        ({"tie_breaking": "first"}, ValueError, "tie_breaking must be one of"),
    ],
)
def test_bad_options_are_errors_at_construction(options, error, text):
    with pytest.raises(error, match=text):
        jk.JumpstartReLU(**options)


def test_bad_input_is_an_error_and_records_nothing():
    layer = jk.JumpstartReLU(unit_dim=2)
    with pytest.raises(ValueError, match="unit_dim must be in"):
        layer(make_input(2, 3))
    assert count(layer) == 0


def test_unclaimed_records_warn_once():
    layer, x = jk.JumpstartReLU(), torch.ones(1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(UNCLAIMED_WARNING - 1):
            layer(x)
    with pytest.warns(UserWarning, match=f"{UNCLAIMED_WARNING} forwards that no penalty"):
        layer(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)


@pytest.mark.parametrize("use_reentrant", (False, True))
def test_checkpointing_records_once(use_reentrant):
    grads = []
    for checkpointed in (False, True):
        model = make_model()
        x = make_input(8, 6).requires_grad_()
        output = checkpoint(model, x, use_reentrant=use_reentrant) if checkpointed else model(x)
        if use_reentrant and checkpointed:
            # Its first forward runs without grad: there is nothing to record.
            assert count(model) == 0
            return
        assert count(model) == 2
        (output.square().sum() + jk.penalty(model)).backward()
        assert count(model) == 0
        grads.append([x.grad, *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_watchers_see_every_forward():
    layer, seen = jk.JumpstartReLU(), []
    layer._watchers.append(seen.append)
    x = make_input(4, 3, 2)
    with torch.no_grad():
        layer.eval()(x)
    layer.train()(x.requires_grad_())
    assert len(seen) == 2 and count(layer) == 1
    for extrema in seen:
        assert isinstance(extrema, LayerExtrema) and not any(e.requires_grad for e in extrema)
        assert torch.equal(extrema.unit_max, x.detach().amax((0, 2)))
        assert torch.equal(extrema.point_min, x.detach().amin((1, 2)))


def test_empty_batch():
    model = make_model()
    output = model(torch.empty(0, 6))
    assert output.shape == (0, 3)
    (output.sum() + jk.penalty(model)).backward()
    assert all((p.grad == 0).all() for p in model.parameters())


class Fusion(nn.Module):
    """ReLUs of tensors without units: weights of a fusion, a hinge, a scalar."""

    def __init__(self):
        super().__init__()
        self.weights, self.relu = nn.Parameter(torch.tensor([1.0, -0.5])), nn.ReLU()
        self.left, self.right = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x):
        weights = self.relu(self.weights)
        hidden = torch.relu(self.left(x) * weights[0] + self.right(x) * weights[1])
        return hidden + F.relu(1 - hidden.sum(1))[:, None] + F.relu(hidden.sum())


@pytest.mark.parametrize("compiled", (False, True), ids=("eager", "compiled"))
def test_tensors_without_units_are_plain_relu_with_one_warning(compiled):
    torch.manual_seed(0)
    model = Fusion()
    x = make_input(5, 6)
    expected = model(x)
    expected.sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    jk.replace_relu(model).zero_grad()
    torch._dynamo.reset()
    run = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            output = run(x)
    for name, dim in (("relu", 1), ("jumpstart_relu_1", 1), ("jumpstart_relu_2", 0)):
        told = [w for w in caught if f"the layer {name!r} got a {dim}-D tensor" in str(w.message)]
        assert len(told) == 1
    assert torch.equal(output, expected)
    output.sum().backward()
    assert all(map(torch.equal, [parameter.grad for parameter in model.parameters()], gradients))
    assert count(model) == 3 and count(model.jumpstart_relu_0) == 3
    assert jk.penalty(model).isfinite()


def test_tensors_without_units_in_eval_and_watched():
    model = jk.replace_relu(Fusion())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.eval()(make_input(5, 6))
    with pytest.warns(UserWarning, match="has no units"):
        usage = jk.unit_usage(model, [make_input(5, 6)])
    assert list(usage.layers) == ["jumpstart_relu_0"]


@pytest.mark.parametrize("inplace", (False, True), ids=("new", "inplace"))
@pytest.mark.parametrize("ties", ("single", "average"))
def test_unbatched_input_is_a_batch_of_one(ties, inplace):
    x = make_input(3, 4, 5)
    layer = jk.JumpstartReLU(inplace, unit_dim=-3, tie_breaking=ties)
    results = []
    for shape in (x.shape, (1, *x.shape)):
        leaf = x.clone().view(shape).requires_grad_()
        hidden = leaf * 1
        output = layer(hidden)
        assert output.shape == shape and (output is hidden) == inplace
        (record,) = unwind(layer._records)
        assert (record.units, record.points) == (3, 1)
        (output.sin().sum() + jk.penalty(layer)).backward()
        results.append((output.detach().flatten(), leaf.grad.flatten()))
    for value, expected in zip(*results, strict=True):
        assert torch.equal(value, expected)


def test_unbatched_input_is_watched_as_a_batch_of_one():
    layer, seen = jk.JumpstartReLU(unit_dim=-3), []
    layer._watchers.append(seen.append)
    layer.eval()(make_input(3, 4, 5))
    assert seen[0].unit_max.shape == (3,) and seen[0].point_max.shape == (1,)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("layout", (torch.sparse_coo, torch.sparse_csr))
def test_sparse_tensors_are_named(layout):
    x = torch.eye(3).to_sparse(layout=layout)
    with pytest.raises(TypeError, match=f"x must be a dense tensor .*, got {layout}"):
        jk.JumpstartReLU()(x)
