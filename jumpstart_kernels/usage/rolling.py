"""``jk.watch``: the state of a model's units while it trains, from a sample of its forwards."""

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from jumpstart_kernels.functional.checks import check_choice
from jumpstart_kernels.functional.numbers import check_count, check_ratio
from jumpstart_kernels.nn import records
from jumpstart_kernels.nn.recording import check_module
from jumpstart_kernels.usage.collecting import Extras, UsageWatch
from jumpstart_kernels.usage.forwards import Forwards
from jumpstart_kernels.usage.report import UsageReport
from jumpstart_kernels.usage.running import layer_by_layer
from jumpstart_kernels.usage.unit_warnings import UnitWarnings
from jumpstart_kernels.usage.watching import unwrapped
from jumpstart_kernels.usage.window import Window, on_cpu, samples_in, window_report, without_positions

MODES = ("training", "evaluation")


def watch(
    model: nn.Module,
    *,
    every: int = 100,
    window: int = 10,
    samples: int = 256,
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

    One forward of every ``every`` is observed, at a place that changes so that no rhythm of the loop hides
    any; those of training, in training mode with grad, apart from all others, such as evaluations and the
    acting of reinforcement learning. Whenever a window of training has been seen since the last time, it
    warns of layers with too many dead or linear units, once until they have recovered. Statuses are those of
    :class:`~jumpstart_kernels.UnitUsage`: a ReLU's unit is dead if it was positive nowhere in the window; a
    unit of a smooth activation (GELU, SiLU, tanh, ...) if it was saturated everywhere.

    An observed forward runs layer by layer, where others run compiled or fused code, and its backward
    likewise: its results may differ from theirs in rounding. Forwards inside ``torch.func`` transforms,
    exports, traces and captures of CUDA graphs are not observed, nor are recomputations of checkpointing, nor
    forwards of a thread while another one runs the model. What cannot be observed in a layer is left out with
    a warning. Layers are those that the model has now.

    Args:
        model: what the training loop calls: the wrapper, if there is one (DDP, ``torch.compile``). If it
            calls no model as a whole, use :meth:`~jumpstart_kernels.usage.rolling.ModelWatch.batch`.
        every: observe one forward in so many. 1 observes all.
        window: a report covers the last so many observed forwards, or more,
        samples: until it covers so many samples: a unit that fires for one in a hundred looks dead in ten.
        warn_dead: warn of a layer if more than this fraction of its units is dead; None for never.
        warn_linear: likewise for linear units.
        layers: as in :meth:`~jumpstart_kernels.UnitUsage.watch`.
        unit_dim: as in :meth:`~jumpstart_kernels.UnitUsage.watch`.
        dormancy: as of :class:`~jumpstart_kernels.UnitUsage`.
        effective_rank: as of :class:`~jumpstart_kernels.UnitUsage`; its 8 C² bytes are kept for each forward
            of the window.
        cosines: as of :class:`~jumpstart_kernels.UnitUsage`.

    Returns:
        The watch, for its reports; it lasts until :meth:`~jumpstart_kernels.usage.rolling.ModelWatch.remove`.
        Copies and pickles of the model are not watched.

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
    check_count("samples", samples)
    extras = Extras(cosines, dormancy, effective_rank)
    check_module(model)
    usage_watch = UsageWatch(unwrapped(model), layers=layers, unit_dim=unit_dim, extras=extras, strict=False)
    return ModelWatch(model, usage_watch, every, (window, samples), limits, extras)


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
        window: tuple[int, int],
        limits: Mapping[str, float | None],
        extras: Extras,
    ) -> None:
        self.forwards = dict.fromkeys(MODES, 0)
        self.history: list[dict[str, float]] = []
        self._model = model
        self._watch = usage_watch
        self._every = every
        self._extras = extras
        self._warnings = UnitWarnings(limits)
        self._seen = {mode: Window(*window) for mode in MODES}
        self._fresh = Window(*window)  # in training, since the last full window
        self._random = random.Random(0)  # not that of the training
        self._next = dict.fromkeys(MODES, 1)  # the forward to observe
        self._was_reset = False
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
        if across_ranks and in_process_group():
            gathered: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(gathered, forwards)
            forwards = [seen for of_rank in gathered for seen in of_rank]
        if not forwards:
            raise RuntimeError(f"no forward in {mode} has been observed: {self._reason(mode)}")
        return window_report(forwards, self._extras)

    def _reason(self, mode: str) -> str:
        """Why there is nothing to report."""
        other = MODES[1 - MODES.index(mode)]
        if self._was_reset and self.forwards[mode]:
            return "none since the last reset() or recycle(); see ModelWatch.full"
        if self.forwards[mode]:
            return (
                f"of {self.forwards[mode]}, none that was to be observed has ended with samples in a "
                "watched layer, in a tensor of two dimensions or more"
            )
        if self.forwards[other]:
            return f'all {self.forwards[other]} were in {other}: report("{other}")'
        return (
            "there was none. Call what is watched, as model(x) and not model.forward(x); watch what "
            "torch.compile returns, or the model after model.compile(); put `with watch.batch():` around "
            "loops that call parts of the model"
        )

    @property
    def full(self) -> bool:
        """Whether there has been a whole window of training since the start and the last :meth:`reset`."""
        return self._seen[MODES[0]].full

    def reset(self) -> None:
        """Forget the observed forwards, as :func:`~jumpstart_kernels.recycle` does; all counts stay."""
        for seen in (*self._seen.values(), self._fresh):
            seen.clear()
        self._was_reset = True

    def remove(self) -> None:
        """Stop watching; reports stay as they are. No effect if it is removed already."""
        self._hooks.detach()

    @contextmanager
    def batch(self, mode: str | None = None) -> Iterator[None]:
        """Inside the ``with`` block all counts as one forward; one that raises is dropped.

        For loops that call parts of the model, and for compiled code around it. A layer that is called twice
        in it is two layers, ``"relu"`` and ``"relu#2"``.

        Args:
            mode: ``"training"`` or ``"evaluation"``; by default that of the model at the begin.

        Raises:
            ValueError: ``mode`` is another one.
        """
        self.begin_batch(mode)
        try:
            yield
        except BaseException:
            self._hooks.end_batch(failed=True)
            raise
        self.end_batch()

    def begin_batch(self, mode: str | None = None) -> None:
        """The begin of a :meth:`batch`, for callbacks; it drops one that has not ended, as after an error."""
        if mode is not None:
            check_choice("mode", mode, MODES)
        self._given_mode = mode
        self._hooks.begin_batch()
        self._given_mode = None

    def end_batch(self) -> None:
        """The end of a :meth:`batch`. No effect without one."""
        self._hooks.end_batch()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()  # a copy of a model that holds its watch is not watched

    def _begin(self) -> None:
        training = self._model.training and (torch.is_grad_enabled() or records.is_unreachable())
        self._mode = self._given_mode or MODES[0 if training else 1]
        self.forwards[self._mode] = forward = self.forwards[self._mode] + 1
        if forward != self._next[self._mode]:
            return
        begin = forward + self._every - (forward - 1) % self._every  # of the next so many
        self._next[self._mode] = begin + self._random.randrange(self._every)
        self._observing = ExitStack()
        self._observing.enter_context(layer_by_layer())
        self._observing.callback(self._watch.stop)
        self._watch.start()

    def _end(self) -> None:
        seen = self._watch.take()
        self._abandon()
        samples = samples_in(seen)
        if not samples:
            return
        seen = without_positions(seen)
        self._seen[self._mode].append(seen, samples)
        if self._mode == "training":
            self._fresh.append(seen, samples)
            if self._fresh.full:
                self._judge()
                self._fresh.clear()

    def _abandon(self) -> None:
        """Drop what has been collected of a forward."""
        if self._observing is not None:
            self._observing.close()
            self._observing = None

    def _judge(self) -> None:
        """Look at the window that is full now."""
        statuses = Extras(dormancy=self._extras.dormancy)
        report = window_report(on_cpu(list(self._fresh)), statuses, points=False)
        names = ("unit_dead_ratio", "unit_linear_ratio")
        record = {"forward": float(self.forwards["training"]), **{name: report[name] for name in names}}
        if report.dormancy:
            record["unit_dormant_ratio"] = report.dormant_ratio()
        self.history.append(record)
        if not (in_process_group() and torch.distributed.get_rank()):  # all others would say nearly the same
            observed = f"{len(self._fresh)} observed forwards ({self._fresh.total} samples)"
            self._warnings.judge(report, observed, self.forwards["training"])


def in_process_group() -> bool:
    """Whether there are other processes to ask."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()
