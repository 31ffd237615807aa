"""One network in many processes: DDP or FSDP2, mixed precision, activation checkpointing, compilation."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from benchmarks.imagenet.processes import Processes
from benchmarks.models import Bottleneck

MODES = ("ddp", "fsdp")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def parallelize(
    network: nn.Module, mode: str, processes: Processes, precision: str, checkpointing: bool, compiled: bool
) -> nn.Module:
    """What is to be called in place of the network, whose parameters it trains.

    Args:
        network: on its device. Its blocks' ``forward`` changes; names of parameters do not.
        mode: ``"ddp"``: whole copies, gradients averaged; ``"fsdp"``: parameters, gradients and optimizer in
            shards, and each block's parameters gathered when it runs.
        processes: that train together.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``; for DDP it is :func:`autocast` that applies it.
        checkpointing: keep only the input of each block for the backward, and run it again there.
        compiled: compile each block.
    """
    blocks = [module for module in network.modules() if isinstance(module, Bottleneck)]
    if compiled:  # one code object, compiled for every block of another shape
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 2 * len(blocks))
    for block in blocks:  # compiled inside, checkpointed around it, gathered around both
        if compiled:
            block.forward = torch.compile(block.forward, dynamic=False)  # type: ignore[method-assign]
        if checkpointing:
            run = partial(checkpoint, block.forward, use_reentrant=False)
            block.forward = run  # type: ignore[method-assign]
    if mode == "ddp":
        ids = [processes.device.index] if processes.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=ids, gradient_as_bucket_view=True)
    half = None if precision == "fp32" else PRECISIONS[precision]
    for block in blocks:
        policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)
        fully_shard(block, mesh=processes.mesh, mp_policy=policy)
    policy = MixedPrecisionPolicy(half, reduce_dtype=torch.float32, output_dtype=torch.float32)
    fully_shard(network, mesh=processes.mesh, mp_policy=policy)
    return network


def autocast(mode: str, device: torch.device, precision: str) -> AbstractContextManager:
    """The precision of a forward under DDP. FSDP casts its parameters itself."""
    if mode == "fsdp" or precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, PRECISIONS[precision])


@contextmanager
def synchronizing(model: nn.Module, synchronize: bool) -> Iterator[None]:
    """Inside, a backward exchanges gradients between the processes, or only adds to this one's."""
    if isinstance(model, DistributedDataParallel):
        with nullcontext() if synchronize else model.no_sync():
            yield
    else:
        assert isinstance(model, FSDPModule)
        model.set_requires_gradient_sync(synchronize)
        yield


def settle(model: nn.Module, batch: torch.Tensor, context: AbstractContextManager) -> None:
    """Have DDP arrange its buckets, as it does after its first backward, with the batch of a step to come.

    Otherwise gradients of three or more processes are added up in another order in the first step after a
    restart than in the same step without one. It leaves no trace in parameters and gradients.
    """
    model.train()
    with context:
        output = model(batch)
    output.float().sum().backward()
    model.zero_grad()
