"""The forward of a module whose functional ReLU calls have become calls of submodules."""

import itertools
import warnings
from collections.abc import Callable
from types import CodeType, MethodType
from typing import Any

import torch
from torch import fx, nn

from jumpstart_kernels.modules import JumpstartReLU
from jumpstart_kernels.surgery.layers import Options, make_layer
from jumpstart_kernels.surgery.tracing import (
    Pattern,
    StandIn,
    Untraceable,
    call_pattern,
    relu_nodes,
    trace_forward,
)
from jumpstart_kernels.surgery.units import UNKNOWN, UnitFinder, Units


class TracedForward(StandIn):
    """Stands in a module's ``forward``: runs the trace that fits the mode and the arguments of the call.

    A trace for a new combination of ``training`` and of None, bool and string arguments is made when it comes
    up. Copies and pickles leave the traces behind and make their own.
    """

    def __new__(cls, *args: Any) -> "TracedForward":
        # torch.compile runs the choice of a trace as it stands. Not a decorator: it imports torch._dynamo,
        # which takes seconds. Not in __init__: unpickling passes it by.
        torch.compiler.assume_constant_result(cls._choose)
        return super().__new__(cls)

    def __init__(self, module: nn.Module, name: str, options: Options, units: Units) -> None:
        """``name`` is the module's in its model, ``units`` where its input has them."""
        self._module = module
        self._name = name
        self._options = options
        self._units = units
        self._labels: dict[tuple[Any, ...], str] = {}
        self._functions: dict[str, Callable[..., Any]] = {}
        self.names: list[str] = []  # of the submodules it added

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        label = self._choose(self._module.training, *call_pattern(args, kwargs))
        return self._functions[label](self._module, *args, **kwargs)

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The forward of the class, for ``inspect.signature``."""
        return MethodType(type(self._module).forward, self._module)

    @property
    def __code__(self) -> CodeType:
        """That of the forward of the class, for ``torch.export``, which asks where a forward is written."""
        return type(self._module).forward.__code__

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_labels": {}, "_functions": {}}

    def install(self, graphs: dict[tuple[Any, ...], fx.Graph]) -> None:
        """Become the module's forward, with traces of ``(training, *pattern)``."""
        for key, graph in graphs.items():
            self._keep(key, self._compile(graph))
        self._module.forward = self

    def remove(self) -> None:
        """Take itself and the submodules it added out of the module."""
        vars(self._module).pop("forward", None)
        for name in self.names:
            self._module._modules.pop(name, None)

    def _choose(self, training: bool, *pattern: Any) -> str:
        """The label of the function to run, a constant that torch.compile can take."""
        key = (training, *pattern)
        label = self._labels.get(key)
        return self._keep(key, self._trace(training, pattern)) if label is None else label

    def _keep(self, key: tuple[Any, ...], function: Callable[..., Any]) -> str:
        label = self._labels[key] = str(len(self._labels))
        self._functions[label] = function
        return label

    def _trace(self, training: bool, pattern: Pattern) -> Callable[..., Any]:
        try:
            return self._compile(trace_forward(self._module, training, pattern))
        except Untraceable as reason:
            module = type(self._module)
            warnings.warn(
                f"a {module.__name__} is called in a way in which replace_relu cannot replace its functional "
                f"calls: {reason}. Such calls run with plain ReLU",
                stacklevel=5,
            )
            return module.forward

    def _compile(self, graph: fx.Graph) -> Callable[..., Any]:
        """The trace as a function of the module and its inputs, each ReLU call turned into a submodule's."""
        unused = list(self.names)
        relus = relu_nodes(graph)
        units = UnitFinder(self._module, self._units).in_trace(self._module, graph)
        for node, inplace in relus:
            x: Any = node.args[0] if node.args else node.kwargs["input"]
            layer = make_layer(self._options, units.get(x, UNKNOWN), inplace)
            options = layer.extra_repr()
            fitting = (name for name in unused if self._module.get_submodule(name).extra_repr() == options)
            name = next(fitting, None)
            if name is None:
                name = self._add(layer)
            else:
                unused.remove(name)
            with graph.inserting_before(node):
                node.replace_all_uses_with(graph.call_module(name, (x,)))
            graph.erase_node(node)
        return type(fx.GraphModule(self._module, graph)).forward

    def _add(self, layer: JumpstartReLU) -> str:
        names = (f"jumpstart_relu_{i}" for i in itertools.count())
        name = next(name for name in names if not hasattr(self._module, name))
        layer._name = f"{self._name}.{name}".lstrip(".")
        siblings: list[Any] = [self._module.get_submodule(sibling) for sibling in self.names]
        layer._pauses = max((sibling._pauses for sibling in siblings), default=0)  # made inside no_record
        self._module.add_module(name, layer.train(self._module.training))
        self.names.append(name)
        return name
