"""``nn.ReLU`` and its functional forms exchanged for :class:`~jumpstart_kernels.JumpstartReLU`, and back."""

from jumpstart_kernels.surgery.replace import replace_relu, restore_relu
from jumpstart_kernels.surgery.sites import Site, find_relu

__all__ = ["Site", "find_relu", "replace_relu", "restore_relu"]
