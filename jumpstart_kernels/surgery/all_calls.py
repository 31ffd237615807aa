"""Traces of a forward that hold for every call of it, whatever its arguments and its module's flags are.

A forward whose course depends on them in a way that these traces do not cover is refused.
"""

import dis
import inspect
import itertools
import math
from collections.abc import Callable
from types import CodeType
from typing import Any

from torch import fx, nn

from jumpstart_kernels.surgery.code import codes, is_of_torch, python_functions
from jumpstart_kernels.surgery.tracing import Pattern, Tracer, Untraceable, trace_forward


def trace_all(module: nn.Module) -> list[fx.Graph]:
    """The traces of a module's forward for both modes and all patterns of calls."""
    if "forward" in vars(module):
        raise Untraceable("it is set by other code")
    if any(_compares_identity(code) for function in python_functions(module) for code in codes(function)):
        raise Untraceable("its forward compares by `is`, of which a trace sees one outcome")
    graphs = []
    for pattern in call_patterns(module):
        for training in (True, False):
            try:
                graphs.append(trace_forward(module, training, pattern, (), AttributeTracer))
            except Untraceable as error:
                if "NoneType" not in str(error.__cause__):  # else a call without the argument fails as well
                    raise
    return graphs


def call_patterns(module: nn.Module) -> list[Pattern]:
    """All calls between which ``module``'s forward may distinguish without branching on an unknown value.

    Raises:
        Untraceable: there are too many.
    """
    _, *parameters = inspect.signature(type(module).forward).parameters.values()  # without self
    choices: list[tuple[Any, ...]] = []
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise Untraceable("its forward takes any number of arguments")
        if isinstance(parameter.default, bool):
            choices.append((True, False))
        else:
            optional = bool(choices) and parameter.default in (None, parameter.empty)
            choices.append((..., None) if optional else (...,))
    if math.prod(map(len, choices)) > 16:
        raise Untraceable("its forward takes many optional arguments")
    keywords = [parameter.name for parameter in parameters if parameter.kind == parameter.KEYWORD_ONLY]
    patterns = []
    for values in itertools.product(*choices):
        positional = values[: len(values) - len(keywords)]
        patterns.append((positional, tuple(zip(keywords, values[len(positional) :], strict=True))))
    return patterns


def _compares_identity(code: CodeType) -> bool:
    """Whether code has an ``is`` with anything but None: an unknown value is not intercepted there."""
    previous = None
    for instruction in dis.get_instructions(code):
        none = previous is not None and previous.opname == "LOAD_CONST" and previous.argval is None
        if instruction.opname == "IS_OP" and not none:
            return True
        previous = instruction
    return False


class Unknown(fx.Proxy):
    """A value that a forward must not branch on, not even by looking it up in a set or dict."""

    def __hash__(self) -> int:
        raise Untraceable("its forward looks an unknown value up in a set or dict")


class AttributeTracer(Tracer):
    """Takes numbers, flags and strings of the module and of those in it for unknown, too: they may change."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return Unknown(node, self)

    def trace(self, root: Any, concrete_args: Any = None) -> fx.Graph:
        own = [(name, module, _plain_attributes(module)) for name, module in root.named_modules()]
        self._attributes = own
        instances = [(vars(module), dict(vars(module))) for _, module, _ in own]
        try:
            return super().trace(root, concrete_args)
        finally:
            for attributes, before in instances:
                attributes.clear()
                attributes.update(before)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        for path, module, names in self._attributes:
            for name in names:
                target = f"{path}.{name}".lstrip(".")
                vars(module)[name] = self.create_proxy("get_attr", target, (), {})
        return super().create_args_for_root(root_fn, is_module, concrete_args)


def _plain_attributes(module: nn.Module) -> list[str]:
    """The names of a module's numbers, flags and strings, those of its class included."""
    spaces = [vars(kind) for kind in type(module).__mro__ if not is_of_torch(kind)] + [vars(module)]
    return list(
        {
            name: None
            for space in spaces
            for name, value in space.items()
            if name != "training" and not name.startswith("__") and isinstance(value, (bool, int, float, str))
        }
    )
