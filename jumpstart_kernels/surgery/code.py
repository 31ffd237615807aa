"""Static analysis of what a module's forward can reach."""

import contextlib
import dis
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from jumpstart_kernels.surgery.activations import Activations, functions_of, methods_of

# With one of these a forward can call functions that it names only as strings, or not at all.
_INDIRECT = {"getattr", "methodcaller", "attrgetter", "eval", "exec", "vars", "globals", "__dict__"}
# With one of these a forward reaches modules below it that it does not name.
_TRAVERSING = {
    *("children", "modules", "named_children", "named_modules", "get_submodule", "_modules"),
    *_INDIRECT,
}
# Their functions call no activation, or are its definition.
_FOREIGN = {"torch", "numpy", "builtins", "math", "functools", "typing", "collections", "warnings", "logging"}


def python_functions(module: nn.Module) -> list[FunctionType]:
    """The module's forward and the Python functions outside PyTorch that it names, transitively."""
    return [thing for thing in _reached(module) if _is_users(thing)]


SUBSCRIPT = "[]"


def loaded_names(module: nn.Module) -> set[str]:
    """The names that :func:`python_functions` load, except ``self.name``, which is the module's own.

    Includes ``SUBSCRIPT`` if something is indexed.
    """
    return {name for function in python_functions(module) for name in _loaded(function.__code__)}


def may_reach(module: nn.Module, name: str) -> bool:
    """Whether the forward can reach what modules below its children call ``name``."""
    own = {id(_function(value)) for kind in type(module).__mro__ for value in vars(kind).values()}
    for function in python_functions(module):
        names = _loaded(function.__code__) if id(function) in own else _names(function)
        if name in names or not _TRAVERSING.isdisjoint(_names(function)):
            return True
    return False


def may_call(module: nn.Module, activations: Activations) -> bool:
    """Whether the forward can call one of these that is no module: what says no here needs no trace."""
    kinds = tuple(activation.module for activation in activations)
    names = {name for activation in activations for name in activation.names}
    mentioned = [*names, *(kind.__name__ for kind in kinds)]  # a module may be made in the forward
    functions = [
        *functions_of(activations),
        *(getattr(torch.Tensor, name) for name in methods_of(activations)),
    ]
    graph_names = [activation.graph_name for activation in activations]

    def is_one(value: Any) -> bool:
        if isinstance(value, torch.jit.ScriptFunction):
            return any(name in str(value.inlined_graph) for name in graph_names)
        return any(value is function for function in functions)

    def is_name(value: Any) -> bool:
        return isinstance(value, str) and value in names

    indirect = named = False
    registered = set(module.modules())
    for thing in _reached(module):
        if isinstance(thing, kinds) and thing not in registered:
            return True
        if _is_users(thing):
            if any(mentions(thing, name) for name in mentioned):
                return True
            indirect = indirect or not _INDIRECT.isdisjoint(_names(thing))
            named = named or any(_holds(code.co_consts, is_name) for code in _codes(thing.__code__))
        elif _holds(thing, is_one):
            return True
        else:
            named = named or _holds(thing, is_name)
    return indirect and named


def mentions(function: FunctionType, name: str) -> bool:
    """Whether the code loads a function or method ``name``, other than the module's own ``self.name``."""
    return name in _loaded(function.__code__)


@functools.lru_cache(maxsize=4096)
def _loaded(code: CodeType) -> frozenset[str]:
    names: set[str] = set()
    previous: Any = None
    for instruction in dis.get_instructions(code):
        loads = instruction.opname in ("LOAD_GLOBAL", "LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM")
        if loads and previous != "self":
            names.add(instruction.argval)
        elif instruction.opname in ("BINARY_SUBSCR", "BINARY_SLICE") or instruction.argrepr == SUBSCRIPT:
            names.add(SUBSCRIPT)
        previous = instruction.argval
        if instruction.opname.startswith("LOAD_FAST") and isinstance(previous, tuple):
            previous = previous[-1]  # from Python 3.13 on one instruction may load two variables
    return frozenset(names).union(
        *(_loaded(inner) for inner in code.co_consts if isinstance(inner, CodeType))
    )


def _is_users(thing: Any) -> bool:
    return isinstance(thing, FunctionType) and not is_of_torch(thing)


def is_of_torch(thing: Any) -> bool:
    """Whether a class or function is PyTorch's own."""
    return _package(thing) == "torch"


def _package(thing: Any) -> str:
    name = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", None)
    return name.partition(".")[0] if isinstance(name, str) else ""


def _reached(module: nn.Module) -> Iterator[Any]:
    """Everything that the forward names, and transitively what the functions among it name."""
    own = _namespaces(module)
    seen: set[int] = set()
    queue: list[Any] = [vars(module).get("forward"), type(module).forward]
    while queue:
        thing = queue.pop()
        if isinstance(thing, _CODE):
            thing = _function(thing)
        if thing is None or id(thing) in seen:
            continue
        seen.add(id(thing))
        yield thing
        if _is_users(thing):
            queue += _named_by(thing, own)
        elif isinstance(thing, functools.partial):
            queue.append(thing.func)
        elif isinstance(thing, (list, tuple, set, frozenset, dict)):
            items = thing.values() if isinstance(thing, dict) else thing
            queue += [item for item in items if isinstance(item, (nn.Module, *_CODE, *_HOLDERS))]


def _function(thing: Any) -> Any:
    """The function inside a method, a property or a wrapper."""
    inner: Any = getattr(thing, "fget", None) or getattr(thing, "__func__", thing)
    return inspect.unwrap(inner) if callable(inner) else inner


_CODE = (FunctionType, MethodType, property, staticmethod, classmethod)
_HOLDERS = (functools.partial, list, tuple, set, frozenset, dict)


def _named_by(function: FunctionType, own: list[Mapping[str, Any]]) -> list[Any]:
    """The values of a function's names: in its module, and in the objects that its other names refer to."""
    names = _names(function)
    closure = []
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # a variable that is not set yet
            closure.append(cell.cell_contents)
    found = [*closure, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    spaces: list[Mapping[str, Any]] = [*own, function.__globals__]
    for value in closure:
        spaces += _namespaces(value)
    seen = {id(space) for space in spaces}
    while spaces:
        space = spaces.pop()
        for name in names & space.keys():
            value = space[name]
            found += [value, vars(type(value)).get("__call__")]  # for callable objects
            for inner in _namespaces(value):
                if id(inner) not in seen:
                    seen.add(id(inner))
                    spaces.append(inner)
    return found


def _namespaces(value: Any) -> list[Mapping[str, Any]]:
    """The namespaces of a value's attributes, if it can hold user functions."""
    if isinstance(value, (nn.ModuleList, nn.ModuleDict, nn.Sequential)) and is_of_torch(type(value).forward):
        one_of_each = {type(child): child for child in value.children()}
        return [value._modules, *(space for child in one_of_each.values() for space in _namespaces(child))]
    if _package(value if isinstance(value, (type, ModuleType)) else type(value)) in _FOREIGN:
        return []
    if isinstance(value, ModuleType):
        return [vars(value)]
    kind = value if isinstance(value, type) else type(value)
    spaces: list[Mapping[str, Any]] = [vars(base) for base in kind.__mro__ if _package(base) not in _FOREIGN]
    if kind is not value and hasattr(value, "__dict__"):
        spaces.insert(0, vars(value))
    return [*spaces, value._modules] if isinstance(value, nn.Module) else spaces


def _holds(value: Any, is_it: Callable[[Any], bool], depth: int = 2) -> bool:
    """Whether a value satisfies the predicate, or is a container or partial of one that does."""
    if isinstance(value, functools.partial):
        return _holds(value.func, is_it, depth)
    if isinstance(value, (list, tuple, set, frozenset, dict)):
        items = value.values() if isinstance(value, dict) else value
        return depth > 0 and any(_holds(item, is_it, depth - 1) for item in items)
    return is_it(value)


def _names(function: FunctionType) -> set[str]:
    return {name for code in _codes(function.__code__) for name in code.co_names}


def methods_of_class(module: nn.Module) -> Iterator[tuple[str, FunctionType]]:
    """A user-defined module's methods that other code may call in place of its forward."""
    for kind in type(module).__mro__:
        if is_of_torch(kind) or kind is object:
            continue
        for name, value in vars(kind).items():
            function = _function(value) if isinstance(value, _CODE) else None
            if isinstance(function, FunctionType) and name not in ("__init__", "forward"):
                yield name, function


def names_in(function: FunctionType) -> set[str]:
    """The names that a function loads."""
    return _names(function)


def codes(function: FunctionType) -> Iterator[CodeType]:
    """The code of a function, and of those in it."""
    return _codes(function.__code__)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
