"""Memory that a forward keeps for its backward, and the peak of a step."""

from collections.abc import Callable

import torch
from torch import Tensor

from jumpstart_kernels.bench.peer import Peer


def saved_bytes(peer: Peer, x: Tensor) -> int:
    """Bytes of the storages that the forward of ``x`` saves for its backward, each counted once."""
    storages: dict[int, torch.UntypedStorage] = {}  # kept alive, so that no address is reused

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor.detach()  # keeping an output itself would keep its graph alive

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        peer.forward(x)
    return sum(storage.nbytes() for storage in storages.values())


def peak_bytes(run: Callable[[], object], device: torch.device) -> int | None:
    """Peak bytes that ``run`` allocates on a GPU; None on the CPU, which does not track them."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
