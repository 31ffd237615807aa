"""The trace of one module's own forward, with every way refused in which a trace could mean something else.

``torch.fx`` runs the forward once on placeholders and writes down the calls. What Python did meanwhile is
lost, so what a trace cannot carry over is looked for here, and is a reason to leave the forward as it is.
"""

import builtins
import inspect
import operator
import random
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import fx, nn

from jumpstart_kernels.surgery.code import RELU_FUNCTIONS, RELU_METHODS, mentions, python_functions

# Whether a question of this name has another answer in a trace than in a run.
TRACE_DEPENDENT = ("is_tensor", "is_grad_enabled", "is_inference_mode_enabled", "is_autocast_enabled")

# The arguments of a call: None, bools and strings as they are, all else an Ellipsis; keywords with names.
Pattern = tuple[tuple[Any, ...], tuple[tuple[str, Any], ...]]


class Untraceable(Exception):
    """Why a forward cannot be traced, in words for the user."""


class StandIn:
    """What stands in a module's ``forward`` instead of that of its class, and can be taken out again."""

    def remove(self) -> None:
        raise NotImplementedError


def call_pattern(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Pattern:
    """What a trace fixes of a call: the arguments that Python branches on."""
    return tuple(map(_fixed, args)), tuple((name, _fixed(value)) for name, value in kwargs.items())


def _fixed(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, str)) else ...


def default_pattern(module: nn.Module) -> Pattern:
    """A call with tensors for the arguments of forward that have no default, and no others."""
    parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]  # without self
    required = [parameter for parameter in parameters if parameter.default is parameter.empty]
    args = tuple(... for parameter in required if parameter.kind <= parameter.POSITIONAL_OR_KEYWORD)
    names = [parameter.name for parameter in required if parameter.kind == parameter.KEYWORD_ONLY]
    return args, tuple((name, ...) for name in names)


def relu_nodes(graph: fx.Graph) -> list[tuple[fx.Node, bool]]:
    """The ReLU calls of a trace, each with whether it is in place.

    Raises:
        Untraceable: ``inplace`` is computed in the forward.
    """
    calls_by_op: dict[str, dict[Any, bool]] = {"call_function": RELU_FUNCTIONS, "call_method": RELU_METHODS}
    found = []
    for node in graph.nodes:
        calls = calls_by_op.get(node.op, {})
        if node.target in calls:
            default = node.args[1] if len(node.args) > 1 else calls[node.target]
            inplace = node.kwargs.get("inplace", default)
            if not isinstance(inplace, bool):
                raise Untraceable("its forward computes the argument inplace of a ReLU")
            found.append((node, inplace))
    return found


def relu_attributes(module: nn.Module) -> list[str]:
    """Names of the instance attributes that are a ReLU function and can be a submodule instead."""
    return [
        name
        for name, value in vars(module).items()
        if any(value is function for function in RELU_FUNCTIONS)
        and not hasattr(type(module), name)  # it would hide the submodule
    ]


def trace_forward(module: nn.Module, training: bool, pattern: Pattern) -> fx.Graph:
    """The calls of ``module``'s forward, those of its submodules unopened, for one mode and one call pattern.

    The module and the random number generators are as before afterwards, also if it raises.

    Raises:
        Untraceable: the trace fails, or would not do what the forward does.
    """
    functions = python_functions(module)
    for name in TRACE_DEPENDENT:
        if any(mentions(function, name) for function in functions):
            raise Untraceable(f"its forward asks {name}()")
    with preserved(module):
        for submodule in list(module.modules()):
            vars(submodule)["training"] = training
            forward = vars(submodule).get("forward")
            if isinstance(forward, StandIn):
                forward.remove()  # a forward may call another's, or loop over the module's children
            for name in relu_attributes(submodule):
                setattr(submodule, name, nn.ReLU())
        try:
            with (
                preserved(module) as changed,
                preserved_randomness() as drawn,
                torch.set_grad_enabled(training),
                no_isinstance(functions),
            ):
                graph = Tracer(pattern).trace(module)
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
            raise Untraceable("its forward sets no_grad, autocast or checkpointing for a part of itself")
        return super().create_node(*args, **kwargs)


def _context() -> tuple[Any, ...]:
    """What a context manager may change for the calls inside it, and a trace does not record."""
    nesting = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    return torch.is_grad_enabled(), nesting, torch._C._autograd._top_saved_tensors_default_hooks(True)


@contextmanager
def no_isinstance(functions: list[FunctionType]) -> Iterator[None]:
    """Refuse ``isinstance`` of a placeholder in these functions: it would say that it is no tensor."""

    def checked_isinstance(value: Any, classes: Any) -> bool:
        if builtins.isinstance(value, fx.Proxy):
            raise Untraceable("its forward asks isinstance() of a value computed from its input")
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
    """Put the attributes of a module and those below back afterwards; yields a list of those it had to."""
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
    """Put the random number generators back afterwards; yields a list of those it had to."""
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
