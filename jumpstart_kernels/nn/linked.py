"""The linked activations, ``cat(g(x), g(−x))``, and those that also record what the penalty needs.

Riera Molina, Pujol, *Solving internal covariate shift in deep learning with linked neurons*, arXiv
1712.02609.
"""

import numbers

import torch
from torch import Tensor, nn

from jumpstart_kernels.functional.checks import check_unit_dim
from jumpstart_kernels.functional.linked import run_linked_layer, run_linked_output
from jumpstart_kernels.nn.activation import JumpstartActivation, RunOptions
from jumpstart_kernels.ops.arguments import Record


class LinkedActivation(nn.Module):
    """A linked activation: see :class:`~jumpstart_kernels.LinkedReLU`."""

    activation: str
    """Its name in :data:`~jumpstart_kernels.ops.activations.LINKED_ACTIVATIONS`."""

    def __init__(self, *, unit_dim: int = 1) -> None:
        super().__init__()
        check_unit_dim(unit_dim)
        self.unit_dim = unit_dim

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, *]`` to ``[N, 2C, *]``."""
        return run_linked_output(self.activation, x, self._weight_for(x), self.unit_dim)

    def _weight_for(self, x: Tensor) -> Tensor | None:
        """The learnable slopes, if it has any."""
        return None

    def extra_repr(self) -> str:
        return f"unit_dim={self.unit_dim}"


class LinkedReLU(LinkedActivation):
    """``cat(relu(x), relu(−x))`` along the units, twice as many: no unit can die. Also known as CReLU.

    ``forward(x)`` is :func:`jumpstart_kernels.functional.linked_relu`: shapes, dtypes, layout and errors are
    described there. What follows must expect twice the units; :func:`~jumpstart_kernels.link_relu` changes a
    model accordingly.

    Args:
        unit_dim: dimension of the units: 1 for ``[N, C]`` and ``[N, C, H, W]``, −1 for ``[N, T, C]``.

    Raises:
        TypeError: ``unit_dim`` is not an int.
    """

    activation = "linked_relu"


class LinkedPReLU(LinkedActivation):
    """``cat(prelu(x), prelu(−x))`` along the units, each half with learnable slopes of its own.

    ``forward(x)`` is :func:`jumpstart_kernels.functional.linked_prelu`. Under autocast the slopes are cast to
    the dtype of ``x``, as in ``nn.PReLU``.

    Args:
        num_parameters: slopes of each half: 1, shared by all units, or the number of units.
        init: initial slope.
        unit_dim: as of :class:`LinkedReLU`.
        device: of the slopes.
        dtype: of the slopes.

    Attributes:
        weight: the slopes ``[2, num_parameters]``, of ``x`` and of ``−x``.

    Raises:
        TypeError: ``num_parameters`` or ``unit_dim`` is not an int; ``init`` is no number.
        ValueError: ``num_parameters`` is less than 1.
    """

    activation = "linked_prelu"

    def __init__(
        self,
        num_parameters: int = 1,
        init: float = 0.25,
        *,
        unit_dim: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_slopes(num_parameters, init)
        super().__init__(unit_dim=unit_dim)
        self.num_parameters = num_parameters
        self.init = float(init)
        self.weight = nn.Parameter(torch.empty((2, num_parameters), device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set all slopes to their initial value."""
        nn.init.constant_(self.weight, self.init)

    def _weight_for(self, x: Tensor) -> Tensor:
        if self.weight.dtype != x.dtype and torch.is_autocast_enabled(x.device.type):
            return self.weight.to(x.dtype)
        return self.weight

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}, {super().extra_repr()}"


class LinkedSELU(LinkedActivation):
    """``cat(selu(x), selu(−x))`` along the units; see :class:`LinkedReLU`.

    ``forward(x)`` is :func:`jumpstart_kernels.functional.linked_selu`.

    Args:
        unit_dim: as of :class:`LinkedReLU`.
    """

    activation = "linked_selu"


class LinkedSiLU(LinkedActivation):
    """``cat(silu(x), silu(−x))`` along the units, the paper's Swish; see :class:`LinkedReLU`.

    ``forward(x)`` is :func:`jumpstart_kernels.functional.linked_silu`.

    Args:
        unit_dim: as of :class:`LinkedReLU`.
    """

    activation = "linked_silu"


class _JumpstartLinked(JumpstartActivation, LinkedActivation):
    """What the layers that also record have in common."""

    inplace = False

    def __init__(
        self,
        *,
        unit_dim: int = 1,
        points: str = "sample",
        margin: float = 1.0,
        tie_breaking: str = "single",
    ) -> None:
        LinkedActivation.__init__(self, unit_dim=unit_dim)
        self._set_options(unit_dim, points, margin, tie_breaking)

    def _run_eagerly(
        self, x: Tensor, bias: Tensor | None, unit_dim: int, options: RunOptions
    ) -> tuple[Tensor, Record] | None:
        return None

    def _run(
        self, x: Tensor, bias: Tensor | None, unit_dim: int, options: RunOptions
    ) -> tuple[Tensor, Record]:
        points, margin, tie_breaking, _, extrema_kind = options
        return run_linked_layer(
            x, self._weight_for(x), self.activation, unit_dim, points, margin, tie_breaking, extrema_kind
        )

    def _run_plain(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return LinkedActivation.forward(self, x)


class JumpstartLinkedReLU(_JumpstartLinked, LinkedReLU):
    """:class:`LinkedReLU` that records the slack of its shared pre-activation, from the same pass.

    ``forward(x)`` returns ``cat(relu(x), relu(−x))``. When it records, and what, is as in
    :class:`~jumpstart_kernels.JumpstartReLU`, for the ``C`` units of ``x``. No unit of a linked layer can
    die, but without Jumpstart all of its inputs may still be on one side, where it is linear.

    Args:
        unit_dim: as of :class:`~jumpstart_kernels.JumpstartReLU`, like all other options and their errors.
    """

    plain = LinkedReLU


class JumpstartLinkedPReLU(_JumpstartLinked, LinkedPReLU):
    """:class:`LinkedPReLU` that records the slack of its shared pre-activation, from the same pass.

    Args:
        num_parameters: as of :class:`LinkedPReLU`, like ``init``, ``device`` and ``dtype``.
        unit_dim: as of :class:`~jumpstart_kernels.JumpstartReLU`, like all other options and their errors.
    """

    plain = LinkedPReLU

    def __init__(
        self,
        num_parameters: int = 1,
        init: float = 0.25,
        *,
        unit_dim: int = 1,
        points: str = "sample",
        margin: float = 1.0,
        tie_breaking: str = "single",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        LinkedPReLU.__init__(self, num_parameters, init, unit_dim=unit_dim, device=device, dtype=dtype)
        self._set_options(unit_dim, points, margin, tie_breaking)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}, {JumpstartActivation.extra_repr(self)}"


class JumpstartLinkedSELU(_JumpstartLinked, LinkedSELU):
    """:class:`LinkedSELU` that records the slack of its shared pre-activation, from the same pass.

    Args:
        unit_dim: as of :class:`~jumpstart_kernels.JumpstartReLU`, like all other options and their errors.
    """

    plain = LinkedSELU


class JumpstartLinkedSiLU(_JumpstartLinked, LinkedSiLU):
    """:class:`LinkedSiLU` that records the slack of its shared pre-activation, from the same pass.

    Args:
        unit_dim: as of :class:`~jumpstart_kernels.JumpstartReLU`, like all other options and their errors.
    """

    plain = LinkedSiLU


LINKED_LAYERS: dict[type[LinkedActivation], type[JumpstartActivation]] = {
    LinkedReLU: JumpstartLinkedReLU,
    LinkedPReLU: JumpstartLinkedPReLU,
    LinkedSELU: JumpstartLinkedSELU,
    LinkedSiLU: JumpstartLinkedSiLU,
}


def _check_slopes(num_parameters: int, init: float) -> None:
    if isinstance(num_parameters, bool) or not isinstance(num_parameters, int):
        raise TypeError(f"num_parameters must be an int, got {type(num_parameters).__name__}")
    if num_parameters < 1:
        raise ValueError(f"num_parameters must be at least 1, got {num_parameters}")
    if isinstance(init, bool) or not isinstance(init, numbers.Real):
        raise TypeError(f"init must be a number, got {type(init).__name__}")
