"""The forward of a module whose calls of activations have become calls of submodules."""

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from jumpstart_kernels.nn.activation import JumpstartActivation
from jumpstart_kernels.surgery.activations import Activations, requested_activations
from jumpstart_kernels.surgery.bias_links import (
    calls_of_modules,
    cut_all,
    cut_broken,
    link_bias,
    wrong_calls,
)
from jumpstart_kernels.surgery.biases import obstacle, obstacle_behind
from jumpstart_kernels.surgery.layers import Options, make_layer
from jumpstart_kernels.surgery.tracing import (
    Pattern,
    StandIn,
    Untraceable,
    activation_calls,
    submodule,
    trace_forward,
)
from jumpstart_kernels.surgery.units import UNKNOWN, UnitFinder, Units


class TracedForward(StandIn):
    """Replaces a module's ``forward``: runs the trace that fits the mode and the arguments of the call.

    A new combination of ``training`` and of None, bool and string arguments is traced on first use. Copies
    and pickles drop the traces and make their own.
    """

    def __new__(cls, *args: Any) -> "TracedForward":
        # torch.compile must not trace the choice. Not a decorator: that imports torch._dynamo, which takes
        # seconds. Not in __init__: unpickling skips it.
        torch.compiler.assume_constant_result(cls._choose)
        return super().__new__(cls)

    def __init__(
        self,
        module: nn.Module,
        name: str,
        activations: Activations,
        options: Options,
        units: Units,
        fuse_bias: bool | str = False,
    ) -> None:
        """``name`` is the module's in its model, ``units`` the unit dimension of its input."""
        self._module = module
        self._name = name
        self.activations = [activation.name for activation in activations]
        self._options = options
        self._units = units
        self._fuse_bias = fuse_bias
        self.graphs = {}
        self._labels: dict[tuple[Any, ...], str] = {}
        self._functions: dict[str, Callable[..., Any]] = {}
        self.names: list[str] = []  # submodules it added
        self._made: dict[str, str] = {}  # how each was made: its options may be changed since
        self.uncalled: list[nn.Module] = []  # layers that can leave their bias to an activation added later

    def install(self, graphs: dict[tuple[Any, ...], fx.Graph]) -> None:
        """Become the module's forward, with traces of ``(training, *pattern)``."""
        for key, graph in graphs.items():
            self.graphs[key] = graph
            self._keep(key, self._compile(graph))
        self._module.forward = self

    def remove(self) -> None:
        """Remove itself and the submodules it added from the module."""
        vars(self._module).pop("forward", None)
        for name in self.names:
            self._module._modules.pop(name, None)

    def _choose(self, training: bool, *pattern: Any) -> str:
        """The label of the function to run, a constant for torch.compile."""
        key = (training, *pattern)
        label = self._labels.get(key)
        return self._keep(key, self._trace(training, pattern)) if label is None else label

    def _keep(self, key: tuple[Any, ...], function: Callable[..., Any]) -> str:
        label = self._labels[key] = str(len(self._labels))
        self._functions[label] = function
        return label

    def _trace(self, training: bool, pattern: Pattern) -> Callable[..., Any]:
        try:
            activations = requested_activations(self.activations)
            graph = trace_forward(self._module, training, pattern, activations)
            function = self._compile(graph)
            key = (training, *pattern)
            self.graphs[key] = graph
            cut_broken(self._module, graph)
            self._link_biases(graph)
            return function
        except Untraceable as reason:
            module = type(self._module)
            warnings.warn(
                f"a {module.__name__} is called in a way in which replace_relu cannot replace its functional "
                f"calls: {reason}. Such calls run as they are, unrecorded",
                stacklevel=5,
            )
            cut_all(self._module)
            self.uncalled = []
            return module.forward

    def _compile(self, graph: fx.Graph) -> Callable[..., Any]:
        """The trace as a function of the module and its inputs, its calls of activations a submodule's."""
        unused = list(self.names)
        calls = activation_calls(graph, requested_activations(self.activations))
        units = UnitFinder(self._module, self._units).in_trace(self._module, graph)
        for call in calls:
            x = call.input
            layer = make_layer(call.activation, call.arguments, self._options, units.get(x, UNKNOWN))
            # An activation that adds the bias of one layer must not follow another.
            made = (
                f"{layer!r} behind {x.target}" if self._fuse_bias and x.op == "call_module" else repr(layer)
            )
            alike = (name for name in unused if self._made[name] == made)
            name = next(alike, None)
            if name is None:
                name = self._add(layer, call.activation.name, made)
            else:
                unused.remove(name)
            with graph.inserting_before(call.node):
                output = graph.call_module(name, (x,))
            call.node.replace_all_uses_with(output)
            graph.erase_node(call.node)
            units[output] = units[call.node]  # for a call that follows on this one
        return type(fx.GraphModule(self._module, graph)).forward

    def _add(self, layer: JumpstartActivation, activation: str, made: str) -> str:
        names = (f"jumpstart_{activation}_{i}" for i in itertools.count())
        name = next(name for name in names if not hasattr(self._module, name))
        layer._name = f"{self._name}.{name}".lstrip(".")
        siblings: list[Any] = [self._module.get_submodule(sibling) for sibling in self.names]
        layer._pauses = max((sibling._pauses for sibling in siblings), default=0)  # added inside no_record
        self._module.add_module(name, layer.train(self._module.training))
        self.names.append(name)
        self._made[name] = made
        return name

    def _link_biases(self, graph: fx.Graph) -> None:
        """Link the layers that a new trace is the first to call with the activations added for them."""
        for node, layer in calls_of_modules(self._module, graph):
            if layer not in self.uncalled:
                continue
            self.uncalled.remove(layer)
            behind = {str(user.target) for user in node.users} & set(self.names)
            for name in behind:
                activation = submodule(self._module, name)
                reasons = (
                    *(wrong_calls(self._module, each, layer, activation) for each in self.graphs.values()),
                    obstacle(layer) or obstacle_behind(layer, activation),
                )
                if not any(reasons):
                    link_bias(self._module, str(node.target), name, self._fuse_bias)
