"""The statistics of the global batch, with one collective for all layers (two in float64).

Each extremum is sent as an int64 that orders like it: the value in the upper half, the rank in the lower, so
that one maximum over the ranks yields the extremum and its owner, the lowest rank among equals. What has to
be summed, the slack of the points, goes in the same tensor: each rank writes it into a slot of its own, where
the others hold the smallest integer.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jumpstart_kernels.ops.arguments import Record
from jumpstart_kernels.ops.slack import extremum_gradients, slacks, sum_slacks

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_NOTHING = torch.iinfo(torch.int64).min  # below every key


def check_process_group(process_group: Any) -> "ProcessGroup":
    """The process group of a process group or one-dimensional mesh; raises for anything else."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        raise RuntimeError("process_group needs torch.distributed.init_process_group() first")
    from torch.distributed import DeviceMesh, GroupMember, ProcessGroup

    if isinstance(process_group, DeviceMesh):
        if process_group.ndim != 1:
            raise ValueError(
                f"process_group must be a one-dimensional mesh, got {process_group.ndim} dimensions: pass "
                "mesh['name of the data-parallel dimension'], or flatten several"
            )
        return process_group.get_group()
    if process_group is GroupMember.NON_GROUP_MEMBER:
        raise ValueError("process_group must be a group that this process belongs to")
    if not isinstance(process_group, ProcessGroup):
        raise TypeError(
            "process_group must be a torch.distributed.ProcessGroup (torch.distributed.group.WORLD) or a "
            f"one-dimensional DeviceMesh, got {type(process_group).__name__}"
        )
    return process_group


def across_ranks(
    taken: Sequence[Record], extrema: list[Tensor], slack_sums: list[Tensor], group: "ProcessGroup"
) -> tuple[Tensor, Tensor, int]:
    """Slack sums of the global batch, with the gradient of this rank's part.

    Args:
        taken: the records, the same on each rank but for their points.
        extrema: of each record, ``[2, C + P]``, of one dtype and device.
        slack_sums: of each record, ``[2, 5]``, likewise.
        group: the ranks.

    Returns:
        ``[2, 5]`` slack sums of all units and points; ``[2]`` their counts; the number of ranks.
    """
    rank, ranks = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)
    local = torch.cat([_unit_extrema(part, record) for part, record in zip(extrema, taken, strict=True)], 1)
    ordered = _to_ordered(local.detach())  # [2, units of all records]
    keys = ordered if local.dtype == torch.float64 else (ordered << 32) | (ranks - 1 - rank)
    if any(record.points == 0 for record in taken):
        keys = torch.where(torch.cat([_seen(record, keys) for record in taken]), keys, _NOTHING)
    points = torch.stack([sums[1] for sums in slack_sums]).sum(0)  # [5]

    header = (_signature(taken), sum(record.points for record in taken))
    slot = torch.cat([*(keys.new_full((1,), number) for number in header), _to_bits(points)])
    slots = keys.new_full((ranks, len(slot)), _NOTHING)
    slots[rank] = slot
    united = torch.cat([slots.flatten(), keys.flatten()])
    torch.distributed.all_reduce(united, torch.distributed.ReduceOp.MAX, group=group)
    slots, united = united[: slots.numel()].view_as(slots), united[slots.numel() :].view_as(keys)

    torch._assert_async(
        (slots[:, 0] == slots[rank, 0]).all(),
        "penalty: the ranks of process_group must have recorded the same forwards of the same layers",
    )
    counted = (united != _NOTHING)[0]  # [units of all records]
    mine = (united == keys) & counted
    if local.dtype == torch.float64:  # its keys have no room for the rank
        owner = torch.where(mine, ranks - rank, 0)
        torch.distributed.all_reduce(owner, torch.distributed.ReduceOp.MAX, group=group)
        mine = mine & (owner == ranks - rank)
    else:
        united = united >> 32
    values = torch.where(mine, local, _from_ordered(united, local.dtype))
    values = torch.where(counted, values, torch.inf)  # no slack where there was nothing
    of_units = _SumSlacks.apply(torch.stack([values[0], -values[1]]), _margins(taken, local))

    # All points of all ranks, added in the order of the ranks.
    by_rank = enumerate(slots[:, 2:].contiguous().view(torch.float64).to(points.dtype).unbind())
    of_points = torch.stack([points if i == rank else sums for i, sums in by_rank]).sum(0)
    counts = torch.stack([counted.sum(), slots[:, 1].sum()]).to(points.dtype)
    return torch.stack([of_units, of_points]), counts, ranks


class _SumSlacks(torch.autograd.Function):
    """``[2, K]`` extrema to their ``[5]`` slack sums, with the operator's rules for infinities."""

    @staticmethod
    def forward(ctx, extrema: Tensor, margin: float | Tensor) -> Tensor:
        ctx.save_for_backward(extrema)
        ctx.margin = margin
        return sum_slacks(slacks(extrema, margin), extrema.shape[1])[0]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (extrema,) = ctx.saved_tensors
        return extremum_gradients(extrema, grad[:, None], ctx.margin), None


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value: Tensor, scale: int) -> Tensor:
        ctx.scale = scale
        return value.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.scale, None


def scale_gradient(value: Tensor, scale: int) -> Tensor:
    """``value``, with ``scale`` times its gradient."""
    return _ScaleGradient.apply(value, scale)


def _unit_extrema(extrema: Tensor, record: Record) -> Tensor:
    """``[2, C]`` maxima and negated minima of the units."""
    maxima, minima = extrema[:, : record.units].unbind(0)
    return torch.stack([maxima, -minima])


def _seen(record: Record, like: Tensor) -> Tensor:
    """``[C]``: whether the units saw any element."""
    return torch.full((record.units,), record.points > 0, device=like.device)


def _margins(taken: Sequence[Record], like: Tensor) -> float | Tensor:
    """The margin, or ``[units of all records]`` where they differ."""
    if all(record.margin == taken[0].margin for record in taken):
        return taken[0].margin
    return torch.cat([like.new_full((record.units,), record.margin) for record in taken])


def _signature(taken: Sequence[Record]) -> int:
    """A number that differs if the units of the records differ."""
    signature = 0
    for record in taken:
        signature = (signature * 1000003 + record.units) % (2**31 - 1)
    return signature


def _to_bits(sums: Tensor) -> Tensor:
    """Floats bit-cast to int64, to send."""
    return sums.detach().double().view(torch.int64)


def _to_ordered(values: Tensor) -> Tensor:
    """Floats to int64 that order like them, with NaN above all and −0.0 equal to 0.0."""
    integer = torch.int64 if values.dtype == torch.float64 else torch.int32
    values = torch.where(values.isnan(), torch.nan, torch.where(values == 0, 0.0, values))  # one pattern each
    bits = values.view(integer)
    return torch.where(bits < 0, bits ^ torch.iinfo(integer).max, bits).to(torch.int64)


def _from_ordered(ordered: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of :func:`_to_ordered`."""
    integer = torch.int64 if dtype == torch.float64 else torch.int32
    bits = ordered.to(integer)
    return torch.where(bits < 0, bits ^ torch.iinfo(integer).max, bits).view(dtype)
