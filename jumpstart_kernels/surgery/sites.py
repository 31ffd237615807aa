"""Where a model has a ReLU, and what stands in the way of replacing it."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from jumpstart_kernels.modules import JumpstartReLU, check_module
from jumpstart_kernels.surgery.code import (
    is_of_torch,
    may_call_relu,
)
from jumpstart_kernels.surgery.tracing import (
    StandIn,
    Untraceable,
    default_pattern,
    relu_attributes,
    relu_nodes,
    trace_forward,
)
from jumpstart_kernels.surgery.units import UNKNOWN, UnitFinder, Units

Skip = Iterable[str | type[nn.Module] | nn.Module]


class Site(NamedTuple):
    """A ReLU of a model."""

    name: str  # of the module, the attribute, or the module in whose forward the call is; "" is the model
    kind: str  # "module", "attribute" or "call"
    reason: str  # why it cannot be replaced; "" where it can
    unit_dim: int | None = None  # where its units are, by what is before it; None where that does not say


class Survey(NamedTuple):
    """The sites of a model, and what replaces them."""

    sites: list[Site]
    relus: list[tuple[nn.ReLU, str, Units]]  # the module, its name, its units
    attributes: list[tuple[nn.Module, str, str, Units]]  # of which module, the attribute, its name, its units
    forwards: list[tuple[nn.Module, str, Units, dict[tuple[Any, ...], fx.Graph]]]  # those of its input


def find_relu(model: nn.Module, *, skip: Skip = ()) -> list[Site]:
    """Every ReLU that :func:`replace_relu` would replace, and those that it cannot. The model stays as it is.

    Args:
        model: any module, or the wrapper of one.
        skip: what to leave out, as in :func:`replace_relu`.

    Returns:
        Sites ``(name, kind, reason, unit_dim)``. ``kind`` is ``"module"`` for an ``nn.ReLU``, ``"attribute"``
        for an attribute that is ``F.relu``, ``"call"`` for a call in a module's forward: a site for every
        call. ``reason`` is empty, or says why the site cannot be replaced. ``unit_dim`` is what ``"auto"``
        takes, or None where it is not to be told. What is replaced already is left out.

    Raises:
        TypeError: ``model`` or an entry of ``skip`` is of a wrong type.
        ValueError: an entry of ``skip`` matches nothing.
    """
    return survey(model, skip).sites


def survey(model: nn.Module, skip: Skip) -> Survey:
    """Find the sites of a model without changing it."""
    check_module(model)
    skipped = _skipped(model, skip)
    result = Survey([], [], [], [])
    finder = UnitFinder(model)
    scripted: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in skipped or module in scripted:
            continue
        if isinstance(module, torch.jit.ScriptModule):
            scripted.update(module.modules())
        reason = _irreplaceable(module)
        if reason:
            result.sites.append(Site(name, "module", reason))
        elif type(module) is nn.ReLU:
            units = finder.before(module)
            result.sites.append(_site(name, "module", units))
            result.relus.append((module, name, units))
        else:
            for attribute in relu_attributes(module):
                place, units = f"{name}.{attribute}".lstrip("."), finder.in_attribute(module, attribute)
                result.sites.append(_site(place, "attribute", units))
                result.attributes.append((module, attribute, place, units))
            if _has_own_forward(module) and may_call_relu(module):
                _survey_forward(name, module, finder, result)
    return result


def _skipped(model: nn.Module, skip: Skip) -> set[nn.Module]:
    """The modules that ``skip`` names, and those below them."""
    if isinstance(skip, (str, type, nn.Module)):
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
            raise TypeError(f"skip takes names of modules, module types and modules, got {entry!r}")
        if not matches:
            raise ValueError(f"skip: no module of the model matches {_describe(entry)}")
        skipped.update(below for module in matches for below in module.modules())
    return skipped


def _describe(entry: str | type[nn.Module] | nn.Module) -> str:
    if isinstance(entry, str):
        return repr(entry)
    return f"the type {entry.__name__}" if isinstance(entry, type) else f"this {type(entry).__name__} module"


def _irreplaceable(module: nn.Module) -> str:
    """Why a module that is or holds a ReLU cannot be replaced; "" for any other module."""
    if isinstance(module, torch.jit.ScriptModule):
        graph = str(getattr(module, "inlined_graph", ""))
        return "it is TorchScript: replace before scripting or tracing" if "aten::relu" in graph else ""
    if isinstance(module, (nn.RNN, nn.RNNCell)) and module.nonlinearity == "relu":
        return f"the ReLU of an {type(module).__name__} is inside its kernel"
    if isinstance(module, nn.ReLU) and not isinstance(module, JumpstartReLU) and type(module) is not nn.ReLU:
        return f"{type(module).__name__} is a subclass of nn.ReLU: it may do something else"
    return ""


def _has_own_forward(module: nn.Module) -> bool:
    """Whether the forward is the user's. PyTorch's modules have their ReLUs as modules or attributes."""
    replaced = isinstance(vars(module).get("forward"), StandIn)
    script = isinstance(module, torch.jit.ScriptModule)
    return not (script or replaced or isinstance(module, nn.ReLU) or is_of_torch(type(module).forward))


def _site(name: str, kind: str, units: Units) -> Site:
    return Site(name, kind, "", units if isinstance(units, int) else None)


def _survey_forward(name: str, module: nn.Module, finder: UnitFinder, result: Survey) -> None:
    try:
        if "forward" in vars(module):
            raise Untraceable("its forward is an attribute of the instance, put there by other code")
        pattern = default_pattern(module)
        graphs = {(mode, *pattern): trace_forward(module, mode, pattern) for mode in (True, False)}
        longest = max(graphs.values(), key=lambda graph: len(relu_nodes(graph)))
        calls = [node for node, _ in relu_nodes(longest)]
    except Untraceable as error:
        result.sites.append(Site(name, "call", str(error)))
        return
    if calls:
        units = finder.in_trace(module, longest)
        places = [units.get(call.all_input_nodes[0], UNKNOWN) for call in calls]
        result.sites.extend(_site(name, "call", place) for place in places)
        result.forwards.append((module, name, finder.before(module), graphs))
