"""Traces of a forward that hold for every call of it, whatever its arguments and its module's flags are.

A forward whose course depends on them in a way that these traces do not cover is refused.
"""

import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any

from torch import fx, nn

from jumpstart_kernels.surgery.tracing import Pattern, Tracer, Untraceable, trace_forward


def trace_all(module: nn.Module) -> list[fx.Graph]:
    """The traces of a module's forward for both modes and all patterns of calls."""
    if "forward" in vars(module):
        raise Untraceable("it is set by other code")
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


class AttributeTracer(Tracer):
    """Takes the module's own numbers, flags and strings for unknown, too: they may change between calls."""

    def trace(self, root: Any, concrete_args: Any = None) -> fx.Graph:
        own = vars(root)
        plain = {
            name: value
            for name, value in own.items()
            if name != "training" and isinstance(value, (bool, int, float, str))
        }
        self._attributes = list(plain)
        try:
            return super().trace(root, concrete_args)
        finally:
            own.update(plain)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        vars(self.root).update(
            (name, self.create_proxy("get_attr", name, (), {})) for name in self._attributes
        )
        return super().create_args_for_root(root_fn, is_module, concrete_args)
