"""What a node of a trace is: the module that it calls, a ReLU, something in place."""

from typing import Any

from torch import fx, nn

from jumpstart_kernels.surgery.activations import REPLACEABLE, functions_of, methods_of
from jumpstart_kernels.surgery.flow.calls import name_of_call
from jumpstart_kernels.surgery.tracing import submodule

_RELU = (REPLACEABLE["relu"],)


def called_module(model: nn.Module, node: fx.Node) -> nn.Module | None:
    """The module that a node calls."""
    return submodule(model, str(node.target)) if node.op == "call_module" else None


def is_relu_call(op: str, target: Any) -> bool:
    """Whether a call of a function or method is one of ReLU."""
    known = {"call_function": functions_of(_RELU), "call_method": methods_of(_RELU)}.get(op, {})
    return target in known


def is_inplace(model: nn.Module, node: fx.Node) -> bool:
    """Whether a node overwrites its first operand."""
    module: Any = called_module(model, node)
    if module is not None:
        return bool(getattr(module, "inplace", False))
    name = name_of_call(node)
    if node.target in functions_of(_RELU) and len(node.args) > 1:
        return bool(node.args[1])
    operator = name.startswith("i") and name[1:] in ("add", "sub", "mul", "truediv", "pow")
    written = name.endswith("_") and not name.endswith("__")
    return operator or written or bool(node.kwargs.get("inplace", False)) or "out" in node.kwargs
