"""Convolutions that oneDNN gets wrong on a CPU: reported before training, not by its results."""

import copy

import torch
from torch import Tensor, nn

from jumpstart_kernels.cli.errors import CommandError


def check_convolutions(network: nn.Module, image_size: int, precision: str, device: torch.device) -> None:
    """Raise where a weight gradient in bfloat16 could be wrong or NaN.

    With AVX-512, oneDNN (3.12, in torch 2.13 and 2.14) reads memory that it has not written if an image is
    narrower than the stride, with or without Jumpstart. Images that small are not what this script is for, so
    they are refused on every CPU.

    Raises:
        CommandError: the network has such a convolution for images of this size.
    """
    if device.type != "cpu" or precision != "bf16":
        return
    network = copy.deepcopy(network).to("meta").eval()

    def check(convolution: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(convolution, nn.Conv2d)
        width, stride = inputs[0].shape[-1], convolution.stride[1]
        if width < stride:
            raise CommandError(
                f"--image-size must be larger than {image_size} for --precision bf16 on a CPU: a convolution "
                f"of stride {stride} gets images {width} wide, for which oneDNN's weight gradient is wrong "
                "or NaN with AVX-512. Or use --precision fp32"
            )

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(check)
    with torch.no_grad():
        network(torch.empty(1, 3, image_size, image_size, device="meta"))
