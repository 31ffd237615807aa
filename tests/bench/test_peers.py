"""The compared implementations: correct ones pass the check, wrong ones do not."""

import weakref

import pytest
import torch
import torch.nn.functional as F

from jumpstart_kernels.bench import peers
from jumpstart_kernels.bench.cases import DTYPES, HEALTHS, Case, make_gradient, make_input
from jumpstart_kernels.bench.check import Check
from jumpstart_kernels.bench.memory import peak_bytes, saved_bytes
from jumpstart_kernels.bench.peers import Peer, make_peers, nested_definition, plain_peer
from jumpstart_kernels.nn import LAYERS
from jumpstart_kernels.ops import backends

CPU = torch.device("cpu")
composite, first_definition = peers.composite("relu"), peers.first_definition("relu")
BACKENDS = [name for name in ("native", "reference") if backends.unavailable(name, "cpu") is None]


@pytest.mark.parametrize("health", HEALTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape, layout",
    [
        ((64, 32), "contiguous"),
        ((6, 8, 5, 7), "contiguous"),
        ((6, 8, 5, 7), "channels_last"),
        ((3, 4, 2, 3, 5), "channels_last"),
    ],
    ids=str,
)
def test_right_peers_pass_the_check(health, dtype, shape, layout, authors):
    torch.manual_seed(0)
    case = Case(shape, dtype, layout, dead=HEALTHS[health].dead, linear=HEALTHS[health].linear)
    names = ["jumpstart", "composite", "batch_norm", "authors"]
    check = Check(case, CPU)
    for peer in make_peers(names, BACKENDS, case, CPU, authors):
        assert (peer.name, check.failure(peer)) == (peer.name, None)


@pytest.mark.parametrize("activation", LAYERS)
def test_layers_of_every_activation_pass_the_check(activation):
    torch.manual_seed(0)
    for dtype in DTYPES:
        case = Case((64, 32), dtype, activation=activation)
        check = Check(case, CPU)
        plain, *others = make_peers(["jumpstart", "composite"], BACKENDS, case, CPU)
        assert plain.name == f"nn.{LAYERS[activation].plain.__name__}"
        for peer in (plain, *others):
            assert (peer.name, check.failure(peer)) == (peer.name, None)


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


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_step_is_that_of_a_loss_with_the_penalty(dtype, authors):
    torch.manual_seed(0)
    case = Case((8, 4), dtype)
    x, grad = make_input(case, CPU).requires_grad_(), make_gradient(case, CPU)
    for peer in make_peers(["jumpstart", "composite", "batch_norm", "authors"], BACKENDS, case, CPU, authors):
        with peer.active():
            output, *penalties = peer.forward(x)
            loss = (output * grad).sum(dtype=torch.float64) + peers.PENALTY_WEIGHT * sum(penalties)
            leaves = [x, *peer.parameters]
            expected = torch.autograd.grad(loss, leaves)
            for _ in range(2):  # afresh each time
                peer.step(x, grad)
        for leaf, of_loss in zip(leaves, expected, strict=True):
            torch.testing.assert_close(leaf.grad, of_loss)


def test_relu_has_the_bytes_that_pytorch_moves():
    assert plain_peer("relu").model_bytes(10, 4) == (80, 120)
    assert make_peers(["composite"], [], Case((2, 3)), CPU)[1].model_bytes(8, 2) == (33, 33)
    assert make_peers(["batch_norm"], [], Case((2, 3)), CPU)[1].model_bytes(8, 2) is None
