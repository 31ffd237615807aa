"""A callback for Lightning: steps and saves the schedule of λ, logs λ and the usage on the validation set.

You add the penalty itself to your loss:

>>> class Classifier(LightningModule):
...     def training_step(self, batch, _):
...         x, y = batch
...         loss = cross_entropy(self.model(x), y)
...         return loss + self.schedule.weight * jk.penalty(self)
>>> schedule = jk.schedules.CosinePenalty(0.1, total_steps=10_000)
>>> trainer = Trainer(callbacks=[JumpstartCallback(schedule)])
>>> trainer.fit(Classifier(schedule), ...)
"""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

try:  # the package that the program has imported, else the one that is installed
    if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
        from pytorch_lightning.callbacks import Callback
    else:
        try:
            from lightning.pytorch.callbacks import Callback  # type: ignore[assignment]
        except ImportError:
            from pytorch_lightning.callbacks import Callback  # type: ignore[assignment]
except ImportError as error:
    raise ImportError(
        "jumpstart_kernels.integrations.lightning needs Lightning: pip install jumpstart_kernels[lightning]"
    ) from error

from jumpstart_kernels.functional.numbers import check_count
from jumpstart_kernels.integrations.observer import (
    UsageObserver,
    as_schedule,
    check_interval,
    latest,
    logged,
    observe,
)
from jumpstart_kernels.schedules import PenaltySchedule
from jumpstart_kernels.usage.report import UsageReport
from jumpstart_kernels.usage.rolling import ModelWatch


class JumpstartCallback(Callback):
    """Steps the schedule of λ, saves it with the checkpoint, and logs λ and the usage ratios.

    It logs ``jumpstart/weight`` in training, and after each validation the ten ratios,
    ``jumpstart/unit_dead_ratio`` and so on, from the validation's own forwards. A
    :class:`~jumpstart_kernels.schedules.StopWhenHealthy` observes them. With ``watch_every`` the model is
    also watched in training, and ``jumpstart/train_unit_dead_ratio`` and so on are logged window by window.

    Args:
        weight: the schedule whose ``weight`` the loss uses; or a number, which is only logged; by default
            there is none.
        interval: step the schedule after every optimizer ``"step"``, or after the last batch of every
            training ``"epoch"``, before checkpoints are saved.
        usage: whether to collect the usage in validation.
        layers: as in :meth:`~jumpstart_kernels.UnitUsage.watch`.
        unit_dim: as in :meth:`~jumpstart_kernels.UnitUsage.watch`.
        cosines: whether to also log the mean cosine between samples of each layer,
            ``jumpstart/cosine/<layer>``, for which every pre-activation of the validation is read again.
        dormancy: whether to also log the fraction of dormant units, for which every output is read again.
        watch_every: watch one training batch in so many, as :func:`~jumpstart_kernels.watch` does; by default
            none is watched.
        watch_options: further options of :func:`~jumpstart_kernels.watch`, such as ``{"window": 20}``.
        prefix: of the logged names.

    Attributes:
        schedule: the schedule of λ, or None.
        report: the :class:`~jumpstart_kernels.usage.report.UsageReport` of the last validation, or None.
        training_watch: the :class:`~jumpstart_kernels.usage.rolling.ModelWatch` of the training, or None.

    Raises:
        TypeError, ValueError: an argument has the wrong type or an invalid value.
    """

    def __init__(
        self,
        weight: float | PenaltySchedule | None = None,
        *,
        interval: str = "step",
        usage: bool = True,
        layers: Iterable[str] | None = None,
        unit_dim: int | str = "auto",
        cosines: bool = False,
        dormancy: bool = False,
        watch_every: int | None = None,
        watch_options: Mapping[str, Any] | None = None,
        prefix: str = "jumpstart/",
    ) -> None:
        super().__init__()
        check_interval(interval)
        self.schedule = None if weight is None else as_schedule(weight)
        self.interval = interval
        self.usage = usage
        self.prefix = prefix
        self.report: UsageReport | None = None
        self.training_watch: ModelWatch | None = None
        self._watch_every = None if watch_every is None else check_count("watch_every", watch_every, least=1)
        self._watch_options = dict(watch_options or {})
        self._observer = UsageObserver(layers, unit_dim, cosines, dormancy)
        self._logged_windows = 0
        self._optimizer_steps = 0
        self._stepped_epoch = -1

    @property
    def state_key(self) -> str:
        """Key of the callback's state in a checkpoint; several in one trainer differ in ``prefix``."""
        return self._generate_state_key(prefix=self.prefix)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._stepped_epoch = -1  # from an earlier fit; checkpoints are loaded after this

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._optimizer_steps = trainer.global_step
        if self._watch_every is not None:
            options = (self._watch_every, self._watch_options)
            self.training_watch = self._observer.watch(pl_module, *options)
            self._logged_windows = 0

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        if self.training_watch is not None:
            self.training_watch.begin_batch("training")

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.training_watch is not None:
            self.training_watch.remove()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
        if self.training_watch is not None:
            self.training_watch.end_batch()
            ratios, self._logged_windows = latest(self.training_watch, self._logged_windows)
            named = {f"{self.prefix}{name}": value for name, value in ratios.items()}
            pl_module.log_dict(named, on_step=True, on_epoch=False)
        if self.schedule is None:
            return
        if trainer.global_step != self._optimizer_steps:  # else the batch only accumulates gradients
            self._optimizer_steps = trainer.global_step
            pl_module.log(f"{self.prefix}weight", self.schedule.weight, on_step=True, on_epoch=False)
            if self.interval == "step":
                self.schedule.step()
        if trainer.is_last_batch:
            self._end_epoch(trainer)  # a checkpoint after the last batch resumes at the next epoch

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._end_epoch(trainer)  # an epoch that was cut short

    def _end_epoch(self, trainer: Any) -> None:
        if self.schedule is not None and self.interval == "epoch":
            if self._stepped_epoch != trainer.current_epoch:
                self.schedule.step()
            self._stepped_epoch = trainer.current_epoch

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if self.usage and not trainer.sanity_checking:
            self._observer.start(pl_module)

    def on_validation_batch_start(self, *_: Any, **__: Any) -> None:
        self._observer.forget_batch()

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        self._observer.end_batch()

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        report = self._observer.report()
        if report is None:
            return
        self.report = report
        # The report already covers all processes.
        pl_module.log_dict({f"{self.prefix}{name}": value for name, value in logged(report).items()})
        if trainer.state.fn == "fit" and self.schedule is not None:
            observe(self.schedule, report)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self._observer.stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._observer.stop()
        self.on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The state of the schedule, and the epoch after which it was stepped."""
        if self.schedule is None:
            return {}
        return {"schedule": self.schedule.state_dict(), "stepped_epoch": self._stepped_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume the schedule from where the checkpoint was saved."""
        if self.schedule is not None:
            self.schedule.load_state_dict(state_dict["schedule"])
            self._stepped_epoch = state_dict["stepped_epoch"]
