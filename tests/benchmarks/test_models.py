"""``benchmarks/models.py``: ResNet-50 with and without BatchNorm and skips."""

import pytest
import torch
from torch import nn

import jumpstart_kernels as jk
from benchmarks.models import build_convnet, build_mlp, build_resnet50, pre_activations
from jumpstart_kernels.bench import definition

SMALL = {"width": 4, "blocks": (1, 1), "classes": 5}


def count(model: nn.Module, kind: type) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


def test_resnet50_is_that_of_the_paper():
    with torch.device("meta"):  # sizes alone
        model = build_resnet50(batch_norm=True, skips=True)
        plain = build_resnet50(batch_norm=False, skips=False)
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_557_032
    assert (count(model, nn.Conv2d), count(model, nn.BatchNorm2d), count(model, nn.ReLU)) == (53, 53, 49)
    assert (count(plain, nn.Conv2d), count(plain, nn.BatchNorm2d), count(plain, nn.ReLU)) == (49, 0, 49)


def test_growth_is_the_width_multiplier_of_the_paper():
    with torch.device("meta"):
        model = build_resnet50(batch_norm=True, skips=True, growth=1.5)
    widths = [module.residual[0].out_channels for module in model if type(module).__name__ == "Bottleneck"]
    assert sorted(set(widths)) == [64, 96, 144, 216]
    assert sum(parameter.numel() for parameter in model.parameters()) == 6_952_968


def test_linked_activations_pass_on_twice_the_channels():
    model = build_resnet50(
        batch_norm=False,
        skips=False,
        cifar_stem=True,
        stem_stride=2,
        activation=jk.LinkedReLU,
        linked=True,
        **SMALL,
    )
    output = model(torch.randn(2, 3, 16, 16))
    assert output.shape == (2, 5) and model[-1].in_features == 2 * 4 * 8
    assert model[0].stride == (2, 2)


@pytest.mark.parametrize("batch_norm", (True, False))
@pytest.mark.parametrize("skips", (True, False))
@pytest.mark.parametrize("cifar_stem", (True, False))
def test_small_resnets_run(batch_norm, skips, cifar_stem):
    torch.manual_seed(0)
    model = build_resnet50(batch_norm=batch_norm, skips=skips, cifar_stem=cifar_stem, **SMALL)
    x = torch.randn(3, 3, 32, 32)
    output, layers = pre_activations(model, x)
    assert output.shape == (3, 5) and len(layers) == 7
    assert layers[0].shape[2] == (32 if cifar_stem else 16)
    assert layers[-1].shape == (3, 32, 16, 16) if cifar_stem else (3, 32, 4, 4)
    jumpstart = jk.replace_relu(model)
    jumpstart(x)
    assert jk.penalty(jumpstart).item() == pytest.approx(definition.penalty(layers).item(), rel=1e-5)


def test_the_convolutional_network_is_that_of_vgg11():
    with torch.device("meta"):
        model = build_convnet()
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert sum(p.numel() for module in convolutions for p in module.parameters()) == 9_220_480
    assert len(convolutions) == count(model, nn.ReLU) == 8 and count(model, nn.BatchNorm2d) == 0
    model = build_convnet(divisor=16)
    output, layers = pre_activations(model, torch.randn(2, 3, 32, 32))
    assert output.shape == (2, 10)
    assert [layer.shape[2] for layer in layers] == [32, 16, 8, 8, 4, 4, 2, 2]


def test_the_mlp_has_hidden_layers_of_the_same_size():
    output, layers = pre_activations(build_mlp(7, 3, units=5), torch.randn(2, 7))
    assert output.shape == (2, 3) and [layer.shape for layer in layers] == [(2, 5)] * 4


def test_skips_pass_the_input_on():
    torch.manual_seed(0)
    for skips in (True, False):
        model = build_resnet50(batch_norm=False, skips=skips, cifar_stem=True, **SMALL)
        last = [module for module in model if type(module).__name__ == "Bottleneck"][-1]
        nn.init.zeros_(last.residual[-1].weight)
        assert bool(last(torch.rand(2, 16, 8, 8)).any()) is skips


def test_pre_activations_leave_no_hook_behind():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    pre_activations(model, torch.ones(1, 2))
    assert not model[1]._forward_pre_hooks
