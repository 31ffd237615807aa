"""The dispatcher boundary: an operator, an overload of it for each backend, one schema for all of them.

``torch.ops.jumpstart_kernels.jumpstart_relu.<backend>`` is what :mod:`jumpstart_kernels.functional` calls.
"""

from jumpstart_kernels.ops.jumpstart_relu import OVERLOADS
from jumpstart_kernels.ops.penalty import OVERLOADS as PENALTY_OVERLOADS

__all__ = ["OVERLOADS", "PENALTY_OVERLOADS"]
