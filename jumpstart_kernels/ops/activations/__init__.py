"""The activations that the operators support, one file each, in plain PyTorch.

Counterparts in the other backends: ``csrc/activations/`` (C++ and CUDA) and ``ops/triton/activations.py``.
"""

from jumpstart_kernels.ops.activations.base import Activation, LinkedActivation
from jumpstart_kernels.ops.activations.leaky_relu import LEAKY_RELU
from jumpstart_kernels.ops.activations.linked_prelu import LINKED_PRELU
from jumpstart_kernels.ops.activations.linked_relu import LINKED_RELU
from jumpstart_kernels.ops.activations.linked_selu import LINKED_SELU
from jumpstart_kernels.ops.activations.linked_silu import LINKED_SILU
from jumpstart_kernels.ops.activations.relu import RELU

NONE = "none"
"""The activation of a forward that returns statistics only."""

ACTIVATIONS = {activation.name: activation for activation in (RELU, LEAKY_RELU)}
LINKED_ACTIVATIONS = {
    activation.name: activation for activation in (LINKED_RELU, LINKED_PRELU, LINKED_SELU, LINKED_SILU)
}

__all__ = ["ACTIVATIONS", "LINKED_ACTIVATIONS", "NONE", "Activation", "LinkedActivation"]
