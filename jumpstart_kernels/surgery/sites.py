"""Where a model has an activation, and what stands in the way of replacing it."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from jumpstart_kernels.nn.activation import JumpstartActivation
from jumpstart_kernels.nn.deferred_bias import DeferredBias
from jumpstart_kernels.nn.linked import LinkedActivation
from jumpstart_kernels.nn.recording import check_module
from jumpstart_kernels.surgery.activations import Activations, Replaceable, requested_activations
from jumpstart_kernels.surgery.code import is_of_torch, may_call
from jumpstart_kernels.surgery.tracing import (
    StandIn,
    Untraceable,
    activation_attributes,
    activation_calls,
    default_pattern,
    trace_forward,
)
from jumpstart_kernels.surgery.units import UNKNOWN, UnitFinder, Units

Skip = Iterable[str | type[nn.Module] | nn.Module]


class Site(NamedTuple):
    """An activation of a model."""

    name: str  # of the module, the attribute, or the module in whose forward the call is; "" is the model
    kind: str  # "module", "attribute" or "call"
    reason: str  # why it cannot be replaced; "" if it can
    unit_dim: int | None = None  # inferred from the preceding layer; None if unknown


class PlainModule(NamedTuple):
    """A module that is an activation."""

    module: nn.Module
    activation: Replaceable
    name: str
    units: Units


class PlainAttribute(NamedTuple):
    """A module's attribute that is an activation's function."""

    module: nn.Module
    attribute: str
    activation: Replaceable
    inplace: bool
    name: str
    units: Units


class PlainForward(NamedTuple):
    """A module whose forward calls activations, with its traces by mode and call pattern."""

    module: nn.Module
    name: str
    units: Units  # of its input
    graphs: dict[tuple[Any, ...], fx.Graph]


class Survey(NamedTuple):
    """The sites of a model, and what is replaced there."""

    sites: list[Site]
    modules: list[PlainModule]
    attributes: list[PlainAttribute]
    forwards: list[PlainForward]
    skipped: set[nn.Module]


def find_relu(model: nn.Module, *, skip: Skip = (), activations: Iterable[str] = ("relu",)) -> list[Site]:
    """Every ReLU that :func:`replace_relu` would replace, and those it cannot; the model is unchanged.

    Args:
        model: any module, or the wrapper of one.
        skip: what to leave out, as in :func:`replace_relu`.
        activations: which activations to look for, as in :func:`replace_relu`.

    Returns:
        Sites ``(name, kind, reason, unit_dim)``. ``kind`` is ``"module"`` for an ``nn.ReLU``, ``"attribute"``
        for an attribute that is ``F.relu``, ``"call"`` for each call in a module's forward. ``reason`` is
        empty, or says why the site cannot be replaced. ``unit_dim`` is what ``"auto"`` infers, or None if
        that is unknown. ReLUs that are already replaced are left out.

    Raises:
        TypeError: ``model``, ``activations`` or an entry of ``skip`` is of a wrong type.
        ValueError: an entry of ``skip`` matches nothing; ``activations`` has an unknown name, or none.
    """
    return survey(model, skip, requested_activations(activations)).sites


def survey(model: nn.Module, skip: Skip, activations: Activations) -> Survey:
    """Find the sites of a model without changing it."""
    check_module(model)
    skipped = find_skipped(model, skip)
    result = Survey([], [], [], [], skipped)
    finder = UnitFinder(model)
    by_type = {activation.module: activation for activation in activations}
    scripted: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in skipped or module in scripted:
            continue
        if isinstance(module, torch.jit.ScriptModule):
            scripted.update(module.modules())
        plain = by_type.get(type(module))
        reason = plain.refusal(plain.arguments_of(module)) if plain else _irreplaceable(module, activations)
        if reason:
            result.sites.append(Site(name, "module", reason))
        elif plain:
            units = finder.before(module)
            result.sites.append(_site(name, "module", units))
            result.modules.append(PlainModule(module, plain, name, units))
        else:
            for attribute, called in activation_attributes(module, activations).items():
                place, units = f"{name}.{attribute}".lstrip("."), finder.in_attribute(module, attribute)
                result.sites.append(_site(place, "attribute", units))
                result.attributes.append(PlainAttribute(module, attribute, *called, place, units))
            if _has_own_forward(module) and may_call(module, activations):
                _survey_forward(name, module, activations, finder, result)
            elif reason := _left_by_an_earlier_call(module, activations):
                result.sites.append(Site(name, "call", reason))
    return result


def _left_by_an_earlier_call(module: nn.Module, activations: Activations) -> str:
    """Why calls in a forward that is replaced already stay as they are; "" where there are none."""
    forward = vars(module).get("forward")
    if not isinstance(forward, StandIn):
        return ""
    others = tuple(activation for activation in activations if activation.name not in forward.activations)
    if not others or not may_call(module, others):
        return ""
    try:
        if not activation_calls(trace_forward(module, True, default_pattern(module), others), others):
            return ""
    except Untraceable as error:
        return str(error)
    before, wanted = (", ".join(names) for names in (forward.activations, [other.name for other in others]))
    return (
        f"its forward is replaced already, for {before} and not for {wanted}: restore_relu(model) first, "
        "then name all activations in one call"
    )


def find_skipped(model: nn.Module, skip: Skip) -> set[nn.Module]:
    """The modules that ``skip`` names, and those below them."""
    if isinstance(skip, (str, type, nn.Module)) or not isinstance(skip, Iterable):
        raise TypeError(f"skip must be a list or tuple of names, module types and modules, got {skip!r}")
    skipped: set[nn.Module] = set()
    named = list(model.named_modules(remove_duplicate=False))
    for entry in skip:
        if isinstance(entry, str):
            matches = [module for name, module in named if name == entry]
        elif isinstance(entry, type) and issubclass(entry, nn.Module):
            matches = [module for _, module in named if isinstance(module, entry)]
        elif isinstance(entry, nn.Module):
            matches = [module for _, module in named if module is entry]
        else:
            raise TypeError(f"skip must contain names of modules, module types or modules, got {entry!r}")
        if not matches:
            raise ValueError(f"skip: no module of the model matches {_describe(entry)}")
        skipped.update(below for module in matches for below in module.modules())
    return skipped


def _describe(entry: str | type[nn.Module] | nn.Module) -> str:
    if isinstance(entry, str):
        return repr(entry)
    return f"the type {entry.__name__}" if isinstance(entry, type) else f"this {type(entry).__name__} module"


def _irreplaceable(module: nn.Module, activations: Activations) -> str:
    """Why a module that is or holds an activation cannot be replaced; "" for any other module."""
    kind = type(module)
    if isinstance(module, torch.jit.ScriptModule):
        graph = str(getattr(module, "inlined_graph", ""))
        held = any(activation.graph_name in graph for activation in activations)
        return "it is TorchScript: replace before scripting or tracing" if held else ""
    for activation in activations:
        if isinstance(module, (nn.RNN, nn.RNNCell)) and module.nonlinearity == activation.name:
            return f"the {activation.module.__name__} of an {kind.__name__} is inside its kernel"
        if isinstance(module, activation.module) and not isinstance(module, JumpstartActivation):
            plain = activation.module.__name__
            return f"{kind.__name__} is a subclass of nn.{plain}: it may do something else"
    return ""


def _has_own_forward(module: nn.Module) -> bool:
    """Whether the forward is the user's. PyTorch's have their activations as modules or attributes."""
    replaced = isinstance(vars(module).get("forward"), StandIn)
    script = isinstance(module, torch.jit.ScriptModule)
    ours = isinstance(module, (JumpstartActivation, LinkedActivation, DeferredBias))
    return not (script or replaced or ours or is_of_torch(type(module).forward))


def _site(name: str, kind: str, units: Units) -> Site:
    return Site(name, kind, "", units if isinstance(units, int) else None)


def _survey_forward(
    name: str, module: nn.Module, activations: Activations, finder: UnitFinder, result: Survey
) -> None:
    try:
        if "forward" in vars(module):
            raise Untraceable("its forward is an instance attribute set by other code")
        pattern = default_pattern(module)
        graphs = {
            (mode, *pattern): trace_forward(module, mode, pattern, activations) for mode in (True, False)
        }
        longest = max(graphs.values(), key=lambda graph: len(activation_calls(graph, activations)))
        calls = activation_calls(longest, activations)
    except Untraceable as error:
        result.sites.append(Site(name, "call", str(error)))
        return
    if calls:
        units = finder.in_trace(module, longest)
        places = [units.get(call.input, UNKNOWN) for call in calls]
        result.sites.extend(_site(name, "call", place) for place in places)
        result.forwards.append(PlainForward(module, name, finder.before(module), graphs))
