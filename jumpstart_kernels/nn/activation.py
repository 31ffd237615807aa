"""The base of all Jumpstart layers: an activation that records what the penalty needs."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from jumpstart_kernels.functional.checks import check_options
from jumpstart_kernels.functional.jumpstart import run_layer, run_layer_eagerly, split_extrema
from jumpstart_kernels.nn import records
from jumpstart_kernels.nn.deferred_bias import BiasLink, call_of
from jumpstart_kernels.ops.activations import ACTIVATIONS
from jumpstart_kernels.ops.arguments import Record
from jumpstart_kernels.ops.layout import along_units

RunOptions = tuple[str, float, str, bool, str]
"""``points``, ``margin``, ``tie_breaking``, ``inplace`` and ``extrema_kind`` of a call."""


class LayerExtrema(NamedTuple):
    """The extrema of one forward of one layer: ``[C]`` for its units, ``[N, ...]`` for its points."""

    unit_max: Tensor
    unit_min: Tensor
    point_max: Tensor
    point_min: Tensor

    def per_sample(self) -> tuple[Tensor, Tensor]:
        """Point maxima and minima ``[N]``, with positions reduced to their sample."""
        if self.point_max.dim() < 2:
            return self.point_max.reshape(-1), self.point_min.reshape(-1)
        return self.point_max.flatten(1).amax(1), self.point_min.flatten(1).amin(1)


class JumpstartActivation(nn.Module):
    """An activation that records the slack of its input: see :class:`~jumpstart_kernels.JumpstartReLU`.

    A subclass inherits from this and then from PyTorch's module of the activation, which provides the
    constructor and ``inplace``.
    """

    activation: str
    """Its name in :data:`~jumpstart_kernels.ops.activations.ACTIVATIONS`."""
    plain: type[nn.Module]
    """PyTorch's module of it."""
    parameter_name: str | None = None
    """What the constructor calls the activation's own parameter, if it has one."""
    inplace: bool

    @property
    def activation_parameter(self) -> float:
        """The activation's own parameter; 0 where it has none."""
        return 0.0 if self.parameter_name is None else getattr(self, self.parameter_name)

    def _set_options(self, unit_dim: int, points: str, margin: float, tie_breaking: str) -> None:
        check_options(unit_dim, points, margin, tie_breaking)
        self.unit_dim = unit_dim
        self.points = points
        self.margin = float(margin)
        self.tie_breaking = tie_breaking
        self._name = ""  # in the model that replace_relu changed
        self._derived = False  # whether unit_dim was inferred by replace_relu, not given
        self._bias_link: BiasLink | None = None  # to a layer that leaves its bias to this one
        self._without_units = False  # whether it has warned of a tensor without units
        self._records: records.Records = None
        self._unclaimed = 0  # eager records since the last penalty
        self._unreachable = False  # whether a forward ran where records have no gradient
        self._transformed = False  # whether a record was made under torch.func
        self._pauses = 0  # open no_record blocks
        self._inject: Callable[[Tensor, Tensor, bool], Tensor] | None = None
        self._watchers: list[Callable[[LayerExtrema], None]] = []

    def forward(self, x: Tensor) -> Tensor:
        """The activation of ``[N, C, *]``, in the shape, dtype and layout of ``x``."""
        if type(x) is not Tensor and isinstance(x, fx.Proxy):
            return call_of(self, x)
        recording = self.training and torch.is_grad_enabled()
        watchers = self._watchers
        link = self._bias_link
        bias = None if link is None else link.bias_for(x)
        if not recording:
            if self.training:
                self._miss_record()
            if not watchers:
                return self._run_plain(x, bias)
        seen, unit_dim = x, self.unit_dim
        options = (
            self.points, self.margin, self.tie_breaking, self.inplace, "exact" if watchers else "limited"
        )  # fmt: skip
        result = self._run_eagerly(x, bias, unit_dim, options)
        if result is None:
            if isinstance(x, Tensor) and x.dim() < 2:
                self._warn_of_no_units(x)
                return self._run_plain(x, bias)
            seen, unit_dim = as_batch(x, unit_dim, self.points, self._derived)
            if torch._C._are_functorch_transforms_active():
                self._enter_transform()
            result = self._run(seen, bias, unit_dim, options)
        output, record = result
        if recording and self._inject is not None:
            output = self._inject(output, record.slack_sums, not self._pauses)
        elif recording and not self._pauses:
            records.add(self, record)
        for watch in watchers:
            watch(LayerExtrema(*split_extrema(record.extrema.detach(), seen, unit_dim, self.points)))
        if seen is x:
            return output
        return x if output is seen else output.squeeze(0)

    def _run_eagerly(
        self, x: Tensor, bias: Tensor | None, unit_dim: int, options: RunOptions
    ) -> tuple[Tensor, Record] | None:
        """Output and record by the backend's shortcut; None where the operator must be called instead."""
        parameter = 0.0 if self.parameter_name is None else self.activation_parameter
        return run_layer_eagerly(x, bias, self.activation, parameter, unit_dim, *options)

    def _run(
        self, x: Tensor, bias: Tensor | None, unit_dim: int, options: RunOptions
    ) -> tuple[Tensor, Record]:
        """The same by the operator."""
        return run_layer(x, bias, self.activation, self.activation_parameter, unit_dim, *options)

    def _run_plain(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The activation alone."""
        if bias is not None:
            x = x + along_units(bias, x.dim(), self.unit_dim % x.dim())
        return ACTIVATIONS[self.activation].value(x, self.activation_parameter, self.inplace)

    def _miss_record(self) -> None:
        """Note a training forward without grad if it is the first of a reentrant checkpoint."""
        if not records.is_unreachable():
            return
        if self._inject is None:
            self._unreachable = self._unreachable or not self._pauses
        elif self._pauses:
            raise RuntimeError(
                f"no_record cannot apply to {self._described()}, which injects its penalty and runs inside a "
                "reentrant checkpoint (or another torch.autograd.Function): it injects in its second "
                "forward, in backward. Use torch.utils.checkpoint.checkpoint(..., use_reentrant=False), or "
                "remove() the injection for these forwards"
            )

    def _enter_transform(self) -> None:
        if self._watchers:
            raise RuntimeError(
                f"{self._described()} cannot be watched inside a torch.func transform: watch the model "
                "outside the transform"
            )
        records.note_transform(self)

    def _warn_of_no_units(self, x: Tensor) -> None:
        if torch.compiler.is_compiling():
            warn_of_no_units(self._described(), x.dim())
        elif not self._without_units:
            self._without_units = True
            warn_of_no_units(self._described(), x.dim())

    def _described(self) -> str:
        return f"the layer {self._name!r}" if self._name else f"a {type(self).__name__}"

    def extra_repr(self) -> str:
        own = [] if self.parameter_name is None else [f"{self.parameter_name}={self.activation_parameter}"]
        options = [*own, f"unit_dim={self.unit_dim}", f"points={self.points!r}", f"margin={self.margin}"]
        options += [f"tie_breaking={self.tie_breaking!r}"] + (["inplace=True"] if self.inplace else [])
        return ", ".join(options)

    def __getstate__(self) -> dict[str, Any]:
        # Records hold the graph of a forward; watchers, injection and no_record are not the layer's own: a
        # copy has none of them.
        own = {"_records": None, "_unclaimed": 0, "_unreachable": False, "_transformed": False, "_pauses": 0}
        return {**self.__dict__, **own, "_inject": None, "_watchers": []}

    def __copy__(self) -> nn.Module:
        """Alone, it does without the link to a layer."""
        other = object.__new__(type(self))
        other.__setstate__({**self.__getstate__(), "_bias_link": None})
        return other

    def __prepare_scriptable__(self) -> nn.Module:
        raise RuntimeError(
            f"torch.jit.script does not support {type(self).__name__}: "
            "call jumpstart_kernels.restore_relu(model) first"
        )


def as_batch(x: Tensor, unit_dim: int, points: str, derived: bool) -> tuple[Tensor, int]:
    """The input of a layer as the operator expects it, and its unit dimension.

    Args:
        x: of two dimensions or more.
        unit_dim: the layer's.
        points: the layer's.
        derived: whether ``unit_dim`` was inferred; if ``x`` has no such dimension, 1 is used instead.
    """
    if not isinstance(x, Tensor):
        return x, unit_dim  # the operator raises for it
    if derived and not -x.dim() <= unit_dim < x.dim():
        return x, 1
    if unit_dim == -x.dim() and points == "sample":
        return x.unsqueeze(0), unit_dim
    return x, unit_dim


def warn_of_no_units(layer: str, dim: int, consequence: str = "it is applied unrecorded") -> None:
    """The single warning of a layer about tensors with fewer than two dimensions."""
    warnings.warn(f"{layer} got a {dim}-D tensor, which has no units: {consequence}", stacklevel=4)


# What torch.compiler.assume_constant_result does, without importing the compiler: called once, when
# torch.compile traces the layer.
warn_of_no_units._dynamo_marked_constant = True  # type: ignore[attr-defined]
