"""``link_relu``: a model's ReLUs linked, and the layers behind them widened, in place."""

import inspect
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from jumpstart_kernels.nn import JumpstartReLU
from jumpstart_kernels.nn.activation import JumpstartActivation
from jumpstart_kernels.nn.deferred_bias import DeferredBias
from jumpstart_kernels.nn.linked import LINKED_LAYERS, LinkedActivation
from jumpstart_kernels.nn.recording import check_module
from jumpstart_kernels.surgery.bias_links import unlink_bias
from jumpstart_kernels.surgery.flow.inputs import check_wrappers, trace_calls
from jumpstart_kernels.surgery.linking.forward import LinkedForward
from jumpstart_kernels.surgery.linking.plan import Plan, make_plan, widenings
from jumpstart_kernels.surgery.linking.report import Report, report
from jumpstart_kernels.surgery.linking.weights import widen
from jumpstart_kernels.surgery.linking.widths import resize_layer, size_after, smaller_widths
from jumpstart_kernels.surgery.sites import Skip, find_skipped
from jumpstart_kernels.surgery.tracing import Untraceable

_ACTIVATIONS = {layer.activation.removeprefix("linked_"): layer for layer in LINKED_LAYERS}
_OPTIONS = ("points", "margin", "tie_breaking")


def link_relu(
    model: nn.Module,
    *,
    activation: str = "relu",
    weights: str = "equivalent",
    keep_parameters: bool = False,
    jumpstart: bool | None = None,
    skip: Skip = (),
    example_inputs: Any = None,
    **options: Any,
) -> nn.Module:
    """Replace ReLUs by their linked form ``cat(g(z), g(−z))``, and widen the layers behind them, in place.

    Riera Molina, Pujol, *Solving internal covariate shift in deep learning with linked neurons*, arXiv
    1712.02609. ``torch.fx`` traces the model, and every ReLU of which it shows what becomes of its units is
    linked: ``nn.ReLU`` and :class:`~jumpstart_kernels.JumpstartReLU`, calls of ``F.relu``, ``torch.relu`` and
    ``x.relu()``. ``nn.Linear`` and convolutions behind it get twice the inputs, through pooling, flattening,
    norms of single units, element-wise calls and concatenation. What cannot take twice the units, such as the
    sum at the end of a residual block, gets ``g(z)`` alone. A ReLU that has no layer to widen behind it, or
    something that cannot be followed, is left as it is, and a warning says why. A model that cannot be traced
    is left as it is as a whole: try a part of it.

    Modules stay the same objects with the same names; widened layers get new parameters of a new shape, so
    make the optimizer afterwards. A forward that calls ReLUs as functions, or in which something gets
    ``g(z)`` alone, then runs as its trace, with what is said of traces at :func:`replace_relu`, which is to
    be called before, if at all. There is no way back.

    Args:
        model: any module that is not yet wrapped (DDP, ``torch.compile``).
        activation: ``g``: ``"relu"``, ``"prelu"``, ``"selu"`` or ``"silu"``.
        weights: ``"equivalent"``: the columns for ``g(−z)`` are zero, all else is as before, so that the
            model computes what it did, or, with another activation, what it would with ``g`` in the place of
            ReLU. ``"fresh"``: every widened layer is drawn anew, by its own ``reset_parameters()``.
        keep_parameters: divide the widths before linked activations by √2, as the paper does to compare, so
            that the number of parameters stays about the same. Layers that this concerns are drawn anew.
        jumpstart: whether the linked layers also record what the penalty needs, of their shared
            pre-activation. None: those that take the place of a JumpstartReLU, with its options.
        skip: what to leave unchanged, as in :func:`replace_relu`.
        example_inputs: the arguments of a call of the model, or the only one. It is run on shapes alone,
            which shows where a ``view`` flattens, and which dimension is meant.
        **options: ``points``, ``margin``, ``tie_breaking`` of new Jumpstart layers.

    Returns:
        ``model`` itself.

    Raises:
        TypeError: ``model`` is no module; an option is unknown; an argument is of a wrong type.
        ValueError: an argument is out of range; ``weights="equivalent"`` with ``keep_parameters``; an entry
            of ``skip`` matches nothing; the model is, or has in it, a wrapper; ``example_inputs`` do not run;
            ``activation="prelu"`` in a model of several dtypes or devices.
            The model is as before.
    """
    check_module(model)
    _check(activation, weights, keep_parameters, jumpstart, options)
    check_wrappers(model)
    skipped = find_skipped(model, skip)
    done = Report(model, skipped)
    try:
        graphs = trace_calls(model, example_inputs)
    except Untraceable as reason:
        done.untraceable = str(reason)
        report(done)
        return model
    plan = make_plan(model, graphs, skipped)
    maker = _Maker(model, activation, jumpstart, options)
    with _as_before_on_failure(model):
        _apply(plan, maker, smaller_widths(plan) if keep_parameters else None, weights == "equivalent")
    done.note(plan)
    report(done)
    return model


def _check(activation: Any, weights: Any, keep: Any, jumpstart: Any, options: dict[str, Any]) -> None:
    choices = ("activation", activation, tuple(_ACTIVATIONS)), ("weights", weights, ("equivalent", "fresh"))
    for name, value, allowed in choices:
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a string, got {type(value).__name__}")
        if value not in allowed:
            raise ValueError(f"{name} must be of {', '.join(map(repr, allowed))}, got {value!r}")
    if not isinstance(keep, bool):
        raise TypeError(f"keep_parameters must be a bool, got {type(keep).__name__}")
    if jumpstart is not None and not isinstance(jumpstart, bool):
        raise TypeError(f"jumpstart must be True, False or None, got {type(jumpstart).__name__}")
    if keep and weights == "equivalent":
        raise ValueError('keep_parameters changes what the model computes: pass weights="fresh"')
    for name in options:
        if name not in _OPTIONS:
            known = ", ".join(inspect.signature(link_relu).parameters)
            raise TypeError(f"unknown option {name!r}: link_relu takes {known}: {', '.join(_OPTIONS)}")
    if options and not jumpstart:
        raise TypeError(
            f"{', '.join(options)}: options of new Jumpstart layers, of which jumpstart=True makes"
        )
    JumpstartReLU(**options)


class _Maker:
    """Makes linked layers."""

    def __init__(
        self, model: nn.Module, activation: str, jumpstart: bool | None, options: dict[str, Any]
    ) -> None:
        self._names = {module: name for name, module in model.named_modules()}
        self._layer = _ACTIVATIONS[activation]
        self._jumpstart = jumpstart
        self._options = options
        self._like: dict[str, Any] = {}
        if activation == "prelu":
            kinds = {(each.device, each.dtype) for each in model.parameters() if each.is_floating_point()}
            if len(kinds) > 1:
                raise ValueError(
                    "activation must not be 'prelu' for a model with parameters of several dtypes or devices"
                )
            self._like = dict(zip(("device", "dtype"), next(iter(kinds), ()), strict=False))

    def make(self, unit_dim: int, before: nn.Module | None, name: str) -> LinkedActivation:
        """A layer in the place of a module or of a call."""
        records = isinstance(before, JumpstartReLU) if self._jumpstart is None else self._jumpstart
        if not records:
            plain: Any = self._layer
            return plain(unit_dim=unit_dim, **self._like)
        options = self._options
        if isinstance(before, JumpstartReLU):
            options = {**{option: getattr(before, option) for option in _OPTIONS}, **options}
        layer: Any = LINKED_LAYERS[self._layer](unit_dim=unit_dim, **options, **self._like)
        layer._name = name
        return layer

    def name_of(self, module: nn.Module) -> str:
        return self._names[module]


def _apply(plan: Plan, maker: _Maker, smaller: dict[nn.Module, int] | None, equivalent: bool) -> None:
    """Change the model; ``smaller`` are the layers that get fewer outputs, None if widths are kept."""
    calls: dict[nn.Module, dict[int, str]] = {}
    for group, unit_dim in plan.linked.items():
        module, call = group
        name = maker.name_of(module)
        if call is None:
            _become(module, maker.make(unit_dim, module, name))
            continue
        free = (f"linked_relu_{i}" for i in itertools.count())
        child = next(each for each in free if not hasattr(module, each))
        layer: nn.Module = maker.make(unit_dim, None, f"{name}.{child}".lstrip("."))
        module.add_module(child, layer.train(module.training))
        calls.setdefault(module, {})[call] = child
    size_of = size_after(smaller or {})
    if smaller is None:
        for widening in widenings(plan):
            _without_link(widening.layer)
            widen(widening, equivalent)
    else:
        for layer, value in plan.inputs.items():
            if layer not in plan.blocked:
                _without_link(layer)
                resize_layer(layer, value, smaller, size_of)
    for module, recipes in plan.edits.recipes(size_of).items():
        LinkedForward(module, recipes, calls.get(module, {})).install()


def _without_link(layer: nn.Module) -> None:
    """Have a layer add its bias itself."""
    if isinstance(layer, DeferredBias):
        unlink_bias(layer)


def _become(module: nn.Module, layer: LinkedActivation) -> None:
    """Make a ReLU a linked layer, which keeps references to the module."""
    link = getattr(module, "_bias_link", None)
    if link is not None and link.producer() is not None:
        unlink_bias(link.producer())
    attributes, own = vars(module), vars(nn.Module())
    kept = {name: attributes[name] for name in own if name in attributes}
    if isinstance(module, JumpstartActivation) and isinstance(layer, JumpstartActivation):
        kept.update({name: attributes[name] for name in ("_pauses", "_inject", "_watchers")})
    attributes.clear()
    attributes.update({name: value for name, value in vars(layer).items() if name not in own})
    attributes.update(kept)
    module._parameters.update(layer._parameters)
    module.__class__ = type(layer)


@contextmanager
def _as_before_on_failure(model: nn.Module) -> Iterator[None]:
    """Undo all changes of modules if the block raises."""
    saved = []
    for module in model.modules():
        attributes = vars(module)
        inner = [
            (attributes[name], dict(attributes[name])) for name in ("_parameters", "_buffers", "_modules")
        ]
        saved.append((module, type(module), [(attributes, dict(attributes)), *inner]))
    try:
        yield
    except BaseException:
        for module, kind, containers in saved:
            module.__class__ = kind
            for container, before in containers:
                container.clear()
                container.update(before)
        raise
