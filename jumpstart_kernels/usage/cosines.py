"""The mean cosine between samples: whether a layer's input still tells them apart.

In a deep plain network no unit need be dead for all inputs to be mapped to nearly one direction: Jakub, Nica,
*Depth Degeneracy in Neural Networks: Vanishing Angles in Fully Connected ReLU Networks on Initialization*,
arXiv 2302.09712.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from jumpstart_kernels.functional.checks import check_input
from jumpstart_kernels.nn.activation import JumpstartActivation, LayerExtrema, as_batch
from jumpstart_kernels.ops.layout import along_units
from jumpstart_kernels.usage.watching import Watch, take_once, uncompiled


class SampleCosine(NamedTuple):
    """The mean cosine between the samples of one forward of one layer, and over how many pairs; 0-dim."""

    mean: Tensor
    """float32, float64 for float64; NaN without a pair."""
    pairs: Tensor
    """int64, N(N − 1) ordered ones."""


class CosineWatch(Watch[SampleCosine]):
    """Collects the mean cosine between samples at every call of a model's layers until it is taken.

    Args:
        model: as in :class:`~jumpstart_kernels.usage.watching.Watch`, like the other options.
        unit_dim: likewise; it only decides whether an input is a batch.
    """

    def _see(self, name: str, module: nn.Module, x: Tensor) -> SampleCosine:
        points = "sample"
        if isinstance(module, JumpstartActivation):
            link, points = module._bias_link, module.points
            bias = None if link is None else link.bias_for(x)
            if bias is not None:
                x = x + along_units(bias, x.dim(), module.unit_dim % x.dim())
            x, unit_dim = as_batch(x, module.unit_dim, points, module._derived)
        else:
            x, unit_dim = as_batch(x, self._unit_dims[name], points, self._derived)
        # Where the units come first, with points="position", the samples come next.
        samples = 1 if check_input(x, unit_dim, points == "position") == 0 else 0
        return sample_cosine(x.detach(), samples)


def sample_cosines(
    model: nn.Module, x: Any, *, layers: Iterable[str] | None = None, unit_dim: int | str = "auto"
) -> dict[str, float]:
    """The mean cosine between samples in front of every layer, from one forward in ``eval()`` without grad.

    Each sample of a layer's pre-activation ``[N, C, *]`` is one vector; the mean is over all pairs of
    different samples. Near 1 all inputs are mapped to one direction. Time and memory are linear in the size
    of the pre-activation: it is read again, and a copy of it made, one layer after the other.

    BatchNorm does nothing in ``eval()`` until it has trained, and training mode is another network then: to
    see that one, watch a forward by ``UnitUsage(cosines=True)``.

    Args:
        model: any model with layers to watch; a compiled one runs uncompiled. Its training
            flags are restored.
        x: its input, in a form that :func:`~jumpstart_kernels.unit_usage` accepts from a loader.
        layers: as in :meth:`~jumpstart_kernels.UnitUsage.watch`.
        unit_dim: as in :meth:`~jumpstart_kernels.UnitUsage.watch`.

    Returns:
        By layer, in the order of the calls; computed in float32, float64 for float64. The cosine with a
        sample that is 0 throughout counts as 0. A sample with NaN or ±inf makes it NaN, as do fewer than two
        samples. A layer called twice is two layers, ``"relu"`` and ``"relu#2"``.

    Raises:
        TypeError: ``model``, ``x``, ``layers`` or ``unit_dim`` has the wrong type.
        ValueError: there is no such layer, no layer at all, or none that ran.
    """
    model = uncompiled(model)
    cosines = take_once(CosineWatch(model, layers=layers, unit_dim=unit_dim), model, x)
    return {name: float(cosine.mean) for name, cosine in cosines.items()}


def sample_cosine(x: Tensor, dim: int = 0) -> SampleCosine:
    """The mean cosine between the samples of a floating-point tensor along ``dim``.

    With unit vectors u it is (‖Σu‖² − Σ‖u‖²) / (N(N − 1)), so that no pair needs to be looked at.
    """
    samples = x.shape[dim]
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    pairs = torch.full((), samples * (samples - 1), dtype=torch.int64, device=x.device)
    if x.numel() == 0 or samples < 2:
        mean = torch.zeros((), dtype=dtype, device=x.device)
        return SampleCosine(mean.masked_fill_(pairs == 0, torch.nan), pairs)
    rest = [d for d in range(x.dim()) if d != dim]
    # By its largest value first: squares of what has vanished or exploded would not be finite or not be > 0.
    largest = torch.linalg.vector_norm(x, torch.inf, rest, keepdim=True).to(dtype)
    nonzero = (largest != 0).sum()
    units = x / largest.masked_fill(largest == 0, 1.0)
    norms = torch.linalg.vector_norm(units, 2, rest, keepdim=True)
    units = units.div_(norms.masked_fill_(norms == 0, 1.0))
    total = units.sum(dim).square().sum() - nonzero  # each that is not 0 has the cosine 1 with itself
    return SampleCosine((total / pairs).clamp_(-1.0, 1.0), pairs)


def check_cosines(
    expected: bool, extrema: Mapping[str, LayerExtrema], cosines: Mapping[str, SampleCosine] | None
) -> None:
    """Raise unless there are cosines of all layers, or none where none are expected."""
    if not expected:
        if cosines is not None:
            raise ValueError("cosines must be None for a metric without them: UnitUsage(cosines=True)")
        return
    missing = [name for name in extrema if name not in (cosines or {})]
    if missing:
        raise ValueError(
            f"cosines must have every layer of extrema, not seen: {', '.join(missing)}. If the model is "
            "compiled, watch it before its first call, or watch the model that it wraps"
        )


def mean_over_batches(means: Tensor, pairs: Tensor) -> list[float]:
    """Each layer's mean over the pairs of all batches, from ``[batches, layers]``; NaN without a pair."""
    mean, weight = means.cpu().double(), pairs.cpu().double()
    total = mean.masked_fill(weight == 0, 0.0).mul(weight).sum(0)  # NaN · 0 is NaN
    return (total / weight.sum(0)).tolist()
