"""Calls of a model, traced, with the shapes of all tensors where example inputs are given."""

import contextlib
import inspect
import io
import itertools
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.shape_prop import ShapeProp

from jumpstart_kernels.surgery.code import is_of_torch
from jumpstart_kernels.surgery.flow.trace import canonical, trace_whole
from jumpstart_kernels.surgery.tracing import Pattern, Untraceable, call_pattern, default_pattern

_WRAPPERS = ("OptimizedModule", "DataParallel", "DistributedDataParallel", "FullyShardedDataParallel")


def check_wrappers(model: nn.Module) -> None:
    """Raise for what holds on to the parameters of a model, or to what it has made of it."""
    for name, module in model.named_modules():
        where = f"the module {name!r}" if name else "the model"
        if type(module).__name__ in _WRAPPERS and is_of_torch(type(module)):
            raise ValueError(
                f"{where} is a {type(module).__name__}: pass the model in it, before it is wrapped"
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"{where} is a ScriptModule: pass the model that was scripted or traced")


def trace_calls(model: nn.Module, example_inputs: Any) -> list[fx.Graph]:
    """The traces of a model for training and evaluation, and for all calls that its forward distinguishes.

    Raises:
        Untraceable: one of them cannot be traced.
        ValueError: ``example_inputs`` do not run.
    """
    if isinstance(example_inputs, (tuple, list)):
        example: tuple[Any, ...] | None = tuple(example_inputs)
    else:
        example = None if example_inputs is None else (example_inputs,)
    pattern = default_pattern(model) if example is None else call_pattern(example, {})
    first = canonical(model, pattern)
    graphs = []
    for each in dict.fromkeys([first, *_other_calls(model)]):
        for training in (True, False):
            try:
                graph = trace_whole(model, training, each)
            except Untraceable as error:
                if each == first or "NoneType" not in str(error.__cause__):
                    raise
                continue  # a call without the argument fails as well
            if example is not None and each == first:
                _find_shapes(model, graph, example)
            graphs.append(graph)
    return graphs


def _other_calls(model: nn.Module) -> list[Pattern]:
    """All calls with and without the arguments that may be None, and with both values of flags."""
    args, kwargs = default_pattern(model)
    choices: list[list[tuple[tuple[str, Any], ...]]] = []
    for name, parameter in inspect.signature(type(model).forward).parameters.items():
        if parameter.default is None or isinstance(parameter.default, bool):
            other = ... if parameter.default is None else not parameter.default
            choices.append([(), ((name, other),)])
    if len(choices) > 4:
        raise Untraceable("its forward takes many optional arguments")
    named = itertools.product(*choices)
    return [canonical(model, (args, (*kwargs, *itertools.chain(*each)))) for each in named]


def _find_shapes(model: nn.Module, graph: fx.Graph, example: tuple[Any, ...]) -> None:
    """Note the shapes of all tensors in a trace, computed without the values."""
    tensors = [value for value in example if not (value is None or isinstance(value, (bool, str)))]
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fakes = [mode.from_tensor(each) if isinstance(each, torch.Tensor) else each for each in tensors]
    try:
        # ShapeProp prints the traceback of an error that it raises.
        with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
            ShapeProp(fx.GraphModule(model, graph), fake_mode=mode).propagate(*fakes)
    except Exception as error:
        cause = error.__cause__ or error  # of ShapeProp's, which names a node
        raise ValueError(f"example_inputs do not run: {type(cause).__name__}: {cause}") from cause
    for node in graph.nodes:
        shape = getattr(node.meta.get("tensor_meta"), "shape", None)
        if shape is not None:
            node.meta["shape"] = tuple(shape)
