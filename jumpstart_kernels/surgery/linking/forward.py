"""The forward of a module in which calls have become linked, or get the units of the plain model alone."""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from jumpstart_kernels.surgery.flow.trace import OUTPUT, canonical, operands_of, trace_own
from jumpstart_kernels.surgery.flow.units import plain_units
from jumpstart_kernels.surgery.linking.edits import Key, Recipe, signature_of
from jumpstart_kernels.surgery.tracing import StandIn


class LinkedForward(StandIn):
    """Replaces a module's ``forward``: runs its trace with the changes of the recipe for the call."""

    def __new__(cls, *args: Any) -> "LinkedForward":
        torch.compiler.assume_constant_result(cls._choose)  # as in TracedForward
        return super().__new__(cls)

    def __init__(self, module: nn.Module, recipes: dict[Key, Recipe], layers: dict[int, str]) -> None:
        """``layers`` are the names of the submodules that the calls of activations have become."""
        self._module = module
        self._recipes = recipes
        self._layers = layers
        self._before = vars(module).get("forward")  # of an earlier surgery
        self.activations = ["relu"]
        self.names = []
        self.graphs = {}
        self._labels: dict[Key, str] = {}
        self._functions: dict[str, Callable[..., Any]] = {}

    def install(self) -> None:
        """Become the module's forward."""
        for key in self._recipes:
            self._choose(*key)
        self._module.forward = self

    def remove(self) -> None:
        """Leave the module the forward of before; the layers stay linked."""
        vars(self._module).pop("forward", None)
        if self._before is not None:
            self._module.forward = self._before

    def _choose(self, *key: Any) -> str:
        """The label of the function to run, a constant for torch.compile."""
        if key not in self._labels:
            function = self._compile(key)
            self._labels[key] = str(len(self._labels))
            self._functions[self._labels[key]] = function
        return self._labels[key]

    def _compile(self, key: Key) -> Callable[..., Any]:
        """The trace for a call, changed, as a function of the module and its inputs."""
        training, args, kwargs = key
        recipe = self._recipes.get((training, *canonical(self._module, (args, kwargs))))
        if recipe is None:
            raise RuntimeError(
                f"link_relu changed the forward of this {type(self._module).__name__}, and not for a call "
                f"with such arguments ({_described(key)}), which the model that it has traced does not make"
            )
        graph, events = self._traced(key)
        if signature_of(self._module, events) != recipe.signature:
            raise RuntimeError(
                f"the forward of this {type(self._module).__name__} makes other calls than when link_relu "
                "changed it: its code or its attributes have changed since"
            )
        output = next(node for node in graph.nodes if node.op == "output")
        for event, position, *arguments in recipe.narrows:
            _narrow(graph, output if event == OUTPUT else events[event], position, tuple(arguments))
        for event in recipe.flattens:
            events[event].op, events[event].target = "call_function", torch.flatten
            events[event].args, events[event].kwargs = (events[event].args[0], 1), {}
        for event, call in recipe.links.items():
            node = events[event]
            with graph.inserting_before(node):
                linked = graph.call_module(self._layers[call], (node.all_input_nodes[0],))
            node.replace_all_uses_with(linked)
            graph.erase_node(node)
        self.graphs[key] = graph
        return type(fx.GraphModule(self._module, graph)).forward

    def _traced(self, key: Key) -> tuple[fx.Graph, list[fx.Node]]:
        """The trace of the forward that this one replaces."""
        current = vars(self._module).get("forward")
        self.remove()
        try:
            return trace_own(self._module, key)
        finally:
            vars(self._module).pop("forward", None)
            if current is not None:
                self._module.forward = current


def _narrow(graph: fx.Graph, node: fx.Node, position: int, arguments: tuple[Any, ...]) -> None:
    """Give a node an operand without its extra units."""
    operand = operands_of(node)[position]
    with graph.inserting_before(node):
        plain = graph.call_function(plain_units, (operand, *arguments))
    count = -1

    def exchanged(each: fx.Node) -> fx.Node:
        nonlocal count
        count += 1
        return plain if count == position else each

    node.args, node.kwargs = fx.node.map_arg((node.args, node.kwargs), exchanged)


def _described(key: Key) -> str:
    training, args, kwargs = key
    shown = ["a tensor" if value is ... else repr(value) for value in args]
    shown += [f"{name}={'a tensor' if value is ... else repr(value)}" for name, value in kwargs]
    return ", ".join([f"training={training}", *shown])
