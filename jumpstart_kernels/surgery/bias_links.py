"""Links between layers and the activations that add their bias: made, undone, and checked against a trace."""

from typing import Any

from torch import fx, nn

from jumpstart_kernels.nn.activation import JumpstartActivation
from jumpstart_kernels.nn.deferred_bias import DEFERRING, BiasLink, DeferredBias
from jumpstart_kernels.surgery.tracing import submodule


def link_bias(owner: nn.Module, producer: str, activation: str, fuse_bias: bool | str) -> DeferredBias:
    """Have an activation add the bias of a layer, both by their paths from ``owner``; returns the layer.

    ``owner`` is the module whose forward calls both, or the containers that they are in. The layer changes
    its class, which keeps parameters, hooks, handles and references to it.
    """
    link = BiasLink(owner, producer, activation)
    layer: Any = link.producer()
    layer.__class__ = DEFERRING[type(layer)]
    vars(layer).update(_bias_link=link, _fuse_bias=fuse_bias)
    vars(link.activation())["_bias_link"] = link
    return layer


def unlink_bias(layer: DeferredBias) -> None:
    """Undo :func:`link_bias`."""
    link = layer._bias_link
    if link is not None:
        link.cut()
    layer._bias_link = None
    if DEFERRING.get(layer.plain) is type(layer):  # else other code has derived a class since
        layer.__class__ = layer.plain  # type: ignore[assignment]
        for name in ("_bias_link", "_fuse_bias"):
            del vars(layer)[name]


def unlink_all(model: nn.Module) -> None:
    """Undo all links from or to a module of a model."""
    modules = list(model.modules())
    links = [module._bias_link for module in modules if isinstance(module, JumpstartActivation)]
    linked = [link.producer() for link in links if link is not None]
    for module in (*modules, *linked):
        if isinstance(module, DeferredBias):
            unlink_bias(module)


def cut_all(model: nn.Module) -> None:
    """Have all layers of a model add their bias themselves: it runs in a way that no trace knows."""
    for module in model.modules():
        if isinstance(module, DeferredBias) and module._bias_link is not None:
            module._bias_link.cut()


def cut_broken(module: nn.Module, graph: fx.Graph) -> None:
    """Cut the links of the layers that a trace of a module's forward calls in any other way."""
    called = {child for _, child in calls_of_modules(module, graph)}
    for activation in module.modules():
        link = activation._bias_link if isinstance(activation, JumpstartActivation) else None
        if link is None:
            continue
        inner = set(link.modules())
        wrong = ""
        if link.owner() is module:
            ends = [outermost(end, inner, called) for end in (link.producer(), link.activation())]
            inner -= set(ends)
            wrong = wrong_calls(module, graph, *ends)
        if wrong or not inner.isdisjoint(called):
            link.cut()


def outermost(end: nn.Module, chain: set[nn.Module], called: set[nn.Module]) -> nn.Module:
    """Which of the containers around one end of a link a trace calls; itself if there is none."""
    around = [module for module in chain if module in called and end in set(module.modules())]
    return max(around, key=lambda module: len(list(module.modules())), default=end)


def wrong_calls(module: nn.Module, graph: fx.Graph, layer: nn.Module, activation: nn.Module | None) -> str:
    """Which call in a trace keeps a layer from leaving its bias to an activation; "" if there is none.

    Either may also be a container that ends with the layer, or starts with the activation.
    """
    called = dict(calls_of_modules(module, graph))
    for node, child in called.items():
        if child is layer:
            users = list(node.users)
            if len(users) != 1 or called.get(users[0]) is not activation:
                return "its output is used elsewhere, too"
        elif child is activation:
            source = node.args[0] if len(node.args) == 1 and not node.kwargs else None
            if not isinstance(source, fx.Node) or called.get(source) is not layer:
                return "its activation is also called elsewhere"
    return ""


def calls_of_modules(module: nn.Module, graph: fx.Graph) -> list[tuple[fx.Node, nn.Module]]:
    """The calls of submodules in a trace of a module's forward."""
    nodes = [node for node in graph.nodes if node.op == "call_module"]
    return [(node, child) for node in nodes if (child := submodule(module, str(node.target))) is not None]
