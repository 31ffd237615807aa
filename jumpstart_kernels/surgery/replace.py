"""``replace_relu`` and ``restore_relu``: a model's activations made Jumpstart layers in place, and back."""

import inspect
import logging
import warnings
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, TypeVar

from torch import nn

from jumpstart_kernels.nn import JumpstartReLU
from jumpstart_kernels.nn.activation import JumpstartActivation
from jumpstart_kernels.nn.recording import check_module
from jumpstart_kernels.surgery.activations import (
    REPLACEABLE,
    Activations,
    Replaceable,
    requested_activations,
)
from jumpstart_kernels.surgery.bias_links import link_bias, unlink_all, unlink_bias
from jumpstart_kernels.surgery.biases import Moves, check_fuse_bias, deferring_kinds, find_moves
from jumpstart_kernels.surgery.forward import TracedForward
from jumpstart_kernels.surgery.layers import make_layer
from jumpstart_kernels.surgery.sites import Site, Skip, survey
from jumpstart_kernels.surgery.units import UNKNOWN, check_unit_dim, log_unknown

_OPTIONS = tuple(name for name in inspect.signature(JumpstartReLU).parameters if name != "inplace")

logger = logging.getLogger("jumpstart_kernels")

Model = TypeVar("Model", bound=nn.Module)
"""What goes in comes out, but for a model that is an activation itself."""


def replace_relu(
    model: Model,
    *,
    skip: Skip = (),
    unit_dim: int | str = "auto",
    fuse_bias: bool | str = "auto",
    activations: Iterable[str] = ("relu",),
    **options: Any,
) -> Model:
    """Replace every ReLU of a model by a :class:`~jumpstart_kernels.JumpstartReLU`, in place.

    It replaces

    - modules of type ``nn.ReLU``, which stay the same objects, with hooks and sharing intact;
    - attributes that are ``F.relu`` or ``torch.relu``, such as ``activation`` of an
      ``nn.TransformerEncoderLayer``, each by a submodule of that name;
    - calls of ``F.relu``, ``torch.relu`` and ``x.relu()``, in place or not, in the forward of user-defined
      modules, if ``torch.fx`` can trace it. Each call gets a submodule ``jumpstart_relu_0``, ``_1``, ... In a
      subclass of ``nn.Sequential`` these count as elements, visible to code that iterates over it.

    No class of yours, parameter, buffer or ``state_dict`` changes. Replacements are logged to
    ``jumpstart_kernels`` at INFO, and a warning lists what could not be replaced; :func:`find_relu` lists
    both beforehand. Existing JumpstartReLUs are left unchanged.

    A forward with functional calls then runs as its trace. The trace follows ``train()`` and ``eval()``, and
    arguments that are None, a bool or a string. Other Python control flow, for example on attributes of the
    module, is frozen at tracing: to change it, call ``restore_relu`` and ``replace_relu`` again. Such a
    module survives ``copy.deepcopy``, pickling and DDP, but not shallow copies as made by ``copy.copy`` and
    ``nn.DataParallel``.

    Args:
        model: any module, or the wrapper of one (DDP, ``torch.compile``).
        skip: what to leave unchanged, with everything below it: qualified names of modules, module types,
            modules.
        unit_dim: dimension of the units of every new JumpstartReLU; or ``"auto"``, the dimension in which the
            preceding layer puts its outputs: the last after a ``Linear``, −(n+1) after a ``ConvNd``, also
            without a batch. Norms, pooling and element-wise calls pass it on. If it is ambiguous (a ``view``
            in between, a ReLU shared by other layers) it is 1, with a warning from the logger.
        fuse_bias: whether the activation adds the bias of the ``nn.Linear`` or ``nn.ConvNd`` before it, in
            training, in the pass that it makes anyway. True: wherever that layer provably feeds this
            activation alone; the logger names the others and says why. False: nowhere. ``"auto"``: of these,
            where a benchmark says that it pays. The layer stays the same object with its bias, names and
            ``state_dict``, but what it returns in training lacks the bias: do not call it, or hook its
            output, without its activation. Layers replaced by an earlier call stay as they are.
        activations: names of the activations to replace, each by its layer and in the ways above: ``"relu"``,
            ``"leaky_relu"``. Where a module of your own calls an attribute that is a function with further
            arguments (``self.act(x, 0.2)``), the calls are replaced and the attribute stays.
        **options: ``points``, ``margin``, ``tie_breaking`` of every new JumpstartReLU.

    Returns:
        ``model`` itself.

    Raises:
        TypeError: ``model`` is no module; an option is unknown; an option, ``fuse_bias``, ``activations`` or
            an entry of ``skip`` is of a wrong type.
        ValueError: an option or ``fuse_bias`` is out of range; an entry of ``skip`` matches nothing;
            ``activations`` has an unknown name, or none. The model is as before.
    """
    for name in options:
        if name not in _OPTIONS:
            allowed = ", ".join(_OPTIONS)
            raise TypeError(
                f"unknown option {name!r}: replace_relu takes skip, {allowed}, fuse_bias and activations"
            )
    requested = requested_activations(activations)
    check_unit_dim(unit_dim)
    check_fuse_bias(fuse_bias)
    kinds = deferring_kinds(fuse_bias)
    options["unit_dim"] = unit_dim
    make_layer(requested[0], {}, options, UNKNOWN)
    found = survey(model, skip, requested)
    layers: list[Any] = []
    traced: dict[nn.Module, TracedForward] = {}
    with ExitStack() as undo:
        for module, activation, place, units in found.modules:
            undo.callback(_to_plain, module, activation)
            layer = make_layer(activation, activation.arguments_of(module), options, units)
            _to_jumpstart(module, activation, place, layer)
            layers.append(module)
        for module, name, activation, inplace, place, units in found.attributes:
            undo.callback(_restore_attributes, module)
            layer = make_layer(activation, {"inplace": inplace}, options, units)
            _replace_attribute(module, name, place, layer)
            layers.append(layer)
        for module, place, units, graphs in found.forwards:
            forward = TracedForward(module, place, requested, options, units, bool(kinds) and fuse_bias)
            undo.callback(forward.remove)
            forward.install(graphs)
            layers += [module._modules[name] for name in forward.names]
            traced[module] = forward
        moves = find_moves(model, layers, found.skipped, kinds)
        for move in moves.found:
            undo.callback(unlink_bias, link_bias(*move, fuse_bias))
        for owner, uncalled in moves.uncalled:
            if owner in traced:
                traced[owner].uncalled.append(uncalled)
        undo.pop_all()
    _report_biases(moves, fuse_bias)
    _report(model, requested, found.sites, unit_dim == "auto")
    return model


def restore_relu(model: Model) -> Model:
    """Undo :func:`replace_relu`, whichever activations it was asked for: every layer of its is plain again.

    The model is exactly as before: types, names and order of its modules, hooks, attributes, class forwards.
    A JumpstartReLU that you created becomes an ``nn.ReLU``. Records that no penalty consumed are dropped.

    Args:
        model: any module or wrapper, also a copy or an unpickled one.

    Returns:
        ``model`` itself.

    Raises:
        TypeError: ``model`` is not a module.
    """
    check_module(model)
    unlink_all(model)
    for module in list(model.modules()):
        forward = vars(module).get("forward")
        if isinstance(forward, TracedForward):
            forward.remove()
        _restore_attributes(module)
    by_type: dict[type, Replaceable] = {activation.layer: activation for activation in REPLACEABLE.values()}
    for module in model.modules():
        if type(module) in by_type:
            _to_plain(module, by_type[type(module)])
    return model


def _to_jumpstart(module: nn.Module, activation: Replaceable, place: str, layer: JumpstartActivation) -> None:
    """Change the class, which keeps hooks, handles and references to the module."""
    layer._name = place
    vars(module).update((name, vars(layer)[name]) for name in activation.added_attributes)
    module.__class__ = activation.layer


def _to_plain(module: nn.Module, activation: Replaceable) -> None:
    module.__class__ = activation.module
    for name in activation.added_attributes:
        vars(module).pop(name, None)


def _replace_attribute(module: nn.Module, name: str, place: str, layer: JumpstartActivation) -> None:
    layer._name = place
    vars(layer)["_replaced_function"] = vars(module)[name], list(vars(module)).index(name)
    setattr(module, name, layer.train(module.training))


def _restore_attributes(module: nn.Module) -> None:
    """Restore replaced functions, last one first, to preserve the order of the attributes."""
    for name, child in reversed(list(module._modules.items())):
        if child is not None and "_replaced_function" in vars(child):
            function, position = vars(child)["_replaced_function"]
            attributes = vars(module)
            del module._modules[name]
            following = list(attributes)[position:]
            attributes[name] = function
            for key in following:
                attributes[key] = attributes.pop(key)


def _report(model: nn.Module, activations: Activations, sites: list[Site], auto: bool) -> None:
    replaced = Counter(site for site in sites if not site.reason)
    listed = [f"{count} x {_label(site)} ({_kind(site, auto)})" for site, count in replaced.items()]
    kinds = " and ".join(f"{activation.module.__name__}s" for activation in activations)
    logger.info("replaced %d %s: %s", replaced.total(), kinds, ", ".join(listed))
    unknown = list(dict.fromkeys(_label(site) for site in replaced if site.unit_dim is None))
    if auto and unknown:
        log_unknown(unknown)
    left = [f"  {_label(site)} ({site.kind}): {site.reason}" for site in sites if site.reason]
    if left:
        warnings.warn("\n".join(["replace_relu could not replace", *left]), stacklevel=3)
        return
    layers = tuple(activation.layer for activation in activations)
    if not replaced and not any(isinstance(module, layers) for module in model.modules()):
        kinds = " or ".join(activation.module.__name__ for activation in activations)
        warnings.warn(f"replace_relu found no {kinds} in the model: nothing is replaced", stacklevel=3)


def _report_biases(moves: Moves, fuse_bias: bool | str) -> None:
    if moves.found:
        logger.info("fuse_bias: activations add the biases of %d layers", len(moves.found))
    if moves.left:
        left = [f"  {name}: {reason}" for name, reason in moves.left.items()]
        level = logging.WARNING if fuse_bias is True else logging.INFO
        logger.log(level, "%s", "\n".join(["fuse_bias: these layers add their bias themselves", *left]))


def _kind(site: Site, auto: bool) -> str:
    if not auto:
        return site.kind
    return f"{site.kind}, unit_dim {'1 (guessed)' if site.unit_dim is None else site.unit_dim}"


def _label(site: Site) -> str:
    return site.name or "the model itself"
