"""The compared implementations: correct ones pass the check, wrong ones do not."""

import weakref
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from jumpstart_kernels.bench import peers
from jumpstart_kernels.bench.cases import (
    DTYPES,
    HEALTHS,
    Case,
    add_bias,
    make_bias,
    make_gradient,
    make_input,
)
from jumpstart_kernels.bench.check import Check
from jumpstart_kernels.bench.linked_peers import LINKED
from jumpstart_kernels.bench.memory import peak_bytes, saved_bytes
from jumpstart_kernels.bench.peer import PENALTY_WEIGHT, Peer
from jumpstart_kernels.bench.peers import make_peers, nested_definition, plain_peer
from jumpstart_kernels.nn import LAYERS
from jumpstart_kernels.ops import backends

CPU = torch.device("cpu")
composite, first_definition = peers.composite("relu"), peers.first_definition("relu")
BACKENDS = [name for name in ("native", "reference") if backends.unavailable(name, "cpu") is None]


@pytest.mark.parametrize("bias", (False, True))
@pytest.mark.parametrize("health", HEALTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape, layout",
    [
        ((64, 32), "contiguous"),
        ((5, 8, 9), "contiguous"),
        ((6, 8, 5, 7), "contiguous"),
        ((6, 8, 5, 7), "channels_last"),
        ((3, 4, 2, 3, 5), "channels_last"),
    ],
    ids=str,
)
def test_right_peers_pass_the_check(health, dtype, shape, layout, bias, authors):
    torch.manual_seed(0)
    case = Case(shape, dtype, layout, dead=HEALTHS[health].dead, linear=HEALTHS[health].linear, bias=bias)
    names = ["jumpstart", "composite", *([] if bias else peers.ONLY_RELU)]
    check = Check(case, CPU)
    for peer in make_peers(names, BACKENDS, case, CPU, authors):
        assert (peer.name, check.failure(peer)) == (peer.name, None)


@pytest.mark.parametrize("bias", (False, True))
@pytest.mark.parametrize("activation", LAYERS)
def test_layers_of_every_activation_pass_the_check(activation, bias):
    torch.manual_seed(0)
    for dtype in DTYPES:
        case = Case((64, 32), dtype, activation=activation, bias=bias)
        check = Check(case, CPU)
        plain, *others = make_peers(["jumpstart", "composite"], BACKENDS, case, CPU)
        assert plain.name == "bias + " * bias + f"nn.{LAYERS[activation].plain.__name__}"
        for peer in (plain, *others):
            assert (peer.name, check.failure(peer)) == (peer.name, None)


@pytest.mark.parametrize("activation", LINKED)
def test_linked_peers_pass_the_check(monkeypatch, activation):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # which compiles fast
    torch.manual_seed(0)
    for dtype, layout in (*((dtype, "contiguous") for dtype in DTYPES), ("float32", "channels_last")):
        case = Case((6, 8, 5, 7), dtype, layout, activation=activation, linear=0.1, dead=0.1)
        check = Check(case, CPU)
        found = make_peers(("linked", "jumpstart", "composite", *peers.COMPILED), BACKENDS, case, CPU)
        assert len(found) == 4 + 2 * len(BACKENDS) and found[0].name.startswith("cat(")
        for peer in found:
            assert (peer.name, check.failure(peer)) == (peer.name, None)


def test_compiled_peers_add_the_bias(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # which compiles fast
    torch.manual_seed(0)
    case = Case((6, 8, 5), bias=True)
    check = Check(case, CPU)
    _, *compiled = make_peers(peers.COMPILED, [], case, CPU)
    assert [peer.name for peer in compiled] == ["plain PyTorch, compiled", "bias + nn.ReLU, compiled"]
    for peer in compiled:
        assert check.failure(peer) is None


WRONG = {
    "wrong output": lambda x: (F.relu(x) + (x == x.max()) * 0.1, composite(x)[1]),
    "wrong output, nan": lambda x: (F.relu(x) * torch.nan, composite(x)[1]),
    "wrong penalty": lambda x: (F.relu(x), composite(x)[1] + 0.1),
    "wrong gradient, no penalty's": lambda x: (F.relu(x), composite(x)[1].detach() + 0 * x.sum()),
    "wrong gradient, a penalty's half": lambda x: (
        F.relu(x),
        composite(x)[1] / 2 + composite(x.detach())[1] / 2,
    ),
    "wrong gradient, at zero": lambda x: (torch.where(x >= 0, x, 0 * x), composite(x)[1]),
    "does not run: KeyError": lambda x: {}["output"],
}


@pytest.mark.parametrize("dead", (0.0, 1.0))
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_peers_are_found(wrong, dtype, dead):
    torch.manual_seed(0)
    check = Check(Case((32, 16), dtype, dead=dead), CPU)
    check.x[5, 5] = 0
    failure = check.failure(Peer("wrong", WRONG[wrong], first_definition))
    assert failure is not None and failure.startswith(wrong.partition(",")[0])


class ChangedGradient(torch.autograd.Function):
    """The bias, with a wrong gradient."""

    @staticmethod
    def forward(ctx, bias, change):
        ctx.change = change
        return bias.view_as(bias)

    @staticmethod
    def backward(ctx, grad):
        return ctx.change(grad.clone()), None


WRONG_GRADIENTS_OF_THE_BIAS = {
    "half of it": lambda grad: grad / 2,
    "none for a unit": lambda grad: grad.index_fill(0, torch.tensor([3]), 0),
    "that of another unit": lambda grad: grad.roll(1),
    "not a number": lambda grad: grad * torch.nan,
}


def wrong_gradient(change):
    return lambda x, bias: composite(add_bias(x, ChangedGradient.apply(bias, change)))


def without_the_penalty(x, bias):
    return F.relu(add_bias(x, bias)), composite(add_bias(x, bias.detach()))[1]


def without_a_sample(x, bias):
    return composite(torch.cat([add_bias(x[:1], bias.detach()), add_bias(x[1:], bias)]))


WRONG_WITH_A_BIAS = {
    **{name: wrong_gradient(change) for name, change in WRONG_GRADIENTS_OF_THE_BIAS.items()},
    "without the penalty's part": without_the_penalty,
    "without a sample": without_a_sample,
}


@pytest.mark.parametrize("shape", [(32, 16), (4, 16, 5, 5)], ids=str)
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
@pytest.mark.parametrize("wrong", WRONG_WITH_A_BIAS)
def test_wrong_gradients_of_the_bias_are_found(wrong, dtype, shape):
    torch.manual_seed(0)
    case = Case(shape, dtype, bias=True)
    check, bias = Check(case, CPU), peers.new_bias(case, CPU)
    for forward, failure in (
        (lambda x: composite(add_bias(x, bias)), None),
        (lambda x: WRONG_WITH_A_BIAS[wrong](x, bias), "wrong gradient of the bias: "),
    ):
        found = check.failure(Peer("peer", forward, composite, bias=bias))
        assert found is None if failure is None else found.startswith(failure)


def test_a_gradient_of_the_bias_in_a_narrower_dtype_is_found():
    torch.manual_seed(0)
    case = Case((64, 64, 56, 56), bias=True)
    check, bias = Check(case, CPU), peers.new_bias(case, CPU)
    rounded = wrong_gradient(lambda grad: grad.bfloat16().float())
    found = check.failure(Peer("peer", lambda x: rounded(x, bias), composite, bias=bias))
    assert found is not None and found.startswith("wrong gradient of the bias: ")


@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_a_bias_that_is_not_added_as_pytorch_does_it_is_found(dtype):
    torch.manual_seed(0)
    case = Case((32, 16), dtype, bias=True)
    check, bias = Check(case, CPU), peers.new_bias(case, CPU)
    other = make_bias(case, CPU).roll(1)
    for forward, failure in {
        lambda x: composite(x): "does not run",  # without a gradient of it
        lambda x: composite(x + bias + bias): "wrong output",
        lambda x: (F.relu(x + bias), composite(x + other + 0 * bias)[1]): "wrong penalty",
    }.items():
        found = check.failure(Peer("peer", forward, composite, bias=bias))
        assert found is not None and found.startswith(failure)


def test_the_jumpstart_layer_adds_the_bias_itself():
    case = Case((4, 3, 5, 5), bias=True)
    (_, peer) = make_peers(["jumpstart"], ["reference"], case, CPU)
    x = make_input(case, CPU)
    assert torch.equal(peer.forward(x)[0], F.relu(add_bias(x, make_bias(case, CPU))))
    assert [parameter is peer.bias for parameter in peer.parameters] == [True]


def test_who_gets_a_tie_is_part_of_the_definition():
    torch.manual_seed(0)
    check = Check(Case((6, 4, 3, 3)), CPU)
    check.x[:, 0] = -1 - torch.rand(6, 3, 3)  # a dead unit, whose maximum is held twice:
    check.x[0, 0, 1, 1] = check.x[1, 0, 0, 0] = -0.5  # first in memory, and first behind the batch
    definitions = (first_definition, nested_definition, composite)
    for definition in definitions:
        for forward in definitions:
            failure = check.failure(Peer("peer", forward, definition))
            assert (failure is None) == (forward is definition)


def test_what_a_forward_keeps():
    case = Case((64, 32))
    x = make_input(case, CPU).requires_grad_()
    relu, jumpstart = make_peers(["jumpstart"], ["reference"], case, CPU)
    assert saved_bytes(relu, x) == 64 * 32 * 4
    assert 64 * 32 / 8 < saved_bytes(jumpstart, x) < 64 * 32 * 4
    twice = Peer("twice", lambda x: (x * x + x.square() + x[:1] * x[1:2],), relu.definition)
    assert saved_bytes(twice, x) == 64 * 32 * 4  # a storage once, its views with it
    assert peak_bytes(lambda: None, CPU) is None


def test_what_a_forward_keeps_is_given_back():
    """A graph kept alive has a node of the input on the wrong stream when the next peer is captured."""

    class Mark:
        pass

    case = Case((64, 32))
    x = make_input(case, CPU).requires_grad_()
    for peer in make_peers(["jumpstart"], ["reference"], case, CPU):
        node, mark = torch.autograd.graph.get_gradient_edge(x).node, Mark()
        node.metadata["mark"] = mark
        alive = weakref.ref(mark)
        saved_bytes(peer, x)
        del node, mark
        assert alive() is None


def test_backward_is_that_of_output_and_penalty():
    case = Case((8, 4), dtype="float64")
    x, grad = make_input(case, CPU).requires_grad_(), make_gradient(case, CPU)
    peer = make_peers(["composite"], [], case, CPU)[1]
    peer.prepare(x)
    for _ in range(2):  # afresh each time
        peer.backward(x, peer.forward(x), grad)
    output, penalty = composite(x)
    (expected,) = torch.autograd.grad((output * grad).sum() + penalty, x)
    torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize("bias", (False, True))
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_step_is_that_of_a_loss_with_the_penalty(dtype, bias, authors):
    torch.manual_seed(0)
    case = Case((8, 4), dtype, bias=bias)
    x, grad = make_input(case, CPU).requires_grad_(), make_gradient(case, CPU)
    names = ["jumpstart", "composite", *([] if bias else peers.ONLY_RELU)]
    for peer in make_peers(names, BACKENDS, case, CPU, authors):
        with peer.active():
            output, *penalties = peer.forward(x)
            loss = (output * grad).sum(dtype=torch.float64) + PENALTY_WEIGHT * sum(penalties)
            leaves = [x, *peer.parameters]
            assert len(leaves) > 1 or not bias
            expected = torch.autograd.grad(loss, leaves)
            for _ in range(2):  # afresh each time
                peer.step(x, grad)
        for leaf, of_loss in zip(leaves, expected, strict=True):
            torch.testing.assert_close(leaf.grad, of_loss)


def test_relu_has_the_bytes_that_pytorch_moves():
    assert plain_peer(Case((2, 3)), CPU).model_bytes(10, 4) == (80, 120)
    assert make_peers(["composite"], [], Case((2, 3)), CPU)[1].model_bytes(8, 2) == (33, 33)
    assert make_peers(["batch_norm"], [], Case((2, 3)), CPU)[1].model_bytes(8, 2) is None
    plain, jumpstart, compiled = make_peers(
        ["jumpstart", "compiled_plain"], ["reference"], Case((2, 3), bias=True), CPU
    )
    assert plain.model_bytes(8, 2) == (64, 64)  # sum, ReLU; gradient of the ReLU and of the bias
    assert jumpstart.model_bytes(8, 2) == (33, 33)
    assert compiled.model_bytes(8, 2) == (32, 48)
