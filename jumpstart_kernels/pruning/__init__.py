"""Sparse networks: tickets, which are pruned once and trained on.

>>> ticket = jk.pruning.Ticket(model, 0.9)
"""

from jumpstart_kernels.pruning.ticket import Ticket

__all__ = ["Ticket"]
