"""Output of the first process: progress, the history of epochs, TensorBoard."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.imagenet.files import write_atomically
from jumpstart_kernels.usage.report import UsageReport

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

HISTORY = "history.json"
TENSORBOARD = "tensorboard"


class Log:
    """Writes nothing in all processes but the first.

    Args:
        folder: where files are written.
        first: whether this is the first process.
        tensorboard: whether to write TensorBoard logs.
        quiet: whether to print nothing.
    """

    def __init__(self, folder: Path, first: bool, tensorboard: bool, quiet: bool = False) -> None:
        self.folder = folder if first else None
        self.console = Console(highlight=False, quiet=quiet or not first)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            auto_refresh=False,  # without a thread, since workers are forked
            disable=not self.console.is_terminal,
        )
        self._task = self._progress.add_task("", figures="", visible=False)
        self._with_tensorboard = tensorboard and first
        self._writer: SummaryWriter | None = None
        self._name, self._steps, self._images = "", 0, 0
        self._since, self._done = 0.0, 0

    def open(self, step: int, logged: dict[str, float], history: list[dict[str, Any]]) -> None:
        """Open the log at an optimizer step.

        Entries of later steps, which a killed run may have written, are replaced.

        Args:
            step: number of completed steps.
            logged: the entry of the last of them, if it had one.
            history: the records of all epochs, if the last of them ends at this step.
        """
        if self._with_tensorboard and self.folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder / TENSORBOARD), purge_step=step)
        self._add("train", logged, step)
        if history:
            self._add_epoch(history[-1])
            self._write_history(history)
        self._progress.start()

    def close(self) -> None:
        self._progress.stop()
        if self._writer is not None:
            self._writer.close()

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        self.console.print(text, markup=False, soft_wrap=True)

    def begin(self, name: str, steps: int, images: int = 0) -> None:
        """Start a new progress bar of ``steps`` steps of ``images`` images each."""
        self._name, self._steps, self._images = name, steps, images
        self._since, self._done = time.perf_counter(), -1
        self._progress.reset(self._task, description=name, total=steps, figures="", visible=True)

    def advance(self, done: int) -> None:
        """Set the number of completed steps."""
        if self._done < 0:  # the first step waits for its images: leave it out of the speed
            self._since, self._done = time.perf_counter(), done
        self._last = done
        self._progress.update(self._task, completed=done)
        self._progress.refresh()

    def step(self, step: int, figures: dict[str, float]) -> None:
        """Log figures of the optimizer steps since the last call, after step ``step``."""
        now = time.perf_counter()
        parts = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items()]
        if self._last > self._done:
            speed = self._images * (self._last - self._done) / (now - self._since)
            self._add("train", {"images_per_second": speed}, step)
            parts.append(f"{speed:.4g} images/s")
        self._since, self._done = now, self._last
        self._progress.update(self._task, figures=", ".join(parts[:3]))  # what fits on a line
        if not self.console.is_terminal:
            self.say(f"{self._name}, step {self._last} of {self._steps}: {', '.join(parts)}")
        self._add("train", figures, step)

    def epoch(self, history: list[dict[str, Any]], usage: UsageReport | None) -> None:
        """Log the last record of ``history``, the records of all epochs."""
        record = history[-1]
        text = "epoch {epoch}: loss {loss:.4g}, top-1 {top1:.2%}, top-5 {top5:.2%}".format(**record)
        if usage is not None:
            dead, linear = usage["unit_dead_ratio"], usage["unit_linear_ratio"]
            text += f"; {dead:.1%} of the units dead, {linear:.1%} linear"
        self.say(text)
        self._add_epoch(record)
        self._write_history(history)

    def flush(self) -> None:
        """Write what was logged to the file."""
        if self._writer is not None:
            self._writer.flush()

    def _add_epoch(self, record: dict[str, Any]) -> None:
        self._add("val", {name: record[name] for name in ("loss", "top1", "top5")}, record["step"])
        self._add("usage", record.get("usage", {}), record["step"])

    def _add(self, group: str, figures: dict[str, float], step: int) -> None:
        if self._writer is not None:
            for name, value in figures.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)

    def _write_history(self, history: list[dict[str, Any]]) -> None:
        if self.folder is not None:
            text = json.dumps(history, indent=1).encode()
            write_atomically(self.folder / HISTORY, lambda file: file.write(text))
