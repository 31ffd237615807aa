"""The penalty in the loss of Hugging Face's ``Trainer``, the schedule of λ, and the usage in evaluations.

>>> callback = JumpstartCallback(jk.schedules.CosinePenalty(0.1, total_steps=10_000))
>>> trainer = JumpstartTrainer(model=jk.replace_relu(model), args=..., callbacks=[callback])

For another trainer class: ``class MyTrainer(PenaltyMixin, Seq2SeqTrainer): ...``. With a custom
``compute_loss``, use the callback alone and add ``callback.schedule.weight * jk.penalty(model)``.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

try:
    from transformers import Trainer, TrainerCallback
except ImportError as error:
    raise ImportError(
        "jumpstart_kernels.integrations.transformers needs transformers and accelerate: "
        "pip install jumpstart_kernels[transformers]"
    ) from error

import torch

from jumpstart_kernels.functional.numbers import check_count
from jumpstart_kernels.integrations.observer import (
    UsageObserver,
    as_schedule,
    check_interval,
    latest,
    logged,
    observe,
)
from jumpstart_kernels.penalties.reduction import penalty
from jumpstart_kernels.schedules import PenaltySchedule
from jumpstart_kernels.usage.report import UsageReport
from jumpstart_kernels.usage.rolling import ModelWatch

_STATE = "jumpstart_schedule"  # key among the callbacks in trainer_state.json


class JumpstartCallback(TrainerCallback):
    """Steps the schedule of λ, saves it with the checkpoint, and collects the usage in every evaluation.

    The ten ratios are added to the evaluation's metrics as ``eval_unit_dead_ratio`` and so on, from the
    evaluation's own forwards; ``metric_for_best_model`` may name one. With :class:`JumpstartTrainer` every
    evaluation has and logs them; the callback alone only covers evaluations during training, in their
    metrics. A :class:`~jumpstart_kernels.schedules.StopWhenHealthy` observes those during training.

    With ``watch_every`` the model is also watched in training; :class:`JumpstartTrainer` then logs
    ``train_unit_dead_ratio`` and so on, window by window.

    Args:
        weight: the schedule of λ, or a number.
        interval: step the schedule after every optimizer ``"step"``, or after the last step of every
            ``"epoch"``, before checkpoints are saved.
        usage: whether to collect the usage in evaluations. Not for generation (``predict_with_generate``),
            where the number of forwards varies from batch to batch.
        layers: as in :meth:`~jumpstart_kernels.UnitUsage.watch`.
        unit_dim: as in :meth:`~jumpstart_kernels.UnitUsage.watch`.
        cosines: whether to also add the mean cosine between samples of each layer,
            ``eval_cosine/<layer>``, for which every pre-activation of the evaluation is read again.
        dormancy: whether to also add the fraction of dormant units, for which every output is read again.
        watch_every: watch one training batch in so many, as :func:`~jumpstart_kernels.watch` does; by default
            none is watched.
        watch_options: further options of :func:`~jumpstart_kernels.watch`, such as ``{"window": 20}``.
        **penalty_options: options of :func:`~jumpstart_kernels.penalty` in the trainer's loss.

    Attributes:
        schedule: the schedule of λ.
        report: the :class:`~jumpstart_kernels.usage.report.UsageReport` of the last evaluation, or None.
        training_watch: the :class:`~jumpstart_kernels.usage.rolling.ModelWatch` of the training, or None.

    Raises:
        TypeError, ValueError: an argument has the wrong type or an invalid value.
    """

    def __init__(
        self,
        weight: float | PenaltySchedule,
        *,
        interval: str = "step",
        usage: bool = True,
        layers: Iterable[str] | None = None,
        unit_dim: int | str = "auto",
        cosines: bool = False,
        dormancy: bool = False,
        watch_every: int | None = None,
        watch_options: Mapping[str, Any] | None = None,
        **penalty_options: Any,
    ) -> None:
        check_interval(interval)
        self.schedule = as_schedule(weight)
        self.interval = interval
        self.usage = usage
        self.penalty_options = penalty_options
        self.report: UsageReport | None = None
        self.training_watch: ModelWatch | None = None
        self._watch_every = None if watch_every is None else check_count("watch_every", watch_every, least=1)
        self._watch_options = dict(watch_options or {})
        self._observer = UsageObserver(layers, unit_dim, cosines, dormancy)
        self._logged_windows = 0
        self._training = False
        self._stepped_epoch = -1
        self._observed: UsageReport | None = None

    def watch(self, model: torch.nn.Module) -> None:
        """Watch the evaluation that starts now, until it ends or this is called again."""
        if self.usage:
            self._observer.start(model)

    def forget(self) -> None:
        """Stop watching, for example after a failed evaluation."""
        self._observer.stop()

    def add_usage(self, metrics: dict[str, float]) -> None:
        """Add the ratios of the finished evaluation to its metrics, with their prefix."""
        report = self._observer.report()
        self._observer.stop()
        if report is None:
            return
        self.report = report
        runtime = next((name for name in metrics if name.endswith("_runtime")), "eval_runtime")
        prefix = runtime.removesuffix("runtime")
        metrics.update({f"{prefix}{name}": value for name, value in logged(report).items()})

    def add_training_usage(self, logs: dict[str, float]) -> None:
        """Add the ratios of the last full window of training to a log, once."""
        ratios, self._logged_windows = latest(self.training_watch, self._logged_windows)
        logs.update(ratios)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._training = True
        self._stepped_epoch = -1
        stored = (state.stateful_callbacks or {}).get(_STATE)
        if stored is not None:
            self.schedule.load_state_dict(stored["attributes"])
        self._store(state)
        if self._watch_every is not None:
            self.training_watch = self._observer.watch(
                kwargs["model"], self._watch_every, self._watch_options
            )
            self._logged_windows = 0

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._training = False
        self.forget()
        if self.training_watch is not None:
            self.training_watch.remove()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.training_watch is not None:
            self.training_watch.begin_batch("training")

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.training_watch is not None:  # the next micro-batch is announced by nothing
            self.training_watch.end_batch()
            self.training_watch.begin_batch("training")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.training_watch is not None:
            self.training_watch.end_batch()
        self._step("step", state, control, kwargs.get("model"))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step("epoch", state, control, kwargs.get("model"))

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._observer.end_batch()

    def on_predict(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self.add_usage({} if metrics is None else metrics)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self.add_usage({} if metrics is None else metrics)
        if self._training and self.report is not None and self.report is not self._observed:
            self._observed = self.report
            observe(self.schedule, self.report)
            self._store(state)

    def _step(self, interval: str, state: Any, control: Any, model: Any) -> None:
        # A checkpoint at an epoch's last step resumes at the next epoch: on_epoch_end would be too late.
        epoch = math.ceil(state.epoch or 0.0)
        ends = interval == "epoch" or state.epoch == epoch
        if self.interval == "step":
            due = interval == "step"
        else:
            due = ends and self._stepped_epoch != epoch
            self._stepped_epoch = epoch if ends else self._stepped_epoch
        if due:
            self.schedule.step()
            self._store(state)
        if control.should_evaluate and model is not None:  # Trainer's own callbacks have already decided
            self.watch(model)

    def _store(self, state: Any) -> None:
        # Saved with checkpoints. With an ExportableState Trainer would create a new callback.
        if state.stateful_callbacks is None:
            state.stateful_callbacks = {}
        state.stateful_callbacks[_STATE] = {"args": {}, "attributes": self.schedule.state_dict()}


class PenaltyMixin:
    """Adds λ times the penalty to a ``Trainer``'s loss, with the schedule of its :class:`JumpstartCallback`.

    Only in training: the evaluation loss is that of the plain model. With gradient accumulation the penalty
    is the mean over the micro-batches, also if the model's own loss is summed over them. The log gets
    ``jumpstart_weight``, the λ of the last step, and ``jumpstart_penalty``, the mean since the last log; the
    logged ``loss`` includes λ times the penalty.
    """

    _penalty_weight = 0.0
    _penalty_sum: Any = 0.0
    _penalties: int = 0

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
        **kwargs: Any,
    ) -> Any:
        """As ``Trainer.compute_loss``, with the penalty added in training."""
        loss, outputs = super().compute_loss(  # type: ignore[misc]
            model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch, **kwargs
        )
        if model.training and torch.is_grad_enabled():
            callback = self._jumpstart_callback()
            value = penalty(model, **callback.penalty_options)
            self._penalty_sum = self._penalty_sum + value.detach()
            self._penalties += 1
            self._penalty_weight = callback.schedule.weight
            share = self._penalty_weight / self._summed_batches(num_items_in_batch)
            loss = loss + share * value.to(loss)
        return (loss, outputs) if return_outputs else loss

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As ``Trainer.evaluation_loop``, with the units watched."""
        self._jumpstart_callback().watch(self.model)  # type: ignore[attr-defined]
        try:
            return super().evaluation_loop(*args, **kwargs)  # type: ignore[misc]
        except BaseException:
            self._jumpstart_callback().forget()
            raise

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As ``Trainer.log``, with λ and the penalty in training, and the usage after an evaluation."""
        callback = self._jumpstart_callback()
        if "loss" in logs and self._penalties:
            logs["jumpstart_weight"] = self._penalty_weight
            logs["jumpstart_penalty"] = float(self._penalty_sum) / self._penalties
            self._penalty_sum, self._penalties = 0.0, 0
            callback.add_training_usage(logs)
        else:
            callback.add_usage(logs)
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _jumpstart_callback(self) -> JumpstartCallback:
        callbacks = self.callback_handler.callbacks  # type: ignore[attr-defined]
        found = [callback for callback in callbacks if isinstance(callback, JumpstartCallback)]
        if len(found) != 1:
            raise ValueError(
                f"callbacks must have one JumpstartCallback, which holds λ and its schedule, got {len(found)}"
            )
        return found[0]

    def _summed_batches(self, num_items_in_batch: Any) -> int:
        """How many micro-batch losses Trainer sums for a step without dividing by their number."""
        scaled = getattr(self, "loss_is_scaled_for_ga", None)
        if scaled is None:
            by_model = self.model_accepts_loss_kwargs and num_items_in_batch is not None  # type: ignore[attr-defined]
            scaled = by_model or self.compute_loss_func is not None  # type: ignore[attr-defined]
        default = self.args.gradient_accumulation_steps  # type: ignore[attr-defined]
        return getattr(self, "current_gradient_accumulation_steps", default) if scaled else 1


class JumpstartTrainer(PenaltyMixin, Trainer):
    """``Trainer`` with the penalty in its loss; it needs a :class:`JumpstartCallback` among its callbacks."""
