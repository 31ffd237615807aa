"""Initial weights for a whole model: ``looks_linear_``."""

from jumpstart_kernels.initialization.looks_linear import looks_linear_
from jumpstart_kernels.initialization.report import Initialized, LooksLinear

__all__ = ["Initialized", "LooksLinear", "looks_linear_"]
