"""link_relu: the linked network computes what the plain one did, by whatever way its units go."""

import copy
import logging
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from surgery.link_models import (
    MODELS,
    Functional,
    Joined,
    Residual,
    build,
    conv_net,
    count_linked,
    mlp,
    outputs,
    quietly_link,
)
from torch import nn

import jumpstart_kernels as jk
from jumpstart_kernels import JumpstartLinkedReLU, JumpstartReLU, LinkedReLU, link_relu, replace_relu


def assert_alike(found, expected, tolerance=1e-10):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", MODELS)
def test_computes_what_the_plain_model_did(name):
    model_class, shape, linked, left = MODELS[name]
    model, x = build(model_class, shape)
    plain, names = copy.deepcopy(model), list(model.state_dict())
    kinds = [type(module) for module in model.modules() if not isinstance(module, (nn.ReLU, nn.Conv2d))]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert link_relu(model) is model
    assert sum(str(each.message).count("\n") for each in caught) == left
    assert all(each.filename == __file__ for each in caught)
    assert count_linked(model) == linked
    assert list(model.state_dict()) == names
    now = [type(m) for m in model.modules() if not isinstance(m, (LinkedReLU, nn.ReLU, nn.Conv2d))]
    assert now == kinds
    assert_alike(outputs(model, x), outputs(plain, x))
    assert_alike([x], [build(model_class, shape)[1]], 0)


@pytest.mark.parametrize("name", MODELS)
def test_new_columns_take_part_in_training(name):
    """Both halves get gradients, and other columns make other outputs."""
    model_class, shape, *_ = MODELS[name]
    model, x = build(model_class, shape)
    before = {name: parameter.shape for name, parameter in model.named_parameters()}
    quietly_link(model)
    wider = [each for name, each in model.named_parameters() if each.shape != before[name] and each.dim() > 1]
    assert wider
    expected = outputs(model, x)
    sum(each.sum() for each in outputs_with_grad(model, x)).backward()
    assert all((weight == 0).any() for weight in wider)
    assert any(weight.grad[weight == 0].any() for weight in wider)
    with torch.no_grad():
        for weight in wider:
            weight[weight == 0] = 0.5
    assert any(not torch.allclose(one, other) for one, other in zip(outputs(model, x), expected, strict=True))


def outputs_with_grad(model, x):
    result = model.train()(x)
    return [each for each in (result if isinstance(result, tuple) else (result,)) if each is not None]


def test_columns_of_a_flattened_layer_stay_at_their_channels():
    model, _ = build(conv_net, (1, 2, 8, 8))
    weight = model[8].weight.detach().clone()
    link_relu(model)
    assert torch.equal(model[8].weight[:, :24], weight)
    assert model[8].weight.shape == (5, 48) and not model[8].weight[:, 24:].any()


def test_example_inputs_tell_what_a_view_does():
    class Fixed(Functional):
        def forward(self, x):
            x = F.max_pool2d(F.relu(self.conv(x)), 2)
            n, c, h, w = x.shape
            x = x.view(-1, 16) if self.training else x.reshape(n, c * h * w)
            return self.fc2(F.relu(self.fc1(x)))

    model, x = build(Fixed, (3, 2, 6, 6))
    plain, blind = copy.deepcopy(model), copy.deepcopy(model)
    with pytest.warns(UserWarning, match="pass example_inputs"):
        link_relu(blind)
    assert count_linked(blind) == 1
    assert_alike(outputs(blind, x), outputs(plain, x))
    link_relu(model, example_inputs=x)
    assert count_linked(model) == 2
    assert_alike(outputs(model, x), outputs(plain, x))
    assert_alike(outputs(model, x[:2]), outputs(plain, x[:2]))


def test_example_inputs_tell_the_size_of_an_input():
    model, x = build(Joined, (5, 4))
    plain = copy.deepcopy(model)
    link_relu(model, example_inputs=(x,))
    assert count_linked(model) == 3
    assert_alike(outputs(model, x), outputs(plain, x))


def test_penalty_is_that_of_the_shared_pre_activation():
    model, x = build(Residual, (3, 2, 8, 8))
    replace_relu(model, points="position", margin=0.5)
    model(x)
    expected = jk.penalty(model)
    link_relu(model)
    layers = [module for module in model.modules() if isinstance(module, JumpstartLinkedReLU)]
    assert len(layers) == 4 and {(layer.points, layer.margin) for layer in layers} == {("position", 0.5)}
    assert layers[0]._name == "stem.2"
    model(x)
    torch.testing.assert_close(jk.penalty(model), expected)


def test_replaced_functional_model_is_linked():
    model, x = build(Functional, (3, 2, 6, 6))
    plain = copy.deepcopy(model)
    replace_relu(model, margin=0.5)
    model(x)
    expected = jk.penalty(model)
    link_relu(model)
    assert type(model.jumpstart_relu_0) is JumpstartLinkedReLU and model.jumpstart_relu_0.margin == 0.5
    model(x)
    torch.testing.assert_close(jk.penalty(model), expected)
    assert_alike(outputs(model, x), outputs(plain, x))


def test_bias_fused_into_a_jumpstart_layer_is_taken_back():
    model, x = build(conv_net, (3, 2, 8, 8))
    plain = copy.deepcopy(model)
    replace_relu(model, fuse_bias=True)
    link_relu(model)
    assert [type(module) for module in model] == [
        JumpstartLinkedReLU if isinstance(module, nn.ReLU) else type(module) for module in plain
    ]
    assert_alike(outputs(model, x), outputs(plain, x))


@pytest.mark.parametrize("jumpstart", [True, False])
def test_jumpstart_says_which_layers_record(jumpstart):
    options = {"margin": 2.0, "tie_breaking": "average"} if jumpstart else {}
    model = nn.Sequential(nn.Linear(4, 3), JumpstartReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    link_relu(model, jumpstart=jumpstart, **options)
    kind = JumpstartLinkedReLU if jumpstart else LinkedReLU
    assert [type(model[i]) for i in (1, 3)] == [kind, kind]
    if jumpstart:
        assert [model[i].margin for i in (1, 3)] == [2.0, 2.0]
        assert [model[i].tie_breaking for i in (1, 3)] == ["average", "average"]


@pytest.mark.parametrize("activation", ["prelu", "selu", "silu"])
def test_other_activations(activation):
    model, x = build(mlp, (5, 4))
    plain = copy.deepcopy(model)
    link_relu(model, activation=activation)
    g = {"prelu": nn.PReLU().double(), "selu": nn.SELU(), "silu": nn.SiLU()}[activation]
    plain[1] = plain[4] = g
    assert_alike(outputs(model, x), outputs(plain, x))
    assert [type(model[i]).__name__.lower() for i in (1, 4)] == [f"linked{activation}"] * 2


def test_linked_again_changes_nothing():
    model, x = build(Residual, (3, 2, 8, 8))
    link_relu(model)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    with pytest.warns(UserWarning, match="found no ReLU"):
        link_relu(model)
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes
    assert len(outputs(model, x)) == 2


def test_what_parameters_are_is_kept():
    model, _ = build(conv_net, (3, 2, 8, 8))
    model[4].weight.requires_grad_(False)
    model.bfloat16().eval()
    link_relu(model)
    assert not model[4].weight.requires_grad and model[8].weight.requires_grad
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not any(module.training for module in model.modules())
    model, _ = build(Functional, (3, 2, 6, 6))
    assert not link_relu(model.eval()).linked_relu_0.training
    with torch.device("meta"):
        assert link_relu(mlp())[3].weight.shape == (5, 12)


def test_says_what_it_did(caplog):
    model, _ = build(Residual, (3, 2, 8, 8))
    with caplog.at_level(logging.INFO, "jumpstart_kernels"):
        link_relu(model)
    linked, layers, narrowed = caplog.messages
    assert linked.startswith("linked 4 ReLUs: stem.2 (module), blocks.0.relu (module), ")
    assert linked.endswith("after") and "; parameters: " in linked
    assert "blocks.0.conv1 [4, 4, 3, 3] to [4, 8, 3, 3]" in layers and "fc [3, 6] to [3, 12]" in layers
    assert "element-wise" in narrowed


def test_shared_relu_whose_last_call_is_the_output():
    """Each call has consumers of its own: the output gets g(z) alone, in whichever way it is returned."""

    class Features(Residual):
        def forward(self, x):
            x = self.blocks(self.stem(x))
            return x, F.adaptive_avg_pool2d(x, 1)

    model, x = build(Features, (3, 2, 8, 8))
    plain = copy.deepcopy(model)
    quietly_link(model)
    assert count_linked(model) == 4
    assert_alike(outputs(model, x), outputs(plain, x))


def test_sequence_gets_a_forward_of_its_own():
    relu = nn.ReLU()
    model, x = build(
        lambda: nn.Sequential(nn.Linear(4, 4), relu, nn.Linear(4, 4), relu, nn.Softmax(-1)), (5, 4)
    )
    plain, names = copy.deepcopy(model), list(model.state_dict())
    link_relu(model)
    assert type(model[1]) is LinkedReLU and model[2].in_features == 8
    assert list(model.state_dict()) == names and len(model) == 5
    assert_alike(outputs(model, x), outputs(plain, x))
    assert_alike([pickle.loads(pickle.dumps(model))(x)], [plain(x)])
