"""Warnings of layers whose units die, or do nothing but pass on."""

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch

from jumpstart_kernels.usage.report import UsageReport

NAMED = 5  # layers that a warning names
RECOVERED = 0.5  # of the limit: a layer with no more such units may be warned of again


class UnitWarning(UserWarning):
    """More of a layer's units are dead or linear than :func:`~jumpstart_kernels.watch` is to tolerate."""


class UnitWarnings:
    """Warns of each layer once, until it has recovered.

    Args:
        limits: by status, ``"dead"`` and ``"linear"``: the largest fraction of a layer's units that is not
            warned of; None for no warning.
    """

    def __init__(self, limits: Mapping[str, float | None]) -> None:
        self._limits = limits
        self._warned: set[tuple[str, str]] = set()  # statuses and layers

    def judge(self, report: UsageReport, observed: str, forward: int) -> None:
        """Warn of what has come about.

        Args:
            report: over the last window.
            observed: what that was, in words.
            forward: how many there have been.
        """
        for status, limit in self._limits.items():
            if limit is not None:
                self._judge(report, status, limit, observed, forward)

    def _judge(self, report: UsageReport, status: str, limit: float, observed: str, forward: int) -> None:
        fresh = {}
        for name, layer in report.layers.items():
            count = getattr(layer, status)
            if count > limit * layer.units and (status, name) not in self._warned:
                fresh[name] = count
            elif count <= RECOVERED * limit * layer.units:
                self._warned.discard((status, name))
        if not fresh:
            return
        self._warned.update((status, name) for name in fresh)
        worst = sorted(fresh, key=lambda name: fresh[name] / report.layers[name].units, reverse=True)
        shown = ", ".join(f"{name} ({fresh[name]} of {report.layers[name].units})" for name in worst[:NAMED])
        more = f" and {len(worst) - NAMED} more layers" if len(worst) > NAMED else ""
        warnings.warn(
            f"more than {limit:.0%} of the units are {status} in {shown}{more}, in {observed} up to forward "
            f"{forward}",
            UnitWarning,
            stacklevel=_level_of_user(),
        )


def _level_of_user() -> int:
    """The ``stacklevel`` at which the caller's warning shows a line outside of this package and PyTorch."""
    packages = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(packages):
        frame, level = frame.f_back, level + 1
    return level
