"""``JumpstartReLU``: a drop-in ``nn.ReLU`` that remembers what the penalty needs."""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from jumpstart_kernels import records
from jumpstart_kernels.functional import check_options, run_eagerly, run_layer, split_extrema

_pausing = threading.Lock()


class LayerExtrema(NamedTuple):
    """What one forward of one layer shows a watcher: ``[C]`` of its units, ``[N, ...]`` of its points."""

    unit_max: Tensor
    unit_min: Tensor
    point_max: Tensor
    point_min: Tensor

    def per_sample(self) -> tuple[Tensor, Tensor]:
        """Point maxima and minima ``[N]``: those of positions reduced to their sample."""
        if self.point_max.dim() < 2:
            return self.point_max.reshape(-1), self.point_min.reshape(-1)
        return self.point_max.flatten(1).amax(1), self.point_min.flatten(1).amin(1)


class JumpstartReLU(nn.ReLU):
    """``nn.ReLU`` whose units and data points :func:`~jumpstart_kernels.penalty` keeps alive and nonlinear.

    ``forward(x)`` returns ``relu(x)`` alone. In training mode with grad enabled it also records the slack of
    its pre-activation, once for every call, until ``penalty`` takes the records. Otherwise it is ``F.relu``.
    It has no parameters and no buffers, so checkpoints fit the ``nn.ReLU`` model both ways. Copies and
    pickles leave the records behind, and an injection (:func:`~jumpstart_kernels.inject_penalty`).

    A tensor of fewer than two dimensions (weights of a fusion, a hinge in a loss) has no units: it is passed
    through ``F.relu`` unrecorded, with one warning. Where a negative ``unit_dim`` is dimension 0 of the input
    (``[C, H, W]`` behind a ``Conv2d``, and −3), that is a batch of one.

    Args:
        inplace: overwrite the input, as in ``nn.ReLU``.
        unit_dim: the dimension of the units: 1 for ``[N, C]`` and ``[N, C, H, W]``, −1 for ``[N, T, C]``.
        points: ``"sample"`` or ``"position"``: what a data point is.
        margin: how far beyond 0 an extremum has to be.
        tie_breaking: ``"single"``, ``"average"`` or ``"random"``.

    The options are those of :func:`jumpstart_kernels.functional.jumpstart_relu`, and raise the same errors.
    """

    def __init__(
        self,
        inplace: bool = False,
        *,
        unit_dim: int = 1,
        points: str = "sample",
        margin: float = 1.0,
        tie_breaking: str = "single",
    ) -> None:
        super().__init__(inplace)
        check_options(unit_dim, points, margin, tie_breaking)
        self.unit_dim = unit_dim
        self.points = points
        self.margin = float(margin)
        self.tie_breaking = tie_breaking
        self._name = ""  # in the model in which replace_relu met it
        self._derived = False  # whether unit_dim is replace_relu's guess and not the user's word
        self._without_units = False  # whether a tensor without units has come, and was warned of
        self._records: records.Records = None
        self._unclaimed = 0  # eager records since the last were taken
        self._unreachable = False  # whether a forward ran where no record can have a gradient
        self._transformed = False  # whether a record is of torch.func
        self._pauses = 0  # of no_record
        self._inject: Callable[[Tensor, Tensor, bool], Tensor] | None = None
        self._watchers: list[Callable[[LayerExtrema], None]] = []

    def forward(self, x: Tensor) -> Tensor:
        """``relu(x)`` of ``[N, C, *]``, of the shape, dtype and layout of ``x``."""
        if type(x) is not Tensor and isinstance(x, fx.Proxy):
            return _call_of(self, x)
        recording = self.training and torch.is_grad_enabled()
        watchers = self._watchers
        if self.training and not recording:
            self._miss_record()
        if not recording and not watchers:
            return F.relu(x, inplace=self.inplace)
        seen, unit_dim = x, self.unit_dim
        options = self.points, self.margin, self.tie_breaking, self.inplace
        result = run_eagerly(x, unit_dim, *options)
        if result is None:
            if isinstance(x, Tensor) and x.dim() < 2:
                self._warn_of_no_units(x)
                return F.relu(x, inplace=self.inplace)
            seen, unit_dim = as_batch(x, unit_dim, self.points, self._derived)
            if torch._C._are_functorch_transforms_active():
                self._enter_transform()
            result = run_layer(seen, unit_dim, *options)
        output, slack_sums, extrema, units, points = result
        if recording and self._inject is not None:
            output = self._inject(output, slack_sums, not self._pauses)
        elif recording and not self._pauses and not records.recomputing():
            records.add(self, records.Record(slack_sums, extrema, units, points, self.margin))
        for watch in watchers:
            watch(LayerExtrema(*split_extrema(extrema.detach(), seen, unit_dim, self.points)))
        if seen is x:
            return output
        return x if output is seen else output.squeeze(0)

    def _miss_record(self) -> None:
        """Take note of a forward in training without grad, if it is the first of a reentrant checkpoint."""
        if not records.is_unreachable():
            return
        if self._inject is None:
            self._unreachable = self._unreachable or not self._pauses
        elif self._pauses:
            raise RuntimeError(
                f"no_record cannot hold for {self._described()}, which injects its penalty and runs inside a "
                "reentrant checkpoint (or another torch.autograd.Function): the second forward of that, in "
                "backward, is the one that injects. Use torch.utils.checkpoint.checkpoint(..., "
                "use_reentrant=False), or remove() the injection for these forwards"
            )

    def _enter_transform(self) -> None:
        if self._watchers:
            raise RuntimeError(
                f"{self._described()} cannot be watched inside a torch.func transform: watch the model "
                "outside of it"
            )
        records.note_transform(self)

    def _warn_of_no_units(self, x: Tensor) -> None:
        if torch.compiler.is_compiling():
            warn_of_no_units(self._described(), x.dim())
        elif not self._without_units:
            self._without_units = True
            warn_of_no_units(self._described(), x.dim())

    def _described(self) -> str:
        return f"the layer {self._name!r}" if self._name else "a JumpstartReLU"

    def extra_repr(self) -> str:
        options = [f"unit_dim={self.unit_dim}", f"points={self.points!r}", f"margin={self.margin}"]
        options += [f"tie_breaking={self.tie_breaking!r}"] + (["inplace=True"] if self.inplace else [])
        return ", ".join(options)

    def __getstate__(self) -> dict[str, Any]:
        # Records hold the graph of a forward; watchers, injection and no_record belong to others: none goes
        # with a copy.
        own = {"_records": None, "_unclaimed": 0, "_unreachable": False, "_transformed": False, "_pauses": 0}
        return {**self.__dict__, **own, "_inject": None, "_watchers": []}

    def __prepare_scriptable__(self) -> nn.Module:
        raise RuntimeError(
            "torch.jit.script cannot take a JumpstartReLU: call jumpstart_kernels.restore_relu(model) before"
        )


def as_batch(x: Tensor, unit_dim: int, points: str, derived: bool) -> tuple[Tensor, int]:
    """The input of a layer as the operator takes it, and the dimension of its units.

    Args:
        x: of two dimensions or more.
        unit_dim: the layer's.
        points: the layer's.
        derived: whether ``unit_dim`` is a guess; where ``x`` does not have it, it was wrong, and is 1.
    """
    if not isinstance(x, Tensor):
        return x, unit_dim  # of which the operator says what it is
    if derived and not -x.dim() <= unit_dim < x.dim():
        return x, 1
    if unit_dim == -x.dim() and points == "sample":
        return x.unsqueeze(0), unit_dim
    return x, unit_dim


def _call_of(layer: JumpstartReLU, x: fx.Proxy) -> fx.Proxy:
    """What ``torch.fx`` traces: a call of the layer, a leaf as ``nn.ReLU`` is. It records when that runs."""
    tracer: Any = x.tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(layer), (x,), {})


def warn_of_no_units(layer: str, dim: int, consequence: str = "it is plain ReLU there, unrecorded") -> None:
    """The one warning that a layer gives of a tensor of fewer than two dimensions."""
    warnings.warn(f"{layer} got a {dim}-D tensor, which has no units: {consequence}", stacklevel=4)


# As torch.compiler.assume_constant_result marks it, which would import the compiler: to be called once, when
# torch.compile traces the layer.
warn_of_no_units._dynamo_marked_constant = True  # type: ignore[attr-defined]


@contextmanager
def no_record(model: nn.Module) -> Iterator[None]:
    """Inside the ``with`` block forwards of a model have no part in its penalty, and all of their gradient.

    For a forward whose loss is not the model's own: of a GAN's discriminator in the generator's step, of a
    second batch that only measures consistency.

    >>> with jk.no_record(discriminator):
    ...     generator_loss = -discriminator(generator(z)).mean()
    ... generator_loss.backward()

    Neither do they inject (:func:`~jumpstart_kernels.inject_penalty`). Records of before stay. Blocks can be
    nested, and hold for all threads that run the model.

    Args:
        model: any module, or the wrapper of one: all :class:`JumpstartReLU` in it.

    Raises:
        TypeError: ``model`` is no module.
    """
    check_module(model)
    layers = _layers_of(model)
    _add_pauses(layers, 1)
    try:
        yield
    finally:
        # With those that a forward in the block has brought, and without those that are plain by now.
        _add_pauses(list(dict.fromkeys([*layers, *_layers_of(model)])), -1)


def _layers_of(model: nn.Module) -> list[JumpstartReLU]:
    return [module for module in model.modules() if isinstance(module, JumpstartReLU)]


def _add_pauses(layers: list[JumpstartReLU], count: int) -> None:
    if not torch.compiler.is_dynamo_compiling():  # which knows no lock
        _pausing.acquire()
    try:
        for layer in layers:
            if isinstance(layer, JumpstartReLU):
                layer._pauses = max(0, layer._pauses + count)
    finally:
        if not torch.compiler.is_dynamo_compiling():
            _pausing.release()


def clear_records(model: nn.Module) -> None:
    """Drop what the model's layers have recorded since the last penalty, after a forward that failed, say."""
    check_module(model)
    for layer in _layers_of(model):
        records.clear(layer)


def check_module(model: object) -> None:
    """Raise for a model that is no module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
