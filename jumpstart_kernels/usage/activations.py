"""Which modules are activations, and which of them are judged by their slope: see ``slopes.py``."""

from torch import nn

from jumpstart_kernels.nn import LAYERS
from jumpstart_kernels.nn.activation import JumpstartActivation

BY_SIGN: tuple[type[nn.Module], ...] = (JumpstartActivation, *(layer.plain for layer in LAYERS.values()))
"""Activations that are flat, or nearly so, for negative values and linear for positive ones."""

SMOOTH: tuple[type[nn.Module], ...] = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardswish,
    nn.Hardtanh,  # and nn.ReLU6
    nn.Mish,
    nn.PReLU,
    nn.SELU,
    nn.SiLU,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
)
"""Element-wise activations that are no ReLU, of hidden layers."""

GATES: tuple[type[nn.Module], ...] = (nn.Hardsigmoid, nn.Sigmoid)
"""Likewise, watched only if named: as gates and outputs they are saturated when all is well."""


def has_slopes(module: nn.Module) -> bool:
    """Whether the units of an activation are judged by its derivative and not by the sign of its input."""
    return isinstance(module, SMOOTH + GATES) and type(module).forward in _FORWARDS


_FORWARDS = {kind.forward for kind in SMOOTH + GATES}  # a subclass with its own may do anything
