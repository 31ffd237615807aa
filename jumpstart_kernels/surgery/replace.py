"""``replace_relu`` and ``restore_relu``: a model's ReLUs made JumpstartReLUs in place, and back."""

import inspect
import logging
import warnings
from collections import Counter
from contextlib import ExitStack
from typing import Any

from torch import nn

from jumpstart_kernels.modules import JumpstartReLU, check_module
from jumpstart_kernels.surgery.code import RELU_FUNCTIONS
from jumpstart_kernels.surgery.forward import TracedForward
from jumpstart_kernels.surgery.layers import make_layer
from jumpstart_kernels.surgery.sites import Site, Skip, survey
from jumpstart_kernels.surgery.units import UNKNOWN, check_unit_dim, log_unknown

_OPTIONS = tuple(name for name in inspect.signature(JumpstartReLU).parameters if name != "inplace")
_ADDED = tuple(name for name in vars(JumpstartReLU()) if name not in vars(nn.ReLU()))  # attributes

logger = logging.getLogger("jumpstart_kernels")


def replace_relu(
    model: nn.Module, *, skip: Skip = (), unit_dim: int | str = "auto", **options: Any
) -> nn.Module:
    """Make every ReLU of a model a :class:`~jumpstart_kernels.JumpstartReLU`, in place.

    Replaced are

    - modules of the type ``nn.ReLU``. They stay the same objects, hooks included, wherever they are shared;
    - attributes that are ``F.relu`` or ``torch.relu``, such as ``activation`` of an
      ``nn.TransformerEncoderLayer``, each by a submodule of its name;
    - calls of ``F.relu``, ``torch.relu`` and ``x.relu()``, in place or not, in the forward of modules of your
      own, where ``torch.fx`` can trace it. Each call gets a submodule ``jumpstart_relu_0``, ``_1``, ... In a
      subclass of ``nn.Sequential`` these count as elements: code that loops over it from outside meets them.

    No class, parameter, buffer or ``state_dict`` changes. What was replaced goes to the logger
    ``jumpstart_kernels`` at INFO, what could not be to a warning; :func:`find_relu` lists both beforehand.
    What is a JumpstartReLU already stays as it is.

    A forward with functional calls then runs as its trace. The trace follows ``train()`` and ``eval()``, and
    arguments that are None, a bool or a string. All else that Python decides in it, by attributes of the
    module, say, is fixed when it is traced: to change it, ``restore_relu``, then ``replace_relu`` again. Such
    a module survives ``copy.deepcopy``, pickling and DDP, but not the shallow copies that ``copy.copy`` and
    ``nn.DataParallel`` make.

    Args:
        model: any module, or the wrapper of one (DDP, ``torch.compile``).
        skip: what to leave as it is, with all below it: qualified names of modules, module types, modules.
        unit_dim: the dimension of the units of every new JumpstartReLU; or ``"auto"``, the one where the
            layer before it puts its outputs: the last behind a ``Linear``, −(n+1) behind a ``ConvNd``,
            without a batch too. Norms, pooling and element-wise calls pass it on. What does not tell (a
            ``view`` in between, other layers that share the ReLU) is 1, and a warning of the logger.
        **options: ``points``, ``margin``, ``tie_breaking`` of every new JumpstartReLU.

    Returns:
        ``model`` itself.

    Raises:
        TypeError: ``model`` is no module; an option is unknown; an option or an entry of ``skip`` is of a
            wrong type.
        ValueError: an option is out of range; an entry of ``skip`` matches nothing. The model is as before.
    """
    for name in options:
        if name not in _OPTIONS:
            raise TypeError(f"unknown option {name!r}: replace_relu takes skip, {', '.join(_OPTIONS)}")
    check_unit_dim(unit_dim)
    options["unit_dim"] = unit_dim
    make_layer(options, UNKNOWN)
    found = survey(model, skip)
    with ExitStack() as undo:
        for relu, place, units in found.relus:
            undo.callback(_to_relu, relu)
            _to_jumpstart_relu(relu, place, make_layer(options, units))
        for module, name, place, units in found.attributes:
            undo.callback(_restore_attributes, module)
            layer = make_layer(options, units, RELU_FUNCTIONS[vars(module)[name]])
            _replace_attribute(module, name, place, layer)
        for module, place, units, graphs in found.forwards:
            forward = TracedForward(module, place, options, units)
            undo.callback(forward.remove)
            forward.install(graphs)
        undo.pop_all()
    _report(model, found.sites, unit_dim == "auto")
    return model


def restore_relu(model: nn.Module) -> nn.Module:
    """Undo :func:`replace_relu`: every JumpstartReLU becomes the ReLU it was, in place.

    The model is the one of before to the bit: types, names and order of its modules, hooks, attributes, class
    forwards. A JumpstartReLU of your own becomes an ``nn.ReLU``. Records that no penalty took are dropped.

    Args:
        model: any module, or the wrapper of one; a copy or an unpickled one too.

    Returns:
        ``model`` itself.

    Raises:
        TypeError: ``model`` is no module.
    """
    check_module(model)
    for module in list(model.modules()):
        forward = vars(module).get("forward")
        if isinstance(forward, TracedForward):
            forward.remove()
        _restore_attributes(module)
    for module in model.modules():
        if type(module) is JumpstartReLU:
            _to_relu(module)
    return model


def _to_jumpstart_relu(relu: nn.ReLU, place: str, layer: JumpstartReLU) -> None:
    """Change the class: hooks, handles and all that refers to the module stay."""
    layer._name = place
    vars(relu).update((name, vars(layer)[name]) for name in _ADDED)
    relu.__class__ = JumpstartReLU


def _to_relu(relu: nn.ReLU) -> None:
    relu.__class__ = nn.ReLU
    for name in _ADDED:
        vars(relu).pop(name, None)


def _replace_attribute(module: nn.Module, name: str, place: str, layer: JumpstartReLU) -> None:
    layer._name = place
    vars(layer)["_replaced_function"] = vars(module)[name], list(vars(module)).index(name)
    setattr(module, name, layer.train(module.training))


def _restore_attributes(module: nn.Module) -> None:
    """Put functions back where they were: the last one taken out first, for the order of the attributes."""
    for name, child in reversed(list(module._modules.items())):
        if child is not None and "_replaced_function" in vars(child):
            function, position = vars(child)["_replaced_function"]
            attributes = vars(module)
            del module._modules[name]
            following = list(attributes)[position:]
            attributes[name] = function
            for key in following:
                attributes[key] = attributes.pop(key)


def _report(model: nn.Module, sites: list[Site], auto: bool) -> None:
    replaced = Counter(site for site in sites if not site.reason)
    listed = [f"{count} x {_label(site)} ({_kind(site, auto)})" for site, count in replaced.items()]
    logger.info("replaced %d ReLUs: %s", replaced.total(), ", ".join(listed))
    unknown = list(dict.fromkeys(_label(site) for site in replaced if site.unit_dim is None))
    if auto and unknown:
        log_unknown(unknown)
    left = [f"  {_label(site)} ({site.kind}): {site.reason}" for site in sites if site.reason]
    if left:
        warnings.warn("\n".join(["replace_relu could not replace", *left]), stacklevel=3)
    elif not replaced and not any(isinstance(module, JumpstartReLU) for module in model.modules()):
        warnings.warn("replace_relu found no ReLU in the model: nothing is replaced", stacklevel=3)


def _kind(site: Site, auto: bool) -> str:
    if not auto:
        return site.kind
    return f"{site.kind}, unit_dim {'1, a guess' if site.unit_dim is None else site.unit_dim}"


def _label(site: Site) -> str:
    return site.name or "the model itself"
