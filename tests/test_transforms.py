"""``torch.func`` and forward-mode differentiation: as with ``nn.ReLU``, and with the penalty inside."""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap

import jumpstart_kernels as jk

REDUCTIONS = ("balanced", "mean", "sum", "norm", "squared")


def make_model(layer=jk.JumpstartReLU, seed=0, **options):
    torch.manual_seed(seed)
    layers = nn.Linear(6, 5), layer(**options), nn.Linear(5, 4), layer(**options), nn.Linear(4, 3)
    return nn.Sequential(*layers).double()


def make_x():
    return torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def parameters_of(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def score(model, parameters, x):
    return functional_call(model, parameters, (x,)).sin().sum()


TRANSFORMS = {
    "grad": lambda model, p, x: grad(lambda q: score(model, q, x))(p),
    "per-sample": lambda model, p, x: vmap(grad(lambda q, x: score(model, q, x[None])), (None, 0))(p, x),
    "vmap": lambda model, p, x: vmap(lambda x: functional_call(model, p, (x[None],)))(x),
    "jvp": lambda model, p, x: jvp(lambda q: score(model, q, x), (p,), (p,)),
    "vjp": lambda model, p, x: vjp(lambda q: score(model, q, x), p)[1](torch.ones((), dtype=x.dtype)),
    "jacrev": lambda model, p, x: jacrev(lambda x: functional_call(model, p, (x,)))(x),
    "jacfwd": lambda model, p, x: jacfwd(lambda x: functional_call(model, p, (x,)))(x),
    "hessian": lambda model, p, x: hessian(lambda x: score(model, p, x))(x),
}


@pytest.mark.parametrize("inplace", (False, True), ids=("new", "inplace"))
@pytest.mark.parametrize("training", (True, False), ids=("train", "eval"))
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_are_those_of_relu(transform, training, inplace):
    models = [make_model(layer, inplace=inplace).train(training) for layer in (jk.JumpstartReLU, nn.ReLU)]
    results = [TRANSFORMS[transform](model, parameters_of(model), make_x()) for model in models]
    actual, expected = (torch.utils._pytree.tree_leaves(result) for result in results)
    assert len(actual) > 0
    for value, other in zip(actual, expected, strict=True):
        assert torch.equal(value, other)


@pytest.mark.parametrize("training", (True, False), ids=("train", "eval"))
def test_forward_mode_is_that_of_relu(training):
    x, tangents = make_x(), []
    for layer in (jk.JumpstartReLU, nn.ReLU):
        with forward_ad.dual_level():
            output = make_model(layer).train(training)(forward_ad.make_dual(x, x.cos()))
            tangents.append(forward_ad.unpack_dual(output).tangent.clone())
    assert tangents[0].any() and torch.equal(*tangents)


@pytest.mark.parametrize("ties", ("single", "average"))
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_penalty_inside_is_that_of_autograd(reduction, ties):
    model, x = make_model(tie_breaking=ties), make_x()
    x[1] = x[0]  # ties
    parameters = parameters_of(model)

    def loss(parameters, x):
        return score(model, parameters, x) + jk.penalty(model, reduction=reduction)

    def plain_loss(x):
        return model(x).sin().sum() + jk.penalty(model, reduction=reduction)

    expected = gradient(model, plain_loss(x))
    actual = grad(loss)(parameters, x)
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name])
    value, slope = jvp(lambda p: loss(p, x), (parameters,), (parameters,))
    torch.testing.assert_close(value, plain_loss(x).detach())
    torch.testing.assert_close(slope, sum((expected[name] * parameters[name]).sum() for name in expected))

    per_sample = vmap(grad(lambda p, x: loss(p, x[None])), (None, 0))(parameters, x)
    for i, sample in enumerate(x):
        one = gradient(model, plain_loss(sample[None]))
        for name in one:
            torch.testing.assert_close(per_sample[name][i], one[name])
    second = hessian(lambda x: loss(parameters, x))(x)
    torch.testing.assert_close(second, torch.autograd.functional.hessian(plain_loss, x))


def test_gradient_of_the_penalty_is_its_finite_difference():
    model = make_model()
    parameters = parameters_of(model)

    def value(weight):
        functional_call(model, {**parameters, "0.weight": weight}, (make_x(),))
        return jk.penalty(model, reduction="sum")

    weight, step = parameters["0.weight"], 1e-6
    slope = grad(value)(weight)
    assert slope.any()
    for place in ((0, 0), (3, 5), (4, 2)):
        shift = torch.zeros_like(weight)
        shift[place] = step
        difference = (value(weight + shift) - value(weight - shift)) / (2 * step)
        torch.testing.assert_close(slope[place], difference.detach(), rtol=1e-5, atol=1e-7)


def test_random_ties_inside():
    model, x = make_model(tie_breaking="random"), torch.zeros(8, 6, dtype=torch.float64)

    def loss(parameters):
        return score(model, parameters, x) + jk.penalty(model)

    torch.manual_seed(3)
    actual = grad(loss)(parameters_of(model))
    torch.manual_seed(3)
    expected = gradient(model, score(model, dict(model.named_parameters()), x) + jk.penalty(model))
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name])


@pytest.mark.parametrize("ties", ("single", "average"))
def test_infinite_slack_has_no_nan_gradient(ties):
    x = torch.tensor([[-torch.inf, 1.0], [-torch.inf, -2.0]], dtype=torch.float64)
    layer = jk.JumpstartReLU(tie_breaking=ties)
    assert not grad(lambda x: layer(x).sum() + jk.penalty(layer))(x).isnan().any()
    x.requires_grad_()
    (layer(x).sum() + jk.penalty(layer)).backward()
    assert not x.grad.isnan().any()


def test_ensemble_has_a_penalty_of_each_model():
    models = [make_model(seed=seed) for seed in range(3)]
    parameters, buffers = stack_module_state(models)
    template, x = make_model(), make_x()

    def run(parameters, buffers):
        output = functional_call(template, (parameters, buffers), (x,))
        return output.sin().sum() + jk.penalty(template)

    losses = vmap(run)(parameters, buffers)
    expected = []
    for model in models:
        expected.append(model(x).sin().sum() + jk.penalty(model))
    torch.testing.assert_close(losses, torch.stack(expected))
    losses.sum().backward()
    torch.stack(expected).sum().backward()
    for name, stacked in parameters.items():
        each = [dict(model.named_parameters())[name].grad for model in models]
        torch.testing.assert_close(stacked.grad, torch.stack(each))


@pytest.mark.parametrize("transform", ("grad", "per-sample", "vmap"))
def test_what_a_transform_leaves_behind_is_no_record(transform):
    model, x = make_model(), make_x()
    TRANSFORMS[transform](model, parameters_of(model), x)
    with pytest.raises(RuntimeError, match="call it inside the transformed function"):
        jk.penalty(model)
    TRANSFORMS[transform](model, parameters_of(model), x)
    model(x)
    actual = jk.penalty(model)
    model(x)
    assert torch.equal(actual, jk.penalty(model))


def test_transforms_without_a_penalty_do_not_pile_up():
    model, x = make_model(), make_x()
    for _ in range(5):
        TRANSFORMS["grad"](model, parameters_of(model), x)
    assert model[1]._records[1] is None  # of the last alone


@pytest.mark.parametrize("compiler", ("eager", "aot_eager"))
def test_compiled(compiler):
    model, x = make_model(), make_x()
    parameters = parameters_of(model)

    def loss(parameters):
        return score(model, parameters, x) + jk.penalty(model)

    torch._dynamo.reset()
    actual, expected = torch.compile(grad(loss), backend=compiler)(parameters), grad(loss)(parameters)
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name])


def test_injection_inside():
    model, x = make_model(), make_x()
    parameters = parameters_of(model)

    def per_sample(loss):
        return vmap(grad(loss), (None, 0))(parameters, x)

    expected = per_sample(
        lambda p, x: score(model, p, x[None]) + 0.5 * jk.penalty(model, reduction="squared")
    )
    with jk.inject_penalty(model, 0.5, reduction="squared"):
        actual = per_sample(lambda p, x: score(model, p, x[None]))
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name])


def test_watching_inside_is_an_error():
    model, x = make_model().eval(), make_x()
    with (
        jk.UnitUsage().watch(model),
        pytest.raises(RuntimeError, match="cannot be watched inside a torch.func"),
    ):
        vmap(lambda x: functional_call(model, parameters_of(model), (x[None],)))(x)
