"""The definition of the linked activations, written out, as tests compare with it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from jumpstart_kernels.ops import LINKED_OVERLOADS
from jumpstart_kernels.ops.arguments import ForwardResult

ACTIVATIONS = ("linked_relu", "linked_prelu", "linked_selu", "linked_silu")


def define(activation: str, x: Tensor, weight: Tensor | None, unit_dim: int) -> Tensor:
    """``cat(g(x), g(−x))`` by PyTorch's own functions, differentiable."""
    halves = []
    for half, signed in enumerate((x, -x)):
        if activation == "linked_prelu":
            shape = [-1 if d == unit_dim % x.dim() else 1 for d in range(x.dim())]
            halves.append(torch.where(signed > 0, signed, weight[half].view(shape) * signed))
        else:
            halves.append({"relu": F.relu, "selu": F.selu, "silu": F.silu}[activation[7:]](signed))
    return torch.cat(halves, unit_dim)


def make_weight(activation: str, x: Tensor, unit_dim: int) -> Tensor | None:
    """Slopes ``[2, C]`` of any sign, if the activation has any."""
    if activation != "linked_prelu":
        return None
    units = x.shape[unit_dim]
    slopes = torch.randn(2, units, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return slopes.to(x.device, x.dtype)


def run_linked_forward(
    backend: str,
    activation: str,
    x: Tensor,
    weight: Tensor | None = None,
    unit_dim: int = 1,
    position_points: bool = False,
    margin: float = 1.0,
    extrema_kind: str = "none",
) -> ForwardResult:
    """The operator of one backend."""
    options = (activation, 0.0, unit_dim, position_points, margin, extrema_kind)
    return ForwardResult(*LINKED_OVERLOADS[backend](x, weight, *options))
