"""A Jumpstart layer made for one place in a model."""

from typing import Any

from jumpstart_kernels.nn.activation import JumpstartActivation
from jumpstart_kernels.surgery.activations import Replaceable
from jumpstart_kernels.surgery.units import Units

# Those that all Jumpstart layers have; unit_dim may be "auto".
Options = dict[str, Any]


def make_layer(
    activation: Replaceable, arguments: dict[str, Any], options: Options, units: Units
) -> JumpstartActivation:
    """A layer with the user's options; where these say ``unit_dim="auto"``, with the units found.

    ``arguments`` are the activation's own, and ``inplace``.
    """
    if options["unit_dim"] != "auto":
        return activation.layer(**arguments, **options)
    unit_dim = units if isinstance(units, int) else 1
    layer = activation.layer(**arguments, **{**options, "unit_dim": unit_dim})
    layer._derived = True
    return layer
