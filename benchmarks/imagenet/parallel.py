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
    """The module to call instead of the network; it trains the network's parameters.

    Args:
        network: on its device. Its blocks' ``forward`` is replaced; names of parameters do not change.
        mode: ``"ddp"``: full replicas, gradients averaged; ``"fsdp"``: sharded parameters, gradients and
            optimizer state, with each block's parameters gathered when it runs.
        processes: the processes that train together.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``; with DDP, :func:`autocast` applies it.
        checkpointing: whether to keep only the input of each block, and recompute it in the backward.
        compiled: whether to compile each block.
    """
    blocks = [module for module in network.modules() if isinstance(module, Bottleneck)]
    if compiled:  # one code object, compiled for every shape of block
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 2 * len(blocks))
    for block in blocks:  # from inside out: compile, checkpoint, gather
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
    """The precision of a forward with DDP. FSDP casts its parameters itself."""
    if mode == "fsdp" or precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, PRECISIONS[precision])


@contextmanager
def synchronizing(model: nn.Module, synchronize: bool) -> Iterator[None]:
    """Whether a backward inside exchanges gradients between processes, or only accumulates this one's."""
    if isinstance(model, DistributedDataParallel):
        with nullcontext() if synchronize else model.no_sync():
            yield
    else:
        assert isinstance(model, FSDPModule)
        model.set_requires_gradient_sync(synchronize)
        yield


def settle(model: nn.Module, batch: torch.Tensor, context: AbstractContextManager) -> None:
    """Have DDP rebuild its buckets, as it does after its first backward.

    Otherwise three or more processes would add gradients in another order in the first step after a restart
    than in the same step without one. Parameters and gradients are unchanged.
    """
    model.train()
    with context:
        output = model(batch)
    output.float().sum().backward()
    model.zero_grad()
