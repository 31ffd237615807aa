"""The penalty against its definition: all reductions, terms and balances, over several layers."""

import pytest
import torch
from fuzz import definition
from fuzz.definition import KEPT, LayerOptions, PenaltyOptions

import jumpstart_kernels as jk
from jumpstart_kernels.ops.arguments import Record
from jumpstart_kernels.penalties.reduction import REDUCTIONS, TERMS


def define(inputs, reduction, balance, terms):
    """The definition in plain PyTorch, differentiable where no two elements tie."""
    slacks = [definition.jumpstart_activation(x, LayerOptions())[1] for x in inputs]
    return definition.penalty(slacks, PenaltyOptions(reduction, balance, terms))


def make_inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    sizes = ((5, 7), (9, 3), (4, 6, 2, 3))
    inputs = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    for x in inputs:  # dead and linear units and points beside the others
        x[:, 0], x[:, 1], x[0], x[1] = -x[:, 0].abs(), x[:, 1].abs(), -x[0].abs(), x[1].abs()
    return [x.to(dtype).requires_grad_() for x in inputs]


def run(inputs, **options):
    model = torch.nn.ModuleList(jk.JumpstartReLU() for _ in inputs)
    for layer, x in zip(model, inputs, strict=True):
        layer(x)
    return jk.penalty(model, **options)


@pytest.mark.parametrize("terms", KEPT)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_is_the_definition(reduction, terms):
    for balance in (0, 0.3, 0.5, 1.0):
        inputs = make_inputs()
        penalty = run(inputs, reduction=reduction, sign_balance=balance, terms=terms)
        expected = define(inputs, reduction, balance, terms)
        assert penalty.dtype == torch.float64 and penalty.shape == ()
        torch.testing.assert_close(penalty, expected, rtol=1e-13, atol=0)
        # As part of a loss: a penalty whose weights are all zero is a constant.
        losses = [value + sum(0 * x.sum() for x in inputs) for value in (penalty, expected)]
        grads, expected_grads = (torch.autograd.grad(loss, inputs) for loss in losses)
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            torch.testing.assert_close(grad, expected_grad, rtol=1e-13, atol=1e-15)


def test_defaults(target):
    inputs = [x.detach().to(target[1]).requires_grad_() for x in make_inputs()]
    torch.testing.assert_close(run(inputs), define(inputs, "balanced", 0.5, "full"))


def test_every_choice_is_tested():
    assert set(TERMS) == set(KEPT) and len(REDUCTIONS) == 5


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
def test_dtypes(dtype):
    inputs = make_inputs(dtype)
    penalty = run(inputs)
    penalty.backward()
    assert penalty.dtype == torch.float32 and all(x.grad.dtype == dtype for x in inputs)
    torch.testing.assert_close(
        penalty.double(), define([x.double() for x in inputs], "balanced", 0.5, "full")
    )


def test_layers_of_different_dtypes():
    inputs = make_inputs()
    mixed = [inputs[0].detach(), inputs[1].detach().float(), inputs[2].detach().bfloat16()]
    mixed = [x.requires_grad_() for x in mixed]
    penalty = run(mixed)
    assert penalty.dtype == torch.float64
    torch.testing.assert_close(
        penalty, define([x.double() for x in mixed], "balanced", 0.5, "full"), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_empty_batch_counts_nothing(reduction):
    empty = torch.empty(0, 4, requires_grad=True)
    penalty = run([empty], reduction=reduction)
    assert penalty.item() == 0
    (penalty * 3).backward()
    assert empty.grad.shape == (0, 4)
    x = make_inputs(torch.float32)[0]
    beside, alone = run([x, empty], reduction=reduction), run([x], reduction=reduction)
    assert torch.equal(beside, alone)
    (grad,) = torch.autograd.grad(beside, x)
    assert grad.isfinite().all() and grad.abs().sum() > 0


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_no_slack_is_zero_with_gradient_zero(reduction):
    x = torch.tensor([[2.0, -2.0], [-3.0, 4.0]], requires_grad=True)
    penalty = run([x], reduction=reduction)
    penalty.backward()
    assert penalty.item() == 0 and torch.equal(x.grad, torch.zeros(2, 2))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_infinite_slack_has_no_nan(reduction):
    x = torch.tensor([[-torch.inf, 2.0], [-torch.inf, -2.0], [-torch.inf, 0.5]], requires_grad=True)
    penalty = run([x], reduction=reduction)
    penalty.backward()
    assert penalty.item() == torch.inf and not x.grad.isnan().any()
    if reduction in ("balanced", "mean", "sum"):
        assert x.grad[0, 0].isfinite() and x.grad[0, 0] < 0  # dead: pushed up


def test_infinite_slack_that_is_left_out():
    x = torch.tensor([[-torch.inf, 2.0], [-torch.inf, -2.0]], requires_grad=True)
    for reduction in REDUCTIONS:
        penalty = run([x], reduction=reduction, terms="all_but_unit_positive")
        (grad,) = torch.autograd.grad(penalty, x)
        assert penalty.isfinite() and grad.isfinite().all()
        assert run([x], reduction=reduction, sign_balance=0).isfinite()


def test_nan_propagates():
    x = torch.tensor([[torch.nan, 1.0], [2.0, -1.0]], requires_grad=True)
    assert run([x]).isnan()


def test_records_are_taken_once_and_kept_when_an_error_is_raised():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), jk.JumpstartReLU())
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    model(x)
    for options in (
        {"reduction": "median"},
        {"terms": "none"},
        {"sign_balance": 2},
        {"sign_balance": "half"},
    ):
        with pytest.raises((TypeError, ValueError)):
            jk.penalty(model, **options)
    first = jk.penalty(model)
    with pytest.raises(RuntimeError, match="has recorded a forward since the last penalty"):
        jk.penalty(model)
    model(x)
    assert torch.equal(jk.penalty(model), first)


def test_two_forwards_count_twice():
    x, y = make_inputs()[0].detach(), make_inputs()[0].detach() * 2
    layer = jk.JumpstartReLU()
    layer(x), layer(y)
    torch.testing.assert_close(jk.penalty(layer), define([x, y], "balanced", 0.5, "full"))


def test_a_wrapper_of_the_model():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), jk.JumpstartReLU())
    wrapped = torch.nn.DataParallel(model, device_ids=[])
    wrapped(torch.ones(2, 3))
    assert jk.penalty(wrapped).requires_grad


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"reduction": "median"},
            ValueError,
            "reduction must be one of 'balanced', 'mean', 'sum', 'norm', 'squared'",
        ),
        ({"terms": "none"}, ValueError, "terms must be one of 'full', 'unit', .*got 'none'"),
        ({"sign_balance": 1.5}, ValueError, r"sign_balance must be in \[0, 1\], got 1.5"),
        ({"sign_balance": float("nan")}, ValueError, r"sign_balance must be in \[0, 1\], got nan"),
        ({"sign_balance": "half"}, TypeError, "sign_balance must be a number, got str"),
        ({"sign_balance": True}, TypeError, "sign_balance must be a number, got bool"),
    ],
)
def test_errors_name_the_argument(options, error, text):
    with pytest.raises(error, match=text):
        run(make_inputs(), **options)


def test_errors_with_nothing_recorded():
    with pytest.raises(
        RuntimeError, match=r"no JumpstartReLU layer: call model = jumpstart_kernels.replace_relu"
    ):
        jk.penalty(torch.nn.Sequential(torch.nn.ReLU()))
    model = jk.JumpstartReLU().eval()
    model(torch.ones(2, 2))
    with pytest.raises(RuntimeError, match=r"training mode \(model.train\(\)\) with grad enabled"):
        jk.penalty(model)
    with torch.no_grad():
        model.train()(torch.ones(2, 2))
    with pytest.raises(RuntimeError, match="recorded a forward"):
        jk.penalty(model)


def test_what_is_no_module_is_named():
    for call in (jk.penalty, jk.clear_records):
        with pytest.raises(TypeError, match="model must be a torch.nn.Module, got Tensor"):
            call(torch.zeros(2))


def test_a_record_that_cannot_be_reduced_does_not_stay():
    relu = jk.JumpstartReLU()
    relu._records = (Record(torch.zeros(3, 3), torch.zeros(2, 2), 1, 1, 1.0), None)
    with pytest.raises(Exception, match=r"shape|index|size"):
        jk.penalty(relu)
    relu(torch.randn(4, 3))
    assert jk.penalty(relu).isfinite()


@pytest.mark.parametrize("inplace", (False, True), ids=("new", "inplace"))
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients_of_a_layer_and_its_penalty(target, reduction, inplace):
    _, device = target
    generator = torch.Generator().manual_seed(0)
    x = (0.3 * torch.randn(5, 4, dtype=torch.float64, generator=generator)).to(device).requires_grad_()

    def loss(x):
        layer = jk.JumpstartReLU(inplace=inplace)
        return layer(x * 1).square().sum() + jk.penalty(layer, reduction=reduction)

    assert torch.autograd.gradcheck(loss, x)
    assert torch.autograd.gradgradcheck(loss, x)
