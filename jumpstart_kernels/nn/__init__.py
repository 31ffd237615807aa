"""The layers, and what they record for the penalty.

``__all__`` are the public names, which the package itself passes on; a layer for another activation is a file
here and a line in ``LAYERS``.
"""

from jumpstart_kernels.nn.activation import JumpstartActivation
from jumpstart_kernels.nn.leaky_relu import JumpstartLeakyReLU
from jumpstart_kernels.nn.linked import (
    JumpstartLinkedPReLU,
    JumpstartLinkedReLU,
    JumpstartLinkedSELU,
    JumpstartLinkedSiLU,
    LinkedPReLU,
    LinkedReLU,
    LinkedSELU,
    LinkedSiLU,
)
from jumpstart_kernels.nn.recording import clear_records, no_record
from jumpstart_kernels.nn.relu import JumpstartReLU

__all__ = [
    "JumpstartLeakyReLU",
    "JumpstartLinkedPReLU",
    "JumpstartLinkedReLU",
    "JumpstartLinkedSELU",
    "JumpstartLinkedSiLU",
    "JumpstartReLU",
    "LinkedPReLU",
    "LinkedReLU",
    "LinkedSELU",
    "LinkedSiLU",
    "clear_records",
    "no_record",
]

LAYERS: dict[str, type[JumpstartActivation]] = {
    layer.activation: layer for layer in (JumpstartReLU, JumpstartLeakyReLU)
}
