"""What is peculiar to an activation, chosen by its name: a branch of each function.

The twin of ``ops/activations/`` and ``csrc/activations/``. ``positive`` is False where ``x <= 0``, and
``parameter_bits`` are those of the activation's own number, see ``float_from_bits``.
"""

import triton
import triton.language as tl


@triton.jit
def activation_value(x, positive, parameter_bits, ACTIVATION: tl.constexpr):
    """The output, in the dtype of x."""
    if ACTIVATION == "relu":
        value = tl.where(positive, x, 0)
    else:
        tl.static_assert(False, "unknown activation")
    return value


@triton.jit
def activation_gradient(grad_output, positive, parameter_bits, ACTIVATION: tl.constexpr):
    """The gradient of x, in its dtype, which is that of ``grad_output``."""
    if ACTIVATION == "relu":
        gradient = tl.where(positive, grad_output, 0)
    else:
        tl.static_assert(False, "unknown activation")
    return gradient
