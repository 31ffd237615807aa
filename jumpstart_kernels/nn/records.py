"""What a layer's forwards record for the penalty, and how recomputed forwards are kept out."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from jumpstart_kernels.ops.arguments import Record

UNCLAIMED_WARNING = 1000

_current_graph_task_id = torch._C._current_graph_task_id  # of the backward that runs; or −1


# Newest first. With a list torch.compile would recompile for every number of open records.
Records = tuple[Record, Any] | None


class Recorder(Protocol):
    """A layer that records."""

    _records: Records
    _unclaimed: int
    _unreachable: bool
    _transformed: bool


def add(layer: Recorder, record: Record) -> None:
    """Keep a forward's record, unless it is recomputed in backward."""
    if torch.compiler.is_dynamo_compiling():
        note_compilation()
        layer._records = (record, layer._records)
        return
    if _current_graph_task_id() != -1:
        return
    state = layer.__dict__  # a module's attributes are slow to set
    state["_records"] = (record, state["_records"])
    state["_unclaimed"] = unclaimed = state["_unclaimed"] + 1
    if unclaimed == UNCLAIMED_WARNING:
        warnings.warn(
            f"a {type(layer).__name__} has recorded {UNCLAIMED_WARNING} forwards that no penalty(model) "
            "consumed, and keeps their memory. Add the penalty to the loss, call clear_records(model), or "
            "run forwards that are not for training in eval() or torch.no_grad()",
            stacklevel=4,
        )


def unwind(records: Records) -> Iterator[Record]:
    """The records, newest first."""
    while records is not None:
        record, records = records
        yield record


def clear(layers: Sequence[Recorder]) -> None:
    """Drop the records of layers."""
    if torch.compiler.is_dynamo_compiling():
        for layer in layers:
            layer._records = None
            layer._unclaimed = 0
            if layer._unreachable or layer._transformed:
                layer._unreachable = layer._transformed = False
        return
    for layer in layers:
        state = layer.__dict__  # a module's attributes are slow to set
        state["_records"] = None
        state["_unclaimed"] = 0
        state["_unreachable"] = state["_transformed"] = False


def take(layers: Sequence[Recorder]) -> tuple[list[Record], list[int]]:
    """The records of layers, which they then no longer have, each layer's oldest first; and their numbers."""
    taken: list[Record] = []
    counts = []
    for layer in layers:
        newest = layer._records
        if newest is not None and newest[1] is None and not layer._transformed:
            taken.append(newest[0])
            counts.append(1)
            continue
        of_layer = list(unwind(newest))[::-1]
        if layer._transformed:
            of_layer = [record for record in of_layer if not is_left_behind(record)]
        taken += of_layer
        counts.append(len(of_layer))
    clear(layers)  # also if an error follows: they must not stay behind
    return taken, counts


_compiled = False  # whether the compiler has traced a layer


def note_compilation() -> None:
    global _compiled
    _compiled = True


# What torch.compiler.assume_constant_result does, without importing the compiler: called once, in tracing.
note_compilation._dynamo_marked_constant = True  # type: ignore[attr-defined]


def recomputing() -> bool:
    """Whether this forward is recomputed in backward by activation checkpointing: it is recorded already."""
    return not torch.compiler.is_dynamo_compiling() and _current_graph_task_id() != -1


def is_unreachable() -> bool:
    """Whether a forward without grad runs inside an autograd function, such as a reentrant checkpoint.

    Such a function disables forward gradients too, which ``torch.no_grad`` does not.
    """
    if torch.compiler.is_dynamo_compiling():
        note_compilation()
        return False
    if torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        return False
    return not torch._C._is_fwd_grad_enabled()


def note_transform(layer: Recorder) -> None:
    """Before a forward inside ``torch.func``: drop records left by transforms that have ended."""
    layer._transformed = True
    while layer._records is not None and is_left_behind(layer._records[0]):
        layer._records = layer._records[1]


def is_left_behind(record: Record) -> bool:
    """Whether a record belongs to a ``torch.func`` transform that has ended, so that its tensors are dead."""
    if torch.compiler.is_dynamo_compiling():
        return False
    functorch: Any = torch._C._functorch
    tensor = record.slack_sums
    if not functorch.is_functorch_wrapped_tensor(tensor):
        return False
    if functorch.is_gradtrackingtensor(tensor) and functorch.is_dead_tensor_wrapper(tensor):
        return True
    return functorch.maybe_get_level(tensor) > (functorch.maybe_current_level() or 0)


def forget_recomputed(
    value: Tensor,
    layers: Sequence[Recorder],
    taken: Sequence[int],
    model: Any,
    name_of: Callable[[Any, Any], str],
) -> None:
    """Have the backward of a penalty drop what compiled layers record in it.

    A compiled layer cannot see that its forward is recomputed, so whatever it records during backward is
    dropped at the end; if that is more than the penalty had consumed, the first forward was hidden from it.

    Args:
        value: the penalty.
        layers: all layers of the model.
        taken: how many records of each the penalty consumed.
        model: the model.
        name_of: the name of a layer in it.
    """
    if torch.compiler.is_dynamo_compiling() or not _compiled or not value.requires_grad:
        return
    if torch._C._are_functorch_transforms_active():  # no hooks, and no checkpoints either
        return

    def begin(_: Tensor) -> None:
        before = [layer._records for layer in layers]

        def end() -> None:
            hidden = []
            for layer, records, count in zip(layers, before, taken, strict=True):
                recomputed = 0
                while layer._records is not None and layer._records is not records:
                    layer._records = layer._records[1]
                    recomputed += 1
                if recomputed > count:
                    hidden.append(name_of(model, layer))
            if hidden:
                raise RuntimeError(unreachable(hidden))

        torch.autograd.Variable._execution_engine.queue_callback(end)

    value.register_hook(begin)


def unreachable(names: Sequence[str]) -> str:
    """The error for layers whose penalty is unreachable, and what to do about it."""
    shown = ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return (
        f"the penalty cannot reach the layers {shown}: they ran inside a reentrant checkpoint (or another "
        "torch.autograd.Function), whose first forward has no gradient. Use "
        "torch.utils.checkpoint.checkpoint(..., use_reentrant=False), or have these layers inject their "
        "penalty in backward: jumpstart_kernels.inject_penalty. If the forward was not for training, run it "
        "in eval(), or call clear_records(model) after it"
    )
