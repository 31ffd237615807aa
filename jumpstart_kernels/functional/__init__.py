"""The stateless API: an activation and the statistics of its input, in one pass."""

from jumpstart_kernels.functional.jumpstart import (
    JumpstartReLUOutput,
    JumpstartStatistics,
    jumpstart_activation,
    jumpstart_relu,
    jumpstart_stats,
)

__all__ = [
    "JumpstartReLUOutput",
    "JumpstartStatistics",
    "jumpstart_activation",
    "jumpstart_relu",
    "jumpstart_stats",
]
