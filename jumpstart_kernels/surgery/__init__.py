"""``nn.ReLU`` and its functional forms exchanged for :class:`~jumpstart_kernels.JumpstartReLU`, and back.

Other activations in the same way: a row each in ``activations.py``. ``link_relu`` links ReLUs: ``linking/``.
"""

from jumpstart_kernels.surgery.linking import link_relu
from jumpstart_kernels.surgery.replace import replace_relu, restore_relu
from jumpstart_kernels.surgery.sites import Site, find_relu
from jumpstart_kernels.surgery.units import check_unit_dim, find_unit_dims

__all__ = [
    "Site",
    "check_unit_dim",
    "find_relu",
    "find_unit_dims",
    "link_relu",
    "replace_relu",
    "restore_relu",
]
