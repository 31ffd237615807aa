"""The activations that the operator supports, one file each, in plain PyTorch.

Counterparts in the other backends: ``csrc/activations/`` (C++ and CUDA) and ``ops/triton/activations.py``.
"""

from jumpstart_kernels.ops.activations.base import Activation
from jumpstart_kernels.ops.activations.leaky_relu import LEAKY_RELU
from jumpstart_kernels.ops.activations.relu import RELU

NONE = "none"
"""The activation of a forward that returns statistics only."""

ACTIVATIONS = {activation.name: activation for activation in (RELU, LEAKY_RELU)}

__all__ = ["ACTIVATIONS", "NONE", "Activation"]
