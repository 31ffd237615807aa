"""The ways to run a model, and one step of each."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import jumpstart_kernels as jk
from fuzz.cases import STYLES, Case, Results, add_gradient_penalty, collect, copies, task_loss
from fuzz.draw import Limits


class Implementation:
    """The implementation under test: this package. ``plants.py`` has wrong ones."""

    def prepare(self, model: nn.Module, options: dict[str, Any]) -> nn.Module:
        return jk.replace_relu(model, **options)

    def penalty(self, model: nn.Module, **options: Any) -> Tensor:
        return jk.penalty(model, **options)


@dataclass(frozen=True)
class Mode:
    """How a group of cases runs: a fragment, compiled once if at all, with several cases."""

    name: str
    share: float  # of all cases
    group: int  # cases of a fragment
    limits: Limits = Limits()
    dtypes: tuple[torch.dtype, ...] = (torch.float64,)
    backend: str | None = None
    compiler: str | None = None
    autocast: tuple[torch.dtype, ...] = ()
    windows: int = 1  # at most, and so many forwards in each
    gradient_penalty: bool = False
    injected: bool = False  # the penalty's gradient by inject_penalty, with no penalty in the loss
    styles: tuple[str, ...] = STYLES
    # Whether the definition is computed in float64 whatever the dtype is. Else it runs the same operations in
    # the same dtypes up to each pre-activation, so that both see the same extrema.
    against_float64: bool = False


FEW, SMALL = Limits(dropout=False), Limits(dropout=False, max_stages=2, max_edge=20, max_batch=5)
COMPILED = Limits(dropout=False, random_ties=False, max_stages=2)
CHECKPOINTED = COMPILED._replace(checkpoints=True, nested=False)
PRECISE = (torch.float64, torch.float64, torch.float32)
FLOAT32, HALF = (torch.float32,), (torch.bfloat16, torch.float16)
MODES = {
    mode.name: mode
    for mode in (
        Mode("compiled", 0.10, 25, COMPILED, compiler="aot_eager", windows=2),
        Mode("compiled_autocast", 0.02, 25, COMPILED, FLOAT32, compiler="aot_eager", autocast=HALF),
        Mode("compiled_checkpointed", 0.02, 25, CHECKPOINTED, compiler="aot_eager"),
        Mode("inductor", 0.03, 25, COMPILED, compiler="inductor"),
        Mode("triton", 0.03, 2, SMALL, PRECISE, backend="triton"),
        Mode("reference", 0.05, 4, FEW, PRECISE, backend="reference"),
        Mode("double_backward", 0.07, 4, FEW, gradient_penalty=True),
        Mode("injected", 0.06, 4, Limits(checkpoints=True), PRECISE, windows=2, injected=True),
        Mode("autocast", 0.10, 4, FEW, FLOAT32, autocast=HALF),
        Mode("accumulated", 0.10, 4, dtypes=PRECISE, windows=3),
        Mode("checkpointed", 0.10, 4, Limits(checkpoints=True), PRECISE),
        Mode("float32", 0.10, 4, FEW, FLOAT32, against_float64=True),
        Mode("eager", 0.22, 4, dtypes=PRECISE),
    )
}


def autocast_context(dtype: torch.dtype | None) -> Callable[[], AbstractContextManager]:
    return nullcontext if dtype is None else partial(torch.autocast, "cpu", dtype)


class Runner:
    """A model in one mode, for the cases of a group."""

    def __init__(
        self,
        model: nn.Module,
        implementation: Implementation,
        mode: Mode,
        autocast: torch.dtype | None,
        dynamic: bool = False,
        penalty_inside: bool = True,
    ) -> None:
        self.model = model
        self.implementation = implementation
        self.mode = mode
        self.context = autocast_context(autocast)
        self.forward = self._forward
        self.call: Callable[[Tensor], Tensor] = model
        if mode.compiler is not None:
            compile_ = partial(torch.compile, fullgraph=True, backend=mode.compiler, dynamic=dynamic)
            if penalty_inside:
                self.forward = compile_(self._forward)
            else:
                self.call = compile_(model)

    def _forward(
        self, window: list[Tensor], probes: list[Tensor], options: dict[str, Any], weight: Tensor
    ) -> tuple[list[Tensor], Tensor | None, Tensor]:
        """Outputs, penalty and loss of one window."""
        outputs = []
        for x in window:
            with self.context():
                outputs.append(self.call(x))
        losses = [task_loss(output, probe) for output, probe in zip(outputs, probes, strict=True)]
        if self.mode.injected:
            return outputs, None, sum(losses)
        value = self.implementation.penalty(self.model, **options)
        return outputs, value, sum(losses) + weight * value.double()

    def run(self, case: Case, dtype: torch.dtype) -> Results:
        """The results to compare with ``define``."""
        model = self.model
        self._load(case)
        windows = [copies(window, dtype) for window in case.windows]
        values: Results = {}
        for w, (window, probes) in enumerate(zip(windows, case.probes, strict=True)):
            if case.distract:
                self._distract(window)
            torch.manual_seed(case.seed + w)
            with self._injection(case, window) if self.mode.injected else nullcontext():
                # A tensor, since compiled code takes a float for a constant.
                weight = torch.tensor(case.weight, dtype=torch.float64)
                outputs, value, loss = self.forward(window, probes, case.penalty._asdict(), weight)
                if case.gradient_penalty:
                    leaves = [t for t in (*model.parameters(), *window) if t.requires_grad]
                    loss = add_gradient_penalty(loss, leaves)
                loss.backward()
            values |= {f"output {w}.{i}": output.detach() for i, output in enumerate(outputs)}
            if value is not None:
                values[f"penalty {w}"] = value.detach()
            self._check_nothing_left()
        return collect(dict(model.named_parameters()), windows, values)

    def _injection(self, case: Case, window: list[Tensor]) -> AbstractContextManager:
        zero = jk.PenaltyCounts(0, 0)
        counts = [jk.count_units_and_points(self.model, x.detach()) for x in window if x.numel()]
        options = case.penalty._asdict()
        return jk.inject_penalty(self.model, case.weight, counts=sum(counts, zero), **options)

    def _load(self, case: Case) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.model.parameters(), case.parameters, strict=True):
                parameter.copy_(value)
                parameter.requires_grad_(value.requires_grad)
                parameter.grad = None

    def _distract(self, window: list[Tensor]) -> None:
        """Forwards without a penalty."""
        for x in window:
            self.model.eval()
            with self.context():
                self.model(x.detach())
            self.model.train()
            with torch.no_grad(), self.context():
                self.model(x)

    def _check_nothing_left(self) -> None:
        try:
            self.implementation.penalty(self.model)
        except RuntimeError as error:
            if "recorded" not in str(error):
                raise
            return
        raise AssertionError("records are left behind the backward")
