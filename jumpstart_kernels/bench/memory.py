"""What a forward keeps for its backward, and what a step needs at its peak."""

import torch
from torch import Tensor

from jumpstart_kernels.bench.peers import Peer


def saved_bytes(peer: Peer, x: Tensor) -> int:
    """Bytes of the storages that the forward of ``x`` saves for its backward, each counted once."""
    storages: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with peer.active(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        peer.forward(x)
    return sum(storage.nbytes() for storage in storages.values())


def peak_bytes(peer: Peer, x: Tensor, grad: Tensor) -> int | None:
    """Bytes that forward and backward allocate at their peak on a GPU; None on the CPU: nobody counts there."""
    if x.device.type != "cuda":
        return None
    x.grad = None
    torch.cuda.synchronize(x.device)
    before = torch.cuda.memory_allocated(x.device)
    torch.cuda.reset_peak_memory_stats(x.device)
    with peer.active():
        peer.backward(x, peer.forward(x), grad)
    torch.cuda.synchronize(x.device)
    peak = torch.cuda.max_memory_allocated(x.device)
    x.grad = None
    return peak - before
