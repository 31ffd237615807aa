"""The report of a model's units over a loader."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from jumpstart_kernels.usage.batches import call_with_batch, track
from jumpstart_kernels.usage.metric import UnitUsage
from jumpstart_kernels.usage.report import UsageReport
from jumpstart_kernels.usage.running import evaluating
from jumpstart_kernels.usage.watching import uncompiled


def unit_usage(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    layers: Iterable[str] | None = None,
    unit_dim: int | str = "auto",
    cosines: bool = False,
    dormancy: bool = False,
    effective_rank: bool = False,
    progress: bool = False,
) -> UsageReport:
    """Run ``model`` over ``loader`` in ``eval()`` without grad and report dead, linear and nonlinear units.

    Under ``torch.distributed`` the report covers the data of all processes.

    Args:
        model: any model with layers to watch; a compiled one runs uncompiled. Its training
            flags are restored. Functional calls, such as ``F.relu``, are no layers until
            :func:`~jumpstart_kernels.replace_relu` has made layers of them.
        loader: yields the model's input: a tensor; a dict of tensors, passed as keyword arguments (as for
            transformers); or a tuple or list whose first item is one of these. Arrays become tensors;
            floating-point ones are cast to the dtype of the parameters. All are moved to the device of the
            first parameter. For other batches write your own loop inside :meth:`UnitUsage.watch`.
        layers: as in :meth:`UnitUsage.watch`.
        unit_dim: as in :meth:`UnitUsage.watch`.
        cosines: as of :class:`UnitUsage`, like ``dormancy`` and ``effective_rank``.
        progress: whether to show a progress bar, if ``rich`` is installed.

    Raises:
        TypeError: a batch has another type.
        ValueError: the loader is empty; and the errors of :meth:`UnitUsage.watch`.
    """
    model = uncompiled(model)
    metric = UnitUsage(cosines=cosines, dormancy=dormancy, effective_rank=effective_rank)
    with metric.watch(model, layers=layers, unit_dim=unit_dim), evaluating(model) as device:
        metric.to(device)
        for batch in track(loader, "unit usage") if progress else loader:
            call_with_batch(model, batch, device, "a batch of loader")
    if not metric.update_called:
        raise ValueError("loader must yield at least one batch, got none")
    return metric.report()
