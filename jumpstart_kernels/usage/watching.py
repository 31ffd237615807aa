"""Watching a model's layers: the extrema of their inputs, from the kernels that run anyway."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from jumpstart_kernels.functional import jumpstart_stats
from jumpstart_kernels.functional.jumpstart import run_layer_eagerly, split_extrema
from jumpstart_kernels.nn import records
from jumpstart_kernels.nn.activation import JumpstartActivation, LayerExtrema, as_batch
from jumpstart_kernels.nn.recording import check_module
from jumpstart_kernels.surgery import check_unit_dim, find_unit_dims
from jumpstart_kernels.usage.activations import BY_SIGN, SMOOTH
from jumpstart_kernels.usage.batches import call_with_batch
from jumpstart_kernels.usage.hooks import Hook
from jumpstart_kernels.usage.running import evaluating

SMALL = 2**16  # values for which an output that nobody reads costs less than the operator's call
Seen = TypeVar("Seen")


class UnitDims(NamedTuple):
    """Dimensions of the units of layers; those of Jumpstart layers are for when they are plain again."""

    by_layer: dict[str, int]
    derived: bool
    """Whether they were inferred, not given."""


class Watch(Generic[Seen]):
    """Collects something of every call of a model's layers until it is taken.

    A layer called twice between two ``take()`` is two layers, ``"relu"`` and ``"relu#2"``. In eager code
    forwards recomputed by checkpointing are left out.

    Args:
        model: any model; watch a compiled one before its first call, or watch the model that it wraps.
        layers: names in ``model.named_modules()``, of modules whose first argument is the pre-activation; by
            default every Jumpstart layer, ``nn.ReLU`` and ``nn.LeakyReLU``, and the other hidden activations
            of PyTorch (:data:`~jumpstart_kernels.usage.activations.SMOOTH`).
        unit_dim: dimension of the units, for modules that are no Jumpstart layer; or ``"auto"``,
            inferred as in :func:`~jumpstart_kernels.replace_relu`; or what :func:`unit_dims_of` has found.
        when: called at every forward to decide whether to collect it.
        warn: whether to warn of inputs without units, which are left out.
        strict: whether what cannot be collected raises; else it is left out with a warning.

    Raises:
        TypeError: ``model``, ``layers`` or ``unit_dim`` has the wrong type.
        ValueError: there is no such layer, or no layer at all.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        layers: Iterable[str] | None = None,
        unit_dim: "int | str | UnitDims" = "auto",
        when: Callable[[], bool] = lambda: True,
        warn: bool = True,
        strict: bool = True,
    ) -> None:
        self._warn, self._strict = warn, strict
        self._layers = find_layers(model, layers)
        if not isinstance(unit_dim, UnitDims):
            unit_dim = unit_dims_of(model, self._layers, unit_dim)
        self._unit_dims, self._derived = unit_dim
        self._left_out: set[str] = set()  # of which it has warned
        self._when = when
        self._calls: Counter[str] = Counter()
        self._seen: dict[str, Seen] = {}
        self._detach: list[Callable[[], None]] = []

    def __enter__(self) -> "Watch[Seen]":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start collecting; no effect if already started."""
        if not self._detach:
            for name, module in self._layers.items():
                self._detach.append(self._attach(name, module))

    def stop(self) -> None:
        """Stop collecting, and drop what was not taken."""
        while self._detach:
            self._detach.pop()()
        self.take()

    def take(self) -> dict[str, Seen]:
        """What was collected since the last ``take()``, by layer, in the order of the calls."""
        seen, self._seen = self._seen, {}
        self._calls.clear()
        return seen

    def _collecting(self) -> bool:
        return self._when() and not records.recomputing()

    def _add(self, name: str, seen: Seen) -> None:
        self._calls[name] += 1
        calls = self._calls[name]
        self._seen[name if calls == 1 else f"{name}#{calls}"] = seen

    def _attach(self, name: str, module: nn.Module) -> Callable[[], None]:
        """Observe every forward of a layer; returns the function that ends it."""

        def observe_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._observe(name, module, next(chain(args, kwargs.values()), None))

        return module.register_forward_pre_hook(Hook(observe_input), with_kwargs=True).remove

    def _observe(self, name: str, module: nn.Module, x: Any) -> None:
        """Collect from the tensor that a layer is called with, or that it returns."""
        if not self._collecting():
            return
        if isinstance(x, Tensor) and x.dim() < 2:
            if self._warn:
                self._leave_out(name, f"got a {x.dim()}-D tensor, which has no units")
            return
        try:
            with torch.no_grad():
                seen = self._see(name, module, x)
        except Exception as error:
            if not self._strict:
                self._leave_out(name, f"got what cannot be watched ({error})")
                return
            if isinstance(error, (TypeError, ValueError)):
                raise type(error)(f"layer {name!r}: {error}") from error
            raise
        self._add(name, seen)

    def _see(self, name: str, module: nn.Module, x: Tensor) -> Seen:
        """What to collect of a tensor of two dimensions or more."""
        raise NotImplementedError

    def _leave_out(self, name: str, why: str) -> None:
        """Warn, once for each layer."""
        if name not in self._left_out:
            self._left_out.add(name)
            warnings.warn(f"the layer {name!r} {why}: it is not watched there", stacklevel=4)


class LayerWatch(Watch[LayerExtrema]):
    """Collects the extrema of every call of a model's layers until they are taken; see :class:`Watch`.

    >>> with LayerWatch(model) as watch:
    ...     model(x)
    ...     extrema = watch.take()
    """

    def _attach(self, name: str, module: nn.Module) -> Callable[[], None]:
        if not isinstance(module, JumpstartActivation):
            return super()._attach(name, module)

        def observe(extrema: LayerExtrema) -> None:
            if self._collecting():
                self._add(name, extrema)

        module._watchers.append(observe)
        return partial(module._watchers.remove, observe)

    def _see(self, name: str, module: nn.Module, x: Tensor) -> LayerExtrema:
        return extrema_of(*as_batch(x, self._unit_dims[name], "sample", self._derived))


def extrema_of(x: Tensor, unit_dim: int) -> LayerExtrema:
    """The extrema of a tensor over its units and samples, by the fastest way, without grad.

    Raises:
        TypeError, ValueError: ``x`` is no tensor that the operator takes.
    """
    if isinstance(x, Tensor) and x.numel() <= SMALL:
        options = ("relu", 0.0, unit_dim, "sample", 1.0, "single", False, "exact")
        result = run_layer_eagerly(x, None, *options)
        if result is not None:
            return LayerExtrema(*split_extrema(result[1].extrema, x, unit_dim, "sample"))
    return LayerExtrema(*jumpstart_stats(x, unit_dim=unit_dim)[1:])


def layer_extrema(
    model: nn.Module, x: Any, *, layers: Iterable[str] | None = None, unit_dim: int | str = "auto"
) -> dict[str, LayerExtrema]:
    """The extrema of every layer on one batch, by name, from one forward in ``eval()`` without grad.

    For :func:`jumpstart_kernels.plots.extrema_strips` and :func:`~jumpstart_kernels.penalty_by_layer`.

    Args:
        model: any model with layers to watch; a compiled one runs uncompiled. Its training
            flags are restored.
        x: its input, in a form that :func:`~jumpstart_kernels.unit_usage` accepts from a loader.
        layers: as in :meth:`~jumpstart_kernels.UnitUsage.watch`.
        unit_dim: as in :meth:`~jumpstart_kernels.UnitUsage.watch`.

    Returns:
        Named tuples of ``unit_max`` and ``unit_min`` ``[C]``, ``point_max`` and ``point_min`` ``[N]``, or
        ``[N, *]`` with ``points="position"``; float32, float64 for float64, on the device of the layer. A
        layer called twice is two layers, ``"relu"`` and ``"relu#2"``.

    Raises:
        TypeError: ``model``, ``x``, ``layers`` or ``unit_dim`` has the wrong type.
        ValueError: there is no such layer, no layer at all, or none that ran.
    """
    model = uncompiled(model)
    return take_once(LayerWatch(model, layers=layers, unit_dim=unit_dim), model, x)


def take_once(watch: Watch[Seen], model: nn.Module, x: Any) -> dict[str, Seen]:
    """What a watch collects in one forward in ``eval()`` without grad. Raises if it is nothing."""
    with watch, evaluating(model) as device:
        call_with_batch(model, x, device, "x")
        seen = watch.take()
    if not seen:
        raise ValueError("model must run a watched layer in its forward, got none")
    return seen


def find_layers(model: nn.Module, layers: Iterable[str] | None) -> dict[str, nn.Module]:
    """The modules to watch by name: those of ``layers``, or every activation. Raises if there are none."""
    check_module(model)
    if isinstance(layers, str):
        raise TypeError(f"layers must be a list of names, got the str {layers!r}")
    modules = dict(model.named_modules())
    if layers is None:
        known = BY_SIGN + SMOOTH
        watched = {name: module for name, module in modules.items() if isinstance(module, known)}
        if not watched:
            raise ValueError(
                "model has no nn.ReLU, nn.GELU or other hidden activation to watch, and none of Jumpstart: "
                "name other modules in layers, or turn calls such as F.relu into layers with "
                "jumpstart_kernels.replace_relu(model)"
            )
        return watched
    chosen = list(layers)
    unknown = [name for name in chosen if name not in modules]
    if unknown or not chosen:
        raise ValueError(f"layers must be names of modules of the model, got {unknown or chosen}")
    return {name: modules[name] for name in chosen}


def unit_dims_of(model: nn.Module, layers: Mapping[str, nn.Module], unit_dim: int | str) -> UnitDims:
    """The unit dimension of each layer's input, as given or inferred. Raises for one that is none."""
    check_unit_dim(unit_dim)
    own = {name: layer.unit_dim for name, layer in layers.items() if isinstance(layer, JumpstartActivation)}
    plain = {name: layer for name, layer in layers.items() if name not in own}
    if isinstance(unit_dim, int):
        return UnitDims({**own, **dict.fromkeys(plain, unit_dim)}, False)
    return UnitDims({**own, **find_unit_dims(model, plain)}, True)


def uncompiled(model: nn.Module) -> nn.Module:
    """The model inside ``torch.compile``'s wrapper, which does not see hooks added later."""
    return getattr(model, "_orig_mod", model)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of ``torch.compile`` and data parallelism: its names are the user's."""
    while True:
        if isinstance(model, (DataParallel, DistributedDataParallel)):
            model = model.module
        elif uncompiled(model) is not model:
            model = uncompiled(model)
        else:
            return model
