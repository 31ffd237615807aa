"""The operator of one backend, as tests call it."""

from torch import Tensor

from jumpstart_kernels.ops import OVERLOADS
from jumpstart_kernels.ops.activations import NONE
from jumpstart_kernels.ops.arguments import ForwardResult


def run_forward(
    backend: str,
    x: Tensor,
    unit_dim: int = 1,
    position_points: bool = False,
    margin: float = 1.0,
    *,
    bias: Tensor | None = None,
    activation: str = "relu",
    parameter: float = 0.0,
    extrema_kind: str = "indexed",
) -> ForwardResult:
    """The operator of one backend."""
    return ForwardResult(
        *OVERLOADS[backend](x, bias, activation, parameter, unit_dim, position_points, margin, extrema_kind)
    )


def run_statistics(backend: str, x: Tensor, *options, **more) -> ForwardResult:
    """The same without an output."""
    return run_forward(backend, x, *options, activation=NONE, **more)
