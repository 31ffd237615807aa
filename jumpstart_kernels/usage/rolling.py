"""``jk.watch``: the state of a model's units while it trains, from a sample of its forwards."""

import warnings
from collections import deque
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from jumpstart_kernels.functional.checks import check_choice
from jumpstart_kernels.functional.numbers import check_count, check_ratio
from jumpstart_kernels.nn.recording import check_module
from jumpstart_kernels.usage.collecting import Extras, LayersSeen, UsageWatch
from jumpstart_kernels.usage.forwards import Forwards
from jumpstart_kernels.usage.report import UsageReport
from jumpstart_kernels.usage.watching import uncompiled_calls, unwrapped
from jumpstart_kernels.usage.window import on_cpu, window_report, without_positions

MODES = ("training", "evaluation")
NAMED = 5  # layers that a warning names


class UnitWarning(UserWarning):
    """More of a layer's units are dead or linear than :func:`~jumpstart_kernels.watch` is to tolerate."""


def watch(
    model: nn.Module,
    *,
    every: int = 50,
    window: int = 10,
    warn_dead: float | None = 0.1,
    warn_linear: float | None = 0.1,
    layers: Iterable[str] | None = None,
    unit_dim: int | str = "auto",
    dormancy: bool = True,
    effective_rank: bool = False,
    cosines: bool = False,
) -> "ModelWatch":
    """Watch a model's units while it trains; nothing of the model, its loss or its results changes.

    >>> watch = jk.watch(model)
    >>> for x, y in loader:  # warns by itself where units die
    ...     step(model, x, y)
    >>> print(watch.report())

    Every ``every``-th forward in training mode is observed, and every ``every``-th in ``eval()``, apart.
    After ``window`` observed forwards in training, and after every further ``window``, it warns of layers
    with too many dead or linear units, once until they have recovered. Statuses are those of
    :class:`~jumpstart_kernels.UnitUsage`: a ReLU's unit is dead if it was positive nowhere in the window; a
    unit of a smooth activation (GELU, SiLU, tanh, ...) if it was saturated everywhere.

    An observed forward of a compiled model runs uncompiled, as its backward does: its results may differ in
    rounding. Forwards inside ``torch.func`` transforms, exports, traces and captures of CUDA graphs are not
    observed, nor are recomputations of checkpointing.

    Args:
        model: what the training loop calls: the wrapper, if there is one (DDP, ``torch.compile``). If it
            calls no model as a whole, use :meth:`ModelWatch.begin_batch` and :meth:`~ModelWatch.end_batch`.
        every: observe one forward in so many. 1 observes all.
        window: how many observed forwards a report covers. Take more if a batch has few samples: whatever
            fires for one sample in a hundred looks dead in ten.
        warn_dead: warn of a layer if more than this fraction of its units is dead; None for never.
        warn_linear: likewise for linear units.
        layers: as in :meth:`~jumpstart_kernels.UnitUsage.watch`.
        unit_dim: as in :meth:`~jumpstart_kernels.UnitUsage.watch`.
        dormancy: as of :class:`~jumpstart_kernels.UnitUsage`.
        effective_rank: as of :class:`~jumpstart_kernels.UnitUsage`; its 8 C² bytes are kept for each forward
            of the window.
        cosines: as of :class:`~jumpstart_kernels.UnitUsage`.

    Returns:
        The watch, for its reports; it lasts until :meth:`ModelWatch.remove`. Copies and pickles of the model
        are not watched.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: there is no such layer, no layer at all, or a number is out of range.
    """
    limits = {
        "dead": None if warn_dead is None else check_ratio("warn_dead", warn_dead),
        "linear": None if warn_linear is None else check_ratio("warn_linear", warn_linear),
    }
    check_count("every", every, least=1)
    check_count("window", window, least=1)
    extras = Extras(cosines, dormancy, effective_rank)
    check_module(model)
    usage_watch = UsageWatch(unwrapped(model), layers=layers, unit_dim=unit_dim, extras=extras)
    return ModelWatch(model, usage_watch, every, window, limits, extras)


class ModelWatch:
    """What :func:`jumpstart_kernels.watch` returns. In a ``with`` statement it is removed at the end.

    Attributes:
        forwards: how many forwards in ``"training"`` and ``"evaluation"`` there were, observed or not.
        history: after every full window of training, how many forwards in training there were by then
            (``"forward"``) and the fractions of units that were dead, linear and, with ``dormancy``, dormant
            (``"unit_dead_ratio"``, ...): records for :func:`jumpstart_kernels.plots.learning_curves`.
    """

    def __init__(
        self,
        model: nn.Module,
        usage_watch: UsageWatch,
        every: int,
        window: int,
        limits: dict[str, float | None],
        extras: Extras,
    ) -> None:
        self.forwards = dict.fromkeys(MODES, 0)
        self.history: list[dict[str, float]] = []
        self._model = model
        self._watch = usage_watch
        self._every, self._window = every, window
        self._limits, self._extras = limits, extras
        self._seen: dict[str, deque[LayersSeen]] = {mode: deque(maxlen=window) for mode in MODES}
        self._fresh = 0  # observed forwards in training since the last full window
        self._warned: set[tuple[str, str]] = set()  # statuses and layers
        self._mode = MODES[0]  # of the forward that is under way
        self._given_mode: str | None = None  # of a batch that begins
        self._observing: ExitStack | None = None  # while it is observed
        self._hooks = Forwards(model, self._begin, self._end, self._abandon)

    def __enter__(self) -> "ModelWatch":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        counts = ", ".join(f"{number} forwards in {mode}" for mode, number in self.forwards.items())
        return f"ModelWatch(of a {type(self._model).__name__}: {counts}; one in {self._every} observed)"

    def report(self, mode: str = "training", *, across_ranks: bool = False) -> UsageReport:
        """The units over the last observed forwards, ``window`` at most.

        Args:
            mode: ``"training"`` or ``"evaluation"``.
            across_ranks: whether to cover the forwards of all processes of ``torch.distributed``, all of
                which must then call this. By default each reports its own.

        Raises:
            ValueError: ``mode`` is another one.
            RuntimeError: no forward was observed, in no process.
        """
        check_choice("mode", mode, MODES)
        forwards = on_cpu(list(self._seen[mode]))
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if across_ranks and distributed:
            gathered: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(gathered, forwards)
            forwards = [seen for of_rank in gathered for seen in of_rank]
        if not forwards:
            raise RuntimeError(
                f"no forward in {mode} has been observed, of {self.forwards[mode]}: call the model that is "
                "watched, as model(x) and not model.forward(x). If it is compiled, watch what torch.compile "
                "returns, and after model.compile(); if it runs inside other compiled code, put "
                "begin_batch() and end_batch() around that"
            )
        return window_report(forwards, self._extras)

    def reset(self) -> None:
        """Forget the observed forwards, as :func:`~jumpstart_kernels.recycle` does; all counts stay."""
        for seen in self._seen.values():
            seen.clear()
        self._fresh = 0

    def remove(self) -> None:
        """Stop watching; reports stay as they are. No effect if it is removed already."""
        self._hooks.detach()

    def begin_batch(self, mode: str | None = None) -> None:
        """Count all that runs until :meth:`end_batch` as one forward.

        For loops that call parts of the model, and for compiled code around it. A batch that was begun and
        not ended, as after an error, is dropped.

        Args:
            mode: ``"training"`` or ``"evaluation"``; by default that in which the model is now.

        Raises:
            ValueError: ``mode`` is another one.
        """
        if mode is not None:
            check_choice("mode", mode, MODES)
        self._given_mode = mode
        self._hooks.begin_batch()
        self._given_mode = None

    def end_batch(self) -> None:
        """End the batch: see :meth:`begin_batch`. No effect without one."""
        self._hooks.end_batch()

    def _begin(self) -> None:
        self._mode = self._given_mode or (MODES[0] if self._model.training else MODES[1])
        self.forwards[self._mode] += 1
        if (self.forwards[self._mode] - 1) % self._every:
            return
        self._observing = ExitStack()
        self._observing.enter_context(uncompiled_calls())
        self._observing.callback(self._watch.stop)
        self._watch.start()

    def _end(self) -> None:
        seen = self._watch.take()
        self._abandon()
        if seen.extrema:
            self._seen[self._mode].append(without_positions(seen))
            self._fresh += self._mode == "training"
        if self._fresh == self._window:
            self._fresh = 0
            self._judge()

    def _abandon(self) -> None:
        """Drop what has been collected of a forward."""
        if self._observing is not None:
            self._observing.close()
            self._observing = None

    def _judge(self) -> None:
        """Look at the window that is full now."""
        statuses = Extras(dormancy=self._extras.dormancy)
        report = window_report(on_cpu(list(self._seen["training"])), statuses)
        names = ("unit_dead_ratio", "unit_linear_ratio")
        record = {"forward": float(self.forwards["training"]), **{name: report[name] for name in names}}
        if report.dormancy:
            record["unit_dormant_ratio"] = report.dormant_ratio()
        self.history.append(record)
        for status, limit in self._limits.items():
            if limit is not None:
                self._warn(report, status, limit)

    def _warn(self, report: UsageReport, status: str, limit: float) -> None:
        """Warn of the layers that have come to have too many units of this status."""
        above = {}
        for name, layer in report.layers.items():
            count = getattr(layer, status)
            if count > limit * layer.units:
                above[name] = count
            else:
                self._warned.discard((status, name))
        fresh = {name: count for name, count in above.items() if (status, name) not in self._warned}
        self._warned.update((status, name) for name in fresh)
        ranks = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not fresh or (ranks and torch.distributed.get_rank() != 0):  # all would say nearly the same
            return
        worst = sorted(fresh, key=lambda name: fresh[name] / report.layers[name].units, reverse=True)
        shown = ", ".join(f"{name} ({fresh[name]} of {report.layers[name].units})" for name in worst[:NAMED])
        more = f" and {len(worst) - NAMED} more layers" if len(worst) > NAMED else ""
        samples = report.layers[worst[0]].points
        warnings.warn(
            f"more than {limit:.0%} of the units are {status} in {shown}{more}, in {self._window} observed "
            f"forwards ({samples} samples) up to forward {self.forwards['training']}",
            UnitWarning,
            stacklevel=2,
        )
