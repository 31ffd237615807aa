"""A JumpstartReLU made for one place in a model."""

from typing import Any

from jumpstart_kernels.modules import JumpstartReLU
from jumpstart_kernels.surgery.units import Units

# Those of JumpstartReLU; unit_dim may be "auto".
Options = dict[str, Any]


def make_layer(options: Options, units: Units, inplace: bool = False) -> JumpstartReLU:
    """A layer with the user's options; where these say ``unit_dim="auto"``, with the units found."""
    if options["unit_dim"] != "auto":
        return JumpstartReLU(inplace, **options)
    layer = JumpstartReLU(inplace, **{**options, "unit_dim": units if isinstance(units, int) else 1})
    layer._derived = True
    return layer
