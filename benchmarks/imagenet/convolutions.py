"""Convolutions that PyTorch's library for CPUs gets wrong, told before a training instead of by its NaN."""

import copy
import os

import torch
from torch import Tensor, nn

from jumpstart_kernels.cli_inputs import CommandError


def check_convolutions(network: nn.Module, image_size: int, precision: str, device: torch.device) -> None:
    """Raise where a weight gradient in bfloat16 would be NaN or wrong now and then.

    With AVX-512, oneDNN reads memory that nobody wrote for a padded convolution whose stride is larger than
    its input: in a plain network too, and in torch 2.11 to 2.14.

    Raises:
        CommandError: the network has such a convolution for images of this size.
    """
    lowered = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in ("SSE41", "AVX", "AVX2", "AVX2_VNNI")
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or lowered:
        return
    if device.type != "cpu" or precision != "bf16":
        return
    network = copy.deepcopy(network).to("meta").eval()

    def check(convolution: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(convolution, nn.Conv2d)
        sizes = inputs[0].shape[2:]
        if any(stride > size for stride, size in zip(convolution.stride, sizes, strict=True)):
            raise CommandError(
                f"--image-size must be larger than {image_size} for --precision bf16 on this processor: a "
                f"convolution of stride {convolution.stride[0]} gets {sizes[0]}×{sizes[1]} pixels, of which "
                "oneDNN's weight gradient is NaN or wrong now and then. Or take --precision fp32"
            )

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(check)
    with torch.no_grad():
        network(torch.empty(1, 3, image_size, image_size, device="meta"))
