"""Pruning without training: redundant units out, and tickets that are pruned once and trained on.

>>> result = jk.pruning.permutation_prune(model, loader)
>>> ticket = jk.pruning.Ticket(model, 0.9)
"""

from jumpstart_kernels.pruning.keys import Passed, Redundancy, passed_on, permutation_keys, redundant_pairs
from jumpstart_kernels.pruning.merging import Merge
from jumpstart_kernels.pruning.prune import PruneResult, permutation_prune
from jumpstart_kernels.pruning.report import LayerReport, PruneReport, Size
from jumpstart_kernels.pruning.saving import load_pruned
from jumpstart_kernels.pruning.ticket import Ticket

__all__ = [
    "LayerReport",
    "Merge",
    "Passed",
    "PruneReport",
    "PruneResult",
    "Redundancy",
    "Size",
    "Ticket",
    "load_pruned",
    "passed_on",
    "permutation_keys",
    "permutation_prune",
    "redundant_pairs",
]
