"""The stateless API: shapes, tie rules, ``inplace``, errors."""

import math

import pytest
import torch
import torch.nn.functional as F

from jumpstart_kernels.functional import jumpstart_relu, jumpstart_stats

TIES = ("single", "average", "random")


def make_input(*size, device="cpu", dtype=torch.float32):
    generator = torch.Generator().manual_seed(sum(size))
    return torch.randn(size, generator=generator).to(device, dtype)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize(
    ("size", "unit_dim", "points", "point_shape"),
    [
        ((5, 3), 1, "sample", (5,)),
        ((5, 3), -1, "position", (5,)),
        ((5, 7, 3), -1, "sample", (5,)),
        ((5, 7, 3), 2, "position", (5, 7)),
        ((5, 3, 4, 2), 1, "sample", (5,)),
        ((5, 3, 4, 2), -3, "position", (5, 4, 2)),
        ((3, 5), 0, "position", (5,)),
        ((4,), 0, "position", ()),
        ((0, 3), 1, "sample", (0,)),
        ((0, 3, 2), 1, "position", (0, 2)),
        ((4, 0), 1, "sample", (4,)),
    ],
)
def test_shapes_and_values(target, size, unit_dim, points, point_shape, ties):
    x = make_input(*size, device=target[1])
    outputs = jumpstart_relu(x, unit_dim=unit_dim, points=points, tie_breaking=ties)
    by_unit = [x.select(unit_dim, c) for c in range(x.shape[unit_dim])]
    assert torch.equal(outputs.output, F.relu(x))
    assert outputs.unit_max.shape == outputs.unit_min.shape == (x.shape[unit_dim],)
    assert outputs.point_max.shape == outputs.point_min.shape == point_shape
    assert outputs.slack_sums.shape == (2, 5)
    if x.numel() == 0:
        assert (outputs.unit_max == -math.inf).all() and (outputs.point_min == math.inf).all()
        assert (outputs.slack_sums == 0).all()
        return
    assert outputs.unit_max.tolist() == [unit.max().item() for unit in by_unit]
    assert outputs.unit_min.tolist() == [unit.min().item() for unit in by_unit]
    rows = x.flatten(1) if points == "sample" else x.movedim(unit_dim, -1)
    assert torch.equal(outputs.point_max, rows.amax(-1)) and torch.equal(outputs.point_min, rows.amin(-1))
    positive, negative = F.relu(1 - outputs.unit_max), F.relu(1 + outputs.unit_min)
    sums = [
        positive.sum(),
        negative.sum(),
        positive.square().sum(),
        negative.square().sum(),
        positive @ negative,
    ]
    torch.testing.assert_close(outputs.slack_sums[0], torch.stack(sums))


@pytest.mark.parametrize("ties", TIES)
def test_stats_are_those_of_the_relu(target, ties):
    x = make_input(4, 3, 5, device=target[1]).requires_grad_()
    y = x.detach().clone().requires_grad_()
    with_relu = jumpstart_relu(x, margin=0.5, points="position", tie_breaking=ties)
    stats = jumpstart_stats(y, margin=0.5, points="position", tie_breaking=ties)
    assert stats._fields == with_relu._fields[1:]
    for one, other in zip(stats, with_relu[1:], strict=True):
        assert torch.equal(one, other)
    grads = [
        torch.autograd.grad(
            [outputs.slack_sums.sum(), outputs.unit_max.sum(), outputs.point_min.sum()], inputs
        )[0]
        for outputs, inputs in ((with_relu, x), (stats, y))
    ]
    assert torch.equal(*grads)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.float16, torch.bfloat16), ids=str)
def test_dtypes(target, dtype):
    x = make_input(4, 3, device=target[1], dtype=dtype).requires_grad_()
    outputs = jumpstart_relu(x)
    statistics = torch.float64 if dtype == torch.float64 else torch.float32
    assert outputs.output.dtype == dtype and all(s.dtype == statistics for s in outputs[1:])
    sum(s.sum() for s in outputs).backward()
    assert x.grad.dtype == dtype


def test_autocast_keeps_the_dtype_that_comes_in(target):
    _, device = target
    x = make_input(4, 3, device=device)
    with torch.autocast(device, torch.bfloat16):
        outputs, low = jumpstart_relu(x), jumpstart_relu(x.bfloat16())
    assert outputs.output.dtype == torch.float32 and low.output.dtype == torch.bfloat16
    assert outputs.slack_sums.dtype == low.slack_sums.dtype == low.unit_max.dtype == torch.float32


def tied_gradient(ties, name, seed=0, device="cpu"):
    """Gradient of an extremum of unit 0 or sample 0, for which rows 0 and 2 and columns 0 and 1 tie."""
    torch.manual_seed(seed)
    x = torch.tensor([[0.5, 0.5, -2.0], [0.25, -2.0, 3.0], [0.5, 1.0, 1.0]], device=device)
    x[:, 0] *= -1 if name.endswith("min") else 1
    x[0] *= -1 if name == "point_min" else 1
    x[0, 0] = -0.5 if name.endswith("min") else 0.5
    x = x.requires_grad_()
    outputs = jumpstart_relu(x, tie_breaking=ties)
    (grad,) = torch.autograd.grad(getattr(outputs, name)[0], x)
    return grad.tolist()


@pytest.mark.parametrize("name", ("unit_max", "unit_min"))
def test_tie_rules(target, name):
    device = target[1]
    nothing = [0.0, 0.0, 0.0]
    first, last = [1.0, 0.0, 0.0], [[0.0] * 3, [0.0] * 3, [1.0, 0.0, 0.0]]
    assert tied_gradient("single", name, device=device) == [first, nothing, nothing]
    assert tied_gradient("average", name, device=device) == [[0.5, 0.0, 0.0], nothing, [0.5, 0.0, 0.0]]
    drawn = [tied_gradient("random", name, seed, device) for seed in range(40)]
    assert all(grad in ([first, nothing, nothing], last) for grad in drawn)
    assert 8 <= drawn.count(last) <= 32  # a fair coin stays inside with probability 0.9999
    assert tied_gradient("random", name, 7, device) == tied_gradient("random", name, 7, device)


def test_random_ties_reach_every_element_evenly():
    torch.manual_seed(0)
    counts = torch.zeros(4)
    for _ in range(400):
        x = torch.tensor([[1.0], [2.0], [2.0], [2.0]], requires_grad=True)
        jumpstart_relu(x, tie_breaking="random").unit_max.sum().backward()
        counts += x.grad[:, 0]
    assert counts[0] == 0 and counts.sum() == 400
    assert ((counts[1:] - 400 / 3).abs() < 4.5 * (400 * 2 / 9) ** 0.5).all()  # 4.5 standard deviations


def test_average_ties_have_the_precision_of_the_input():
    x = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
    jumpstart_relu(x, tie_breaking="average").unit_max.sum().backward()
    assert x.grad.flatten().tolist() == [1 / 3] * 3


@pytest.mark.parametrize("ties", ("average", "random"))
def test_tie_rules_with_nan_and_infinity(ties):
    x = torch.tensor([[math.nan, -math.inf], [1.0, -math.inf]], requires_grad=True)
    outputs = jumpstart_relu(x, tie_breaking=ties)
    assert outputs.unit_max.isnan().tolist() == [True, False] and outputs.unit_max[1] == -math.inf
    (grad,) = torch.autograd.grad(outputs.unit_max[1], x)
    assert grad[:, 1].tolist() in ([0.5, 0.5], [1.0, 0.0], [0.0, 1.0])


@pytest.mark.parametrize("ties", TIES)
def test_gradcheck_where_nothing_ties(ties):
    x = make_input(3, 4, dtype=torch.float64).requires_grad_()

    def run(x):
        return tuple(jumpstart_relu(x, tie_breaking=ties))

    assert torch.autograd.gradcheck(run, x) and torch.autograd.gradgradcheck(run, x)


@pytest.mark.parametrize("ties", TIES)
def test_inplace(target, ties):
    x = make_input(5, 3, 2, device=target[1]).requires_grad_()
    y = x.detach().clone().requires_grad_()
    grads = []
    for leaf, inplace in ((x, False), (y, True)):
        hidden = leaf * 2
        outputs = jumpstart_relu(hidden, tie_breaking=ties, inplace=inplace)
        assert (outputs.output.data_ptr() == hidden.data_ptr()) == inplace
        assert torch.equal(outputs.output, F.relu(leaf * 2))
        loss = outputs.output.square().sum() + outputs.slack_sums.sum() + outputs.unit_max.sum()
        grads.append(torch.autograd.grad(loss, leaf)[0])
    assert torch.equal(*grads)


def test_inplace_errors_as_relu_does(target):
    leaf = make_input(5, 3, device=target[1]).requires_grad_()
    expanded = make_input(1, 3, device=target[1]).expand(5, 3)
    for x in (leaf, expanded):
        with pytest.raises(RuntimeError) as expected:
            F.relu(x, inplace=True)
        with pytest.raises(RuntimeError) as raised:
            jumpstart_relu(x, inplace=True)
        assert str(raised.value)[:40] == str(expected.value)[:40]


def test_inplace_on_what_backward_needs_is_an_error(target):
    leaf = make_input(5, 3, device=target[1]).requires_grad_()
    hidden = leaf.exp()  # whose backward reads its output
    outputs = jumpstart_relu(hidden, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.output.sum().backward()


@pytest.mark.parametrize(
    ("ties", "compiler"), [(t, "aot_eager") for t in TIES[:2]] + [("single", "inductor")]
)
def test_compiled_equals_eager(target, ties, compiler):
    torch._dynamo.reset()

    def run(x):
        outputs = jumpstart_relu(x * 2, unit_dim=-1, points="position", tie_breaking=ties)
        return (
            outputs.output.sin().sum()
            + outputs.slack_sums.sum()
            + (outputs.unit_max - outputs.point_min[0, 0]).sum()
        )

    x = make_input(4, 2, 3, device=target[1]).requires_grad_()
    expected = run(x)
    actual = torch.compile(run, fullgraph=True, backend=compiler)(x)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(torch.autograd.grad(actual, x), torch.autograd.grad(expected, x))


def test_more_than_two_to_the_31_elements_on_meta():
    x = torch.empty(2**17, 2**15, device="meta", dtype=torch.bfloat16)
    outputs = jumpstart_relu(x)
    assert outputs.output.shape == x.shape and outputs.unit_max.shape == (2**15,)
    assert jumpstart_relu(x, points="position", unit_dim=0).point_max.shape == (2**15,)


X = torch.ones(2, 3)
ERRORS = [
    (
        (torch.ones(2, 3, dtype=torch.int32),),
        {},
        TypeError,
        "x must be float32, float64, float16 or bfloat16, got torch.int32",
    ),
    ((torch.ones(2, 3, dtype=torch.complex64),), {}, TypeError, "x must be .* got torch.complex64"),
    (([1.0, 2.0],), {}, TypeError, "x must be a torch.Tensor, got list"),
    (
        (torch.tensor(1.0),),
        {"unit_dim": 0},
        ValueError,
        "x must have a unit dimension, got a 0-dim tensor",
    ),
    ((X,), {"unit_dim": 2}, ValueError, r"unit_dim must be in \[-2, 1\] for a 2-D x, got 2"),
    ((X,), {"unit_dim": -3}, ValueError, r"unit_dim must be in \[-2, 1\] for a 2-D x, got -3"),
    ((torch.ones(3),), {}, ValueError, r"unit_dim must be in \[-1, 0\] for a 1-D x, got 1"),
    (
        (X,),
        {"unit_dim": 0},
        ValueError,
        "unit_dim must not be 0 with points='sample': dimension 0 holds the samples",
    ),
    ((X,), {"unit_dim": -2}, ValueError, "unit_dim must not be 0 with points='sample'"),
    ((X,), {"unit_dim": 1.0}, TypeError, "unit_dim must be an int"),
    ((X,), {"points": "pixel"}, ValueError, "points must be one of 'sample', 'position', got 'pixel'"),
    ((X,), {"points": ["sample"]}, ValueError, "points must be one of"),
    (
        (X,),
        {"tie_breaking": "last"},
        ValueError,
        "tie_breaking must be one of 'single', 'average', 'random', got 'last'",
    ),
    ((X,), {"margin": "one"}, TypeError, "margin must be a number, got str"),
    ((X,), {"margin": True}, TypeError, "margin must be a number, got bool"),
    ((X,), {"margin": -1}, ValueError, "margin must be finite and not negative, got -1"),
    ((X,), {"margin": math.nan}, ValueError, "margin must be finite and not negative, got nan"),
    ((X,), {"margin": math.inf}, ValueError, "margin must be finite and not negative, got inf"),
]


@pytest.mark.parametrize("function", (jumpstart_relu, jumpstart_stats))
@pytest.mark.parametrize(("arguments", "options", "error", "text"), ERRORS)
def test_errors_name_the_argument(function, arguments, options, error, text):
    with pytest.raises(error, match=text):
        function(*arguments, **options)


@pytest.mark.parametrize("kind", ["sparse", "csr", "mkldnn", "nested"])
def test_tensors_that_are_not_dense_are_named(kind):
    x = torch.randn(4, 3)
    convert = {
        "sparse": x.to_sparse,
        "csr": x.to_sparse_csr,
        "mkldnn": x.to_mkldnn,
        "nested": lambda: torch.nested.nested_tensor([x, x[:2]]),
    }
    with pytest.raises(TypeError, match="x must be a dense tensor"):
        jumpstart_relu(convert[kind]())


@pytest.mark.parametrize("tie_breaking", ["single", "average", "random"])
def test_an_empty_batch_has_gradient_zero_under_every_tie_rule(tie_breaking):
    x = torch.zeros((0, 3), requires_grad=True)
    jumpstart_relu(x, tie_breaking=tie_breaking).slack_sums.sum().backward()
    assert x.grad.shape == (0, 3)
