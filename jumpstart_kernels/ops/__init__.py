"""The operators: one schema each, with an overload per backend.

``torch.ops.jumpstart_kernels.jumpstart_activation.<backend>`` applies an activation and computes the
statistics of its input; ``torch.ops.jumpstart_kernels.linked_activation.<backend>`` does so with a linked
activation; ``torch.ops.jumpstart_kernels.penalty.<backend>`` reduces all layers' slack sums.

A backend is a row of the table in :mod:`~jumpstart_kernels.ops.backends`. It provides ``unavailable``, which
says why it cannot run on a device, and the functions that :mod:`~jumpstart_kernels.ops.reference` defines: in
Python (:mod:`~jumpstart_kernels.ops.triton`), or registered by its extension
(:mod:`~jumpstart_kernels.ops.native`, ``csrc/``). Both also provide shortcuts for eager code. What is
specific to an activation is a file in :mod:`~jumpstart_kernels.ops.activations` and its counterparts.
"""

from jumpstart_kernels.ops.jumpstart_activation import OVERLOADS
from jumpstart_kernels.ops.linked_activation import LINKED_OVERLOADS
from jumpstart_kernels.ops.penalty import OVERLOADS as PENALTY_OVERLOADS

__all__ = ["LINKED_OVERLOADS", "OVERLOADS", "PENALTY_OVERLOADS"]
