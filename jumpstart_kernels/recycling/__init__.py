"""New weights for units that are of no use: dormant or dead ones start anew while training goes on."""

from jumpstart_kernels.recycling.recycle import recycle
from jumpstart_kernels.recycling.report import RecycleReport

__all__ = ["RecycleReport", "recycle"]
