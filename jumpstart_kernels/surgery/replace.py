"""``replace_relu`` and ``restore_relu``: a model's ReLUs made JumpstartReLUs in place, and back."""

import inspect
import logging
import warnings
from collections import Counter
from contextlib import ExitStack
from typing import Any

from torch import nn

from jumpstart_kernels.modules import JumpstartReLU, check_module
from jumpstart_kernels.surgery.forward import TracedForward
from jumpstart_kernels.surgery.sites import Site, Skip, survey
from jumpstart_kernels.surgery.tracing import RELU_FUNCTIONS

_OPTIONS = tuple(name for name in inspect.signature(JumpstartReLU).parameters if name != "inplace")
_ADDED = tuple(name for name in vars(JumpstartReLU()) if name not in vars(nn.ReLU()))  # attributes

logger = logging.getLogger("jumpstart_kernels")


def replace_relu(model: nn.Module, *, skip: Skip = (), **options: Any) -> nn.Module:
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
        **options: ``unit_dim``, ``points``, ``margin``, ``tie_breaking`` of every new JumpstartReLU.

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
    JumpstartReLU(**options)
    found = survey(model, skip)
    with ExitStack() as undo:
        for relu in found.relus:
            undo.callback(_to_relu, relu)
            _to_jumpstart_relu(relu, options)
        for module, name in found.attributes:
            undo.callback(_restore_attributes, module)
            _replace_attribute(module, name, options)
        for module, graphs in found.forwards:
            forward = TracedForward(module, options)
            undo.callback(forward.remove)
            forward.install(graphs)
        undo.pop_all()
    _report(model, found.sites)
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


def _to_jumpstart_relu(relu: nn.ReLU, options: dict[str, Any]) -> None:
    """Change the class: hooks, handles and all that refers to the module stay."""
    fresh = vars(JumpstartReLU(**options))
    vars(relu).update((name, fresh[name]) for name in _ADDED)
    relu.__class__ = JumpstartReLU


def _to_relu(relu: nn.ReLU) -> None:
    relu.__class__ = nn.ReLU
    for name in _ADDED:
        vars(relu).pop(name, None)


def _replace_attribute(module: nn.Module, name: str, options: dict[str, Any]) -> None:
    function = vars(module)[name]
    relu = JumpstartReLU(RELU_FUNCTIONS[function], **options).train(module.training)
    vars(relu)["_replaced_function"] = function, list(vars(module)).index(name)
    setattr(module, name, relu)


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


def _report(model: nn.Module, sites: list[Site]) -> None:
    replaced = Counter(site for site in sites if not site.reason)
    listed = [f"{count} x {_label(site)} ({site.kind})" for site, count in replaced.items()]
    logger.info("replaced %d ReLUs: %s", replaced.total(), ", ".join(listed))
    left = [f"  {_label(site)} ({site.kind}): {site.reason}" for site in sites if site.reason]
    if left:
        warnings.warn("\n".join(["replace_relu could not replace", *left]), stacklevel=3)
    elif not replaced and not any(isinstance(module, JumpstartReLU) for module in model.modules()):
        warnings.warn("replace_relu found no ReLU in the model: nothing is replaced", stacklevel=3)


def _label(site: Site) -> str:
    return site.name or "the model itself"
