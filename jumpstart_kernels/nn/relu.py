"""``JumpstartReLU``: a drop-in ``nn.ReLU`` that records what the penalty needs."""

from torch import nn

from jumpstart_kernels.nn.activation import JumpstartActivation


class JumpstartReLU(JumpstartActivation, nn.ReLU):
    """``nn.ReLU`` whose units and data points :func:`~jumpstart_kernels.penalty` keeps alive and nonlinear.

    ``forward(x)`` returns ``relu(x)`` only. In training mode with grad enabled it also records the slack of
    its pre-activation, once per call, until ``penalty`` consumes the records. Otherwise it is ``F.relu``.
    It has no parameters and no buffers, so checkpoints are interchangeable with those of ``nn.ReLU``. Copies
    and pickles drop the records and any injection (:func:`~jumpstart_kernels.inject_penalty`).

    A tensor with fewer than two dimensions (fusion weights, a hinge in a loss) has no units: it passes
    through ``F.relu`` unrecorded, with one warning. If a negative ``unit_dim`` is dimension 0 of the input
    (−3 for ``[C, H, W]`` after a ``Conv2d``), the input is a batch of one.

    Args:
        inplace: overwrite the input, as in ``nn.ReLU``.
        unit_dim: dimension of the units: 1 for ``[N, C]`` and ``[N, C, H, W]``, −1 for ``[N, T, C]``.
        points: what a data point is, ``"sample"`` or ``"position"``.
        margin: how far beyond 0 an extremum must be.
        tie_breaking: ``"single"``, ``"average"`` or ``"random"``.

    The options are those of :func:`jumpstart_kernels.functional.jumpstart_relu`, and raise the same errors.
    """

    activation = "relu"
    plain = nn.ReLU

    def __init__(
        self,
        inplace: bool = False,
        *,
        unit_dim: int = 1,
        points: str = "sample",
        margin: float = 1.0,
        tie_breaking: str = "single",
    ) -> None:
        nn.ReLU.__init__(self, inplace)
        self._set_options(unit_dim, points, margin, tie_breaking)
