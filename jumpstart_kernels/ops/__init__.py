"""The dispatcher boundary: one operator, one overload a backend, one schema for all of them.

``torch.ops.jumpstart_kernels.jumpstart_relu.<backend>`` is what :mod:`jumpstart_kernels.functional` calls.
"""

from jumpstart_kernels.ops.jumpstart_relu import OVERLOADS

__all__ = ["OVERLOADS"]
