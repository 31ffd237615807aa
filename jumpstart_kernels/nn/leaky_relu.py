"""``JumpstartLeakyReLU``: a drop-in ``nn.LeakyReLU`` that records what the penalty needs."""

from torch import nn

from jumpstart_kernels.functional.checks import check_parameter
from jumpstart_kernels.nn.activation import JumpstartActivation


class JumpstartLeakyReLU(JumpstartActivation, nn.LeakyReLU):
    """``nn.LeakyReLU`` with the records and the penalty of :class:`~jumpstart_kernels.JumpstartReLU`.

    ``forward(x)`` is ``F.leaky_relu(x, negative_slope)`` of ``[N, C, *]``, in the shape, dtype and layout
    of ``x``. The slack is that of ``x``, whatever the slope is.

    Recorded forwards with ``tie_breaking="single"`` differ from ``nn.LeakyReLU`` in two gradients: that of a
    NaN passes unscaled, as through ``nn.ReLU``, and a negative slope has one in place, too.

    Args:
        negative_slope: what negative values are multiplied by, any number, as in ``nn.LeakyReLU``.
        inplace: overwrite the input, as in ``nn.LeakyReLU``.
        unit_dim: dimension of the units: 1 for ``[N, C]`` and ``[N, C, H, W]``, −1 for ``[N, T, C]``.
        points: what a data point is, ``"sample"`` or ``"position"``.
        margin: how far beyond 0 an extremum must be.
        tie_breaking: ``"single"``, ``"average"`` or ``"random"``.

    The options are those of :class:`~jumpstart_kernels.JumpstartReLU`, and raise the same errors.

    Raises:
        TypeError: ``negative_slope`` is no number.
    """

    activation = "leaky_relu"
    plain = nn.LeakyReLU
    parameter_name = "negative_slope"

    def __init__(
        self,
        negative_slope: float = 0.01,
        inplace: bool = False,
        *,
        unit_dim: int = 1,
        points: str = "sample",
        margin: float = 1.0,
        tie_breaking: str = "single",
    ) -> None:
        check_parameter("negative_slope", negative_slope)
        nn.LeakyReLU.__init__(self, negative_slope, inplace)
        self._set_options(unit_dim, points, margin, tie_breaking)
