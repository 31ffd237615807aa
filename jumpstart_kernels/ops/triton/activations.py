"""What is peculiar to an activation, chosen by its name: a branch of each function.

The counterpart of ``ops/activations/`` and ``csrc/activations/``. ``positive`` is False where ``x <= 0``, and
``parameter_bits`` are those of the activation's own number, see ``float_from_bits``.
"""

import triton
import triton.language as tl

from jumpstart_kernels.ops.triton.floats import float_from_bits, round_to, statistics_values


@triton.jit
def activation_value(x, positive, parameter_bits, ACTIVATION: tl.constexpr):
    """The output, in the dtype of x."""
    if ACTIVATION == "relu":
        value = tl.where(positive, x, 0)
    elif ACTIVATION == "leaky_relu":
        value = tl.where(positive, x, _scaled(x, parameter_bits))
    else:
        tl.static_assert(False, "unknown activation")
    return value


@triton.jit
def activation_gradient(grad_output, positive, parameter_bits, ACTIVATION: tl.constexpr):
    """The gradient of x, in its dtype, which is that of ``grad_output``."""
    if ACTIVATION == "relu":
        gradient = tl.where(positive, grad_output, 0)
    elif ACTIVATION == "leaky_relu":
        gradient = tl.where(positive, grad_output, _scaled(grad_output, parameter_bits))
    else:
        tl.static_assert(False, "unknown activation")
    return gradient


@triton.jit
def _scaled(x, parameter_bits):
    """x times the parameter, in the dtype of x, rounded as PyTorch rounds it."""
    values = statistics_values(x)
    return round_to(values * float_from_bits(parameter_bits, values.dtype), x.dtype)
