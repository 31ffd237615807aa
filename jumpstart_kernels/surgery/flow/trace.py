"""A trace through all of a model's modules, whose nodes know in which module's forward they come about."""

import inspect
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from jumpstart_kernels.surgery.code import is_of_torch
from jumpstart_kernels.surgery.tracing import (
    Pattern,
    StandIn,
    Tracer,
    Untraceable,
    call_pattern,
    trace_forward,
)


class Frame:
    """One call of a module's forward."""

    def __init__(self, module: nn.Module, key: tuple[Any, ...]) -> None:
        self.module = module
        self.key = key  # the module's training flag and the pattern of the call
        self.events: list[Any] = []  # the functions, methods and submodules that it calls, in turn


class Place(NamedTuple):
    """Where a node comes about: the event with this number of a frame."""

    frame: Frame
    event: int


OUTPUT = -1
"""The event of a forward's return."""


class _Written(fx.Proxy):
    """A value that remembers ``+=`` and its like as what they are, in place, and not as ``+``."""


def _in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    def written(self: fx.Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return written


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor"):
    setattr(_Written, f"__{_name}__", _in_place(getattr(operator, _name)))


class _FrameTracer(Tracer):
    """Notes the place of every node."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Written(node, self)

    def trace(self, root: Any, concrete_args: Any = None) -> fx.Graph:
        self._frames = [Frame(root, (root.training, *self._pattern))]
        return super().trace(root, concrete_args)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        replaced: Any = vars(self.root).get("forward")
        if replaced is not None:  # by surgery: trace_whole refuses others
            return super().create_args_for_root(
                lambda root, *args, **kwargs: replaced(*args, **kwargs), is_module, concrete_args
            )
        return super().create_args_for_root(root_fn, is_module, concrete_args)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self._frames[-1].events.append(m)
        if self.is_leaf_module(m, self.path_of_module(m)):
            return super().call_module(m, forward, args, kwargs)
        self._frames.append(Frame(m, (m.training, *canonical(m, call_pattern(args, kwargs)))))
        try:
            return super().call_module(m, forward, args, kwargs)
        finally:
            self._frames.pop()

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        frame = self._frames[-1]
        if kind in ("call_function", "call_method"):
            frame.events.append(target)
        node = super().create_node(kind, target, *args, **kwargs)
        node.meta["place"] = Place(frame, OUTPUT if kind == "output" else len(frame.events) - 1)
        return node


class _WholeTracer(_FrameTracer):
    """Enters all modules but PyTorch's and ours."""

    @classmethod
    def entered(cls, module: nn.Module) -> list[nn.Module]:
        return [module, *(each for each in module.modules() if each is not module and not _is_leaf(each))]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_leaf(m)


def _is_leaf(m: nn.Module) -> bool:
    """Whether a module is PyTorch's or ours, with a forward of its own."""
    if isinstance(m, torch.jit.ScriptModule):
        return True
    if isinstance(vars(m).get("forward"), StandIn):
        return False
    if is_of_torch(type(m).forward):
        return not isinstance(m, nn.Sequential)
    return type(m).forward.__module__.partition(".")[0] == __name__.partition(".")[0]


def canonical(module: nn.Module, pattern: Pattern) -> Pattern:
    """The one pattern of all calls of a forward that mean the same.

    Required arguments are positional, those that are not as by default have names.
    """
    args, kwargs = pattern
    _, *parameters = inspect.signature(type(module).forward).parameters.values()  # without self
    if any(each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD, each.POSITIONAL_ONLY) for each in parameters):
        return pattern
    given = {**{each.name: value for each, value in zip(parameters, args, strict=False)}, **dict(kwargs)}
    positional, named = [], []
    for each in parameters:
        if each.default is each.empty and each.kind is not each.KEYWORD_ONLY and each.name in given:
            positional.append(given[each.name])
        elif each.name in given and given[each.name] is not each.default:
            named.append((each.name, given[each.name]))
    return tuple(positional), tuple(named)


def place_of(node: fx.Node) -> Place:
    """Where a node of these traces comes about."""
    return node.meta["place"]


def trace_whole(model: nn.Module, training: bool, pattern: Pattern) -> fx.Graph:
    """The trace of a model down to PyTorch's layers.

    Raises:
        Untraceable: there is none.
    """
    for name, module in model.named_modules():
        forward = vars(module).get("forward")
        if forward is not None and not isinstance(forward, StandIn):
            raise Untraceable(f"the forward of {name or 'the model'} is an attribute set by other code")
    return trace_forward(model, training, pattern, (), _WholeTracer, replaced=True)


def trace_own(module: nn.Module, key: tuple[Any, ...]) -> tuple[fx.Graph, list[fx.Node]]:
    """The trace of one forward, its submodules leaves, and the nodes of its events.

    Raises:
        Untraceable: there is none.
    """
    training, *pattern = key
    graph = trace_forward(module, training, (pattern[0], pattern[1]), (), _FrameTracer, replaced=True)
    return graph, [node for node in graph.nodes if node.op in ("call_function", "call_method", "call_module")]


def operands_of(node: fx.Node) -> list[fx.Node]:
    """The nodes among a node's arguments, in turn, the same one as often as it occurs."""
    found: list[fx.Node] = []

    def note(operand: fx.Node) -> fx.Node:
        found.append(operand)
        return operand

    fx.node.map_arg((node.args, node.kwargs), note)
    return found
