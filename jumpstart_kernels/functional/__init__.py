"""The stateless API: an activation and the statistics of its input, and linked neurons, in one pass each."""

from jumpstart_kernels.functional.jumpstart import (
    JumpstartReLUOutput,
    JumpstartStatistics,
    jumpstart_activation,
    jumpstart_relu,
    jumpstart_stats,
)
from jumpstart_kernels.functional.linked import linked_prelu, linked_relu, linked_selu, linked_silu

__all__ = [
    "JumpstartReLUOutput",
    "JumpstartStatistics",
    "jumpstart_activation",
    "jumpstart_relu",
    "jumpstart_stats",
    "linked_prelu",
    "linked_relu",
    "linked_selu",
    "linked_silu",
]
