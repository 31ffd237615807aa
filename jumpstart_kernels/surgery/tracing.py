"""Traces one module's own forward, and refuses whatever a trace might not reproduce.

``torch.fx`` runs the forward once on placeholders and records the calls. What Python does meanwhile is lost,
so anything that a trace cannot capture is detected here, and the forward is then left unchanged.
"""

import builtins
import inspect
import operator
import random
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType, MethodType
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from jumpstart_kernels.surgery.activations import Activations, Replaceable, functions_of, methods_of
from jumpstart_kernels.surgery.code import is_of_torch, mentions, python_functions

# Functions whose answer differs between a trace and a run.
TRACE_DEPENDENT = ("is_tensor", "is_grad_enabled", "is_inference_mode_enabled", "is_autocast_enabled")

# The arguments of a call: None, bools and strings unchanged, anything else an Ellipsis; keywords with names.
Pattern = tuple[tuple[Any, ...], tuple[tuple[str, Any], ...]]


class Untraceable(Exception):
    """Why a forward cannot be traced, as a message for the user."""


class StandIn:
    """Replaces a module's ``forward`` on the instance, and can be removed.

    Copies and pickles drop the traces and make their own.
    """

    _module: nn.Module
    _labels: dict[Any, str]  # of the functions, by call
    _functions: dict[str, Callable[..., Any]]
    activations: list[str]  # names of those whose calls it has replaced
    graphs: dict[Any, fx.Graph]  # what it runs
    names: list[str]  # of the submodules that it added

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        label = self._choose(self._module.training, *call_pattern(args, kwargs))
        return self._functions[label](self._module, *args, **kwargs)

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The class's forward, for ``inspect.signature``."""
        return MethodType(type(self._module).forward, self._module)

    @property
    def __code__(self) -> CodeType:
        """The code of the class's forward, for ``torch.export``, which looks up its source."""
        return type(self._module).forward.__code__

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_labels": {}, "_functions": {}, "graphs": {}}

    def _choose(self, *key: Any) -> str:
        """The label of the function to run, a constant for torch.compile."""
        raise NotImplementedError

    def remove(self) -> None:
        raise NotImplementedError


def call_pattern(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Pattern:
    """What a trace specializes on: the arguments that Python may branch on."""
    return tuple(map(_fixed, args)), tuple((name, _fixed(value)) for name, value in kwargs.items())


def _fixed(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, str)) else ...


def default_pattern(module: nn.Module) -> Pattern:
    """A call with tensors for the required arguments of forward only."""
    parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]  # without self
    required = [parameter for parameter in parameters if parameter.default is parameter.empty]
    args = tuple(... for parameter in required if parameter.kind <= parameter.POSITIONAL_OR_KEYWORD)
    names = [parameter.name for parameter in required if parameter.kind == parameter.KEYWORD_ONLY]
    return args, tuple((name, ...) for name in names)


class Call(NamedTuple):
    """Where a trace calls an activation's function."""

    node: fx.Node
    activation: Replaceable
    arguments: dict[str, Any]  # those that the layer of this call is made with

    @property
    def input(self) -> fx.Node:
        return self.node.all_input_nodes[0]


def activation_calls(graph: fx.Graph, activations: Activations) -> list[Call]:
    """The calls of these activations in a trace.

    Raises:
        Untraceable: no layer can be made for one: an argument is computed in the forward, or not allowed.
    """
    called_by = {"call_function": functions_of(activations), "call_method": methods_of(activations)}
    calls = []
    for node in graph.nodes:
        called = called_by.get(node.op, {}).get(node.target)
        if called is not None:
            activation, inplace = called
            calls.append(Call(node, activation, _arguments(node, activation, inplace)))
    return calls


def _arguments(node: fx.Node, activation: Replaceable, inplace: bool) -> dict[str, Any]:
    """What a call gives an activation besides its input."""
    positional = zip((*activation.arguments, "inplace"), node.args[1:], strict=False)
    arguments: dict[str, Any] = {"inplace": inplace, **dict(positional), **node.kwargs}
    for name in ("input", "self"):
        arguments.pop(name, None)
    for name, value in arguments.items():
        if isinstance(value, fx.Node):
            kind = activation.module.__name__
            raise Untraceable(f"its forward computes the argument {name} of a {kind}")
    arguments["inplace"] = bool(arguments["inplace"])
    refusal = activation.refusal(arguments)
    if refusal:
        raise Untraceable(refusal)
    return arguments


def activation_attributes(module: nn.Module, activations: Activations) -> dict[str, tuple[Replaceable, bool]]:
    """The instance attributes that are a function of these activations and can be a submodule instead.

    Each with its activation and whether it is in place. Where a forward of the user's may call the function
    with arguments, which a submodule does not take, its calls are replaced instead.
    """
    found = {}
    functions = functions_of(activations)
    for name, value in vars(module).items():
        called = next((called for function, called in functions.items() if value is function), None)
        if called is None or hasattr(type(module), name):  # which would hide the submodule
            continue
        if not called[0].arguments or is_of_torch(type(module).forward):
            found[name] = called
    return found


def trace_forward(
    module: nn.Module,
    training: bool,
    pattern: Pattern,
    activations: Activations,
    tracer: "type[Tracer] | None" = None,
    replaced: bool = False,
) -> fx.Graph:
    """The trace of ``module``'s forward, with submodules as leaves, for one mode and one call pattern.

    Attributes that are a function of these activations count as submodules. ``tracer`` may be a stricter one,
    or one for which fewer submodules are leaves; ``replaced`` keeps the forwards that surgery has replaced.
    The module and the random number generators are as before afterwards, also if it raises.

    Raises:
        Untraceable: tracing fails, or the trace would not reproduce the forward.
    """
    entered = (tracer or Tracer).entered(module)
    functions = list(dict.fromkeys(function for each in entered for function in python_functions(each)))
    for name in TRACE_DEPENDENT:
        if any(mentions(function, name) for function in functions):
            raise Untraceable(f"its forward calls {name}()")
    with preserved(module):
        for submodule in list(module.modules()):
            vars(submodule)["training"] = training
            forward = vars(submodule).get("forward")
            if isinstance(forward, StandIn) and not replaced:
                forward.remove()  # a forward may call another's, or loop over the module's children
            for name, (activation, _) in activation_attributes(submodule, activations).items():
                setattr(submodule, name, activation.module())
        try:
            with (
                preserved(module) as changed,
                preserved_randomness() as drawn,
                torch.set_grad_enabled(training),
                no_isinstance(functions),
            ):
                graph = (tracer or Tracer)(pattern).trace(module)
        except Untraceable:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise Untraceable(f"torch.fx cannot trace its forward ({reason})") from error
    if drawn:
        raise Untraceable("its forward draws random numbers that do not depend on its input")
    if any(name.startswith("_tensor_constant") for name in changed):
        raise Untraceable("its forward creates a tensor")
    if changed:
        raise Untraceable(f"its forward changes attributes: {', '.join(changed)}")
    return graph


class Tracer(fx.Tracer):
    """Traces one forward: submodules stay calls, buffers stay attributes, arguments follow a call pattern."""

    proxy_buffer_attributes = True

    def __init__(self, pattern: Pattern) -> None:
        super().__init__()
        self._pattern = pattern
        self._context = _context()

    @classmethod
    def entered(cls, module: nn.Module) -> list[nn.Module]:
        """Those whose forwards are traced."""
        return [module]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        positional, keyword = self._pattern
        args = [self._placeholder(f"argument_{i}", value) for i, value in enumerate(positional)]
        kwargs = {name: self._placeholder(name, value) for name, value in keyword}
        return (lambda root, *args: root_fn(root, *args, **kwargs)), [self.root, *args]

    def _placeholder(self, name: str, value: Any) -> Any:
        proxy = self.create_proxy("placeholder", name, (), {})
        return proxy if value is ... else value

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _context() != self._context:
            raise Untraceable("its forward uses no_grad, autocast or checkpointing for a part of itself")
        return super().create_node(*args, **kwargs)


def _context() -> tuple[Any, ...]:
    """State that a context manager may change for the calls inside it, which a trace does not record."""
    nesting = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    return torch.is_grad_enabled(), nesting, torch._C._autograd._top_saved_tensors_default_hooks(True)


@contextmanager
def no_isinstance(functions: list[FunctionType]) -> Iterator[None]:
    """Refuse ``isinstance`` on a placeholder in these functions, where it would deny that it is a tensor."""

    def checked_isinstance(value: Any, classes: Any) -> bool:
        if builtins.isinstance(value, fx.Proxy):
            raise Untraceable("its forward calls isinstance() on a value computed from its input")
        return builtins.isinstance(value, classes)

    namespaces = [function.__globals__ for function in functions if "isinstance" not in function.__globals__]
    for namespace in namespaces:
        namespace["isinstance"] = checked_isinstance
    try:
        yield
    finally:
        for namespace in namespaces:
            namespace.pop("isinstance", None)


@contextmanager
def preserved(module: nn.Module) -> Iterator[list[str]]:
    """Restore the attributes of a module and its submodules; yields the list of those that changed."""
    saved = []
    for name, submodule in module.named_modules():
        prefix = f"{name}." if name else ""
        saved.append((prefix, vars(submodule), dict(vars(submodule))))
        containers = [(key, value) for key, value in vars(submodule).items() if type(value) in _CONTAINERS]
        saved += [(f"{prefix}{key}.", value, value.copy()) for key, value in containers]
    changed: list[str] = []
    try:
        yield changed
    finally:
        for prefix, container, before in saved:
            if _identities(container) != _identities(before):
                changed += _changed_names(prefix, container, before)
                container.clear()
                (container.extend if isinstance(container, list) else container.update)(before)


_CONTAINERS = (list, dict, set, OrderedDict, defaultdict)


def _identities(container: Any) -> list[int]:
    items = container.items() if isinstance(container, dict) else ((value,) for value in container)
    return [id(part) for item in items for part in item]


def _changed_names(prefix: str, container: Any, before: Any) -> list[str]:
    if not isinstance(container, dict):
        return [prefix.removesuffix(".")]
    names = {**before, **container}
    return [f"{prefix}{name}" for name in names if container.get(name, ...) is not before.get(name, ...)]


@contextmanager
def preserved_randomness() -> Iterator[list[str]]:
    """Restore the random number generators; yields the list of those that were used."""
    numpy = sys.modules.get("numpy")
    generators: dict[str, tuple[Callable[[], Any], Callable[[Any], None], Callable[[Any, Any], bool]]] = {
        "random": (random.getstate, random.setstate, operator.eq),
        "torch": (torch.get_rng_state, torch.set_rng_state, torch.equal),
    }
    if numpy is not None:
        get_state, set_state = numpy.random.get_state, numpy.random.set_state
        generators["numpy"] = (get_state, set_state, _same_numpy_state)
    before = {name: get_state() for name, (get_state, _, _) in generators.items()}
    drawn: list[str] = []
    try:
        yield drawn
    finally:
        for name, (get_state, set_state, same) in generators.items():
            if not same(get_state(), before[name]):
                drawn.append(name)
                set_state(before[name])


def _same_numpy_state(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return one[2:] == other[2:] and one[1].tobytes() == other[1].tobytes()


def submodule(module: nn.Module, path: str) -> Any:
    """What a trace calls; None for an attribute that was an activation's function when it was traced."""
    found: Any = module
    for name in path.split("."):
        found = found._modules.get(name)
        if found is None:
            return None
    return found
