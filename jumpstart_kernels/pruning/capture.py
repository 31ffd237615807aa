"""What tensors hold while a traced model runs: rows of units, and sums of their products."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx, nn

from jumpstart_kernels.surgery.flow.units import Value


class _Done(Exception):
    """All that is wanted has been seen."""


class _Observer(fx.Interpreter):
    """Shows the first operand of some nodes before each of them runs, as it may run in place."""

    def __init__(self, model: nn.Module, graph: fx.Graph, wanted: Mapping[str, Callable[[Any], None]]):
        super().__init__(model, garbage_collect_values=True, graph=graph)
        self._wanted = dict(wanted)

    def run_node(self, n: fx.Node) -> Any:
        show = self._wanted.pop(n.name, None)
        if show is not None:
            show(self.env[n.all_input_nodes[0]])
            if not self._wanted:
                raise _Done
        return super().run_node(n)


def observe(
    model: nn.Module, graph: fx.Graph, x: Tensor, wanted: Mapping[str, Callable[[Any], None]]
) -> None:
    """Run a model on a batch as its trace says, until the nodes that are wanted have been shown.

    Args:
        model: whose trace it is, or a copy of it with other widths.
        graph: the trace.
        x: the input.
        wanted: for names of nodes, what to do with the first operand of each.
    """
    if wanted:
        with suppress(_Done):
            _Observer(model, graph, wanted).run(x.clone())  # which it may overwrite


def rows_of(x: Tensor, value: Value, channels: int, limit: int | None = None) -> Tensor:
    """The channels of a tensor, a row for each sample, or for each of its positions.

    Args:
        x: ``[N, *]`` with channels where ``value`` says.
        value: of the tensor.
        channels: their number now, as ``value`` knows of the number in the given model.
        limit: of positions of a sample: more of them are drawn, the same ones for equal shapes.

    Returns:
        ``[N · positions, channels]``.
    """
    x = x.movedim(value.dim, -1)
    if value.scaled:
        x = x.unflatten(-1, (channels, -1)).transpose(-1, -2)
    x = x.flatten(1, -2) if x.dim() > 2 else x.unsqueeze(1)  # [N, positions, channels]
    if limit is not None and x.shape[1] > limit:
        drawn = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(0))[:limit]
        x = x[:, drawn.sort().values.to(x.device)]
    return x.flatten(0, 1)


class Products:
    """Sums over rows of the products that least squares need, in float64.

    ``a`` are channels as they are now, with a constant 1 behind them, ``target`` those of the given model.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.own: Tensor | None = None  # aᵀ a, [C + 1, C + 1]
        self.with_target: Tensor | None = None  # aᵀ target, [C + 1, T]

    def add(self, a: Tensor, target: Tensor, weights: Tensor) -> None:
        """Take over rows: ``[rows, C]`` and ``[rows, T]``, with weights ``[N]``, one for a sample's rows."""
        one = torch.cat([a.double(), a.new_ones(len(a), 1, dtype=torch.float64)], 1)
        weighted = one * weights.double().repeat_interleave(len(a) // len(weights))[:, None]
        own = weighted.T @ one
        with_target = own[:, :-1] if target is a else weighted.T @ target.double()
        self.rows += len(a)
        self.own = own if self.own is None else self.own + own
        self.with_target = with_target if self.with_target is None else self.with_target + with_target


def inputs_of(loader: Iterable[Any], argument: str, like: nn.Module) -> list[Tensor]:
    """The inputs that a loader yields, on the device of a model's first parameter and in its dtype.

    Args:
        loader: yields ``[N, *]``: tensors or arrays, or tuples whose first item is one.
        argument: its name in errors.
        like: the model.

    Raises:
        TypeError: it is no iterable, or a tensor or array itself, or yields something else.
        ValueError: it yields nothing, or batches without samples alone.
    """
    tensors = [*like.parameters(), *like.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    dtype = next((each.dtype for each in tensors if each.is_floating_point()), torch.get_default_dtype())
    if not isinstance(loader, Iterable) or isinstance(loader, (str, Mapping)):
        raise TypeError(f"{argument} must be an iterable of batches, got {type(loader).__name__}")
    if isinstance(loader, Tensor) or hasattr(loader, "__array__"):
        raise TypeError(
            f"{argument} must be an iterable of batches, got {type(loader).__name__}: "
            f"pass [x], or x.split(256)"
        )
    inputs = []
    for batch in loader:
        x = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
        if not isinstance(x, Tensor):
            try:
                x = torch.as_tensor(x)
            except (TypeError, ValueError, RuntimeError):
                raise TypeError(
                    f"{argument} must yield tensors, arrays, or tuples whose first item is one, got "
                    f"{type(x).__name__}"
                ) from None
        if x.dim() == 0:
            raise ValueError(f"{argument} must yield batches [N, ...], got a tensor without dimensions")
        if len(x):
            inputs.append(x.to(device, dtype if x.is_floating_point() else None))
    if not inputs:
        raise ValueError(f"{argument} must yield at least one sample, got none")
    return inputs
