"""``torch.fx``, TorchScript and ``torch.export`` of a model with JumpstartReLU layers."""

import pytest
import torch
from torch import fx, nn

import jumpstart_kernels as jk


class Residual(nn.Module):
    """A block with a module, a call and an attribute."""

    def __init__(self):
        super().__init__()
        self.fc, self.relu, self.act = nn.Linear(4, 4), nn.ReLU(inplace=True), torch.relu

    def forward(self, x):
        return torch.relu(x + self.act(self.relu(self.fc(x))))


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), Residual(), nn.Linear(4, 3))


def make_x():
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("training", (True, False), ids=("train", "eval"))
def test_symbolic_trace_has_the_layers_as_leaves(training):
    model = jk.replace_relu(make_model()).train(training)
    traced = fx.symbolic_trace(model)
    leaves = {node.target for node in traced.graph.nodes if node.op == "call_module"}
    assert {"1.relu", "1.act", "1.jumpstart_relu_0"} < leaves
    assert not any(
        node.op in ("call_function", "call_method") and "relu" in str(node.target).lower()
        for node in traced.graph.nodes
    )
    assert torch.equal(traced(make_x()), make_model()(make_x()))


def test_traced_module_records():
    model = jk.replace_relu(make_model())
    traced = fx.symbolic_trace(model)
    jk.clear_records(model)
    model(make_x())
    expected = jk.penalty(model)
    traced.train()(make_x())
    assert torch.equal(jk.penalty(traced), expected)


def test_retraced_traced_module():
    traced = fx.symbolic_trace(fx.symbolic_trace(jk.replace_relu(make_model())))
    traced(make_x()).sum().backward()
    assert jk.penalty(traced).isfinite()


def test_calls_of_the_traced_root_itself_are_replaced_in_the_trace():
    # torch.fx traces the class of the root, in which they are calls as ever.
    traced = jk.replace_relu(fx.symbolic_trace(Residual()))
    assert sum(isinstance(module, jk.JumpstartReLU) for module in traced.modules()) == 3
    x = torch.randn(5, 4)
    traced(x)
    assert jk.penalty(traced).isfinite()


def test_a_layer_of_another_model_is_an_error_of_the_tracer():
    class Borrowing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [jk.JumpstartReLU()]  # not registered

        def forward(self, x):
            return self.layers[0](x)

    with pytest.raises(NameError, match="not installed as a submodule"):
        fx.symbolic_trace(Borrowing())


@pytest.mark.parametrize("kind", ("module", "call"))
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_script_says_what_to_do(kind):
    model = make_model() if kind == "call" else nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    jk.replace_relu(model).eval()
    with pytest.raises(RuntimeError, match=r"call jumpstart_kernels.restore_relu\(model\) first$"):
        torch.jit.script(model)
    scripted = torch.jit.script(jk.restore_relu(model))
    assert torch.equal(scripted(make_x()), model(make_x()))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_jit_trace_in_eval():
    model = jk.replace_relu(make_model()).eval()
    assert torch.equal(torch.jit.trace(model, make_x())(make_x()), make_model()(make_x()))


@pytest.mark.parametrize("training", (True, False), ids=("train", "eval"))
def test_export(training):
    model = jk.replace_relu(make_model()).train(training)
    exported = torch.export.export(model, (make_x(),))
    assert torch.equal(exported.module()(make_x()), make_model()(make_x()))
