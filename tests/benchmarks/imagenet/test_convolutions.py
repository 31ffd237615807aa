"""Convolutions whose gradient oneDNN gets wrong in bfloat16, with or without Jumpstart, are refused."""

import pytest
import torch
from imagenet_trainings import make_options
from torch import nn

from benchmarks.imagenet.convolutions import check_convolutions
from benchmarks.imagenet.trainer import Trainer
from benchmarks.models import build_resnet50
from jumpstart_kernels.cli.errors import CommandError

CPU = torch.device("cpu")


def make_network():
    return build_resnet50(batch_norm=False, skips=False, classes=4, width=4, blocks=(1, 1, 1, 1))


def test_images_that_are_too_small_are_told():
    message = "--image-size must be larger than 16 .* stride 2 gets images 1 wide, .* use --precision fp32"
    with pytest.raises(CommandError, match=message):
        check_convolutions(make_network(), 16, "bf16", CPU)
    check_convolutions(make_network(), 17, "bf16", CPU)
    check_convolutions(make_network(), 16, "fp32", CPU)
    check_convolutions(make_network(), 16, "bf16", torch.device("cuda"))


def test_a_training_says_it_at_its_start(process, data, tmp_path):
    with pytest.raises(CommandError, match="--image-size must be larger than 16"):
        Trainer(make_options(data, tmp_path, "--precision=bf16"), process)


@pytest.mark.parametrize("freed", (torch.nan, 1.0))
@pytest.mark.parametrize("stride,width", [(1, 1), (2, 2), (2, 3), (2, 7), (3, 3), (4, 4)])
def test_convolutions_that_are_let_through_are_right(stride, width, freed):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(32, 32, 3, 3, generator=generator).bfloat16()
    image = torch.randn(2, 32, 3, width, generator=generator).bfloat16().to(memory_format=torch.channels_last)

    def weight_gradient(image, weight):
        leaf = weight.detach().requires_grad_()
        output = nn.functional.conv2d(image, leaf, stride=stride, padding=1)
        memory = [torch.full((2**power,), freed) for power in range(4, 19) for _ in range(8)]
        del memory  # what oneDNN finds where it has written nothing
        return torch.autograd.grad(output, leaf, torch.ones_like(output))[0].float()

    expected = weight_gradient(image.float(), weight.float())
    for _ in range(20):
        torch.testing.assert_close(weight_gradient(image, weight), expected, rtol=0.02, atol=0.05)
