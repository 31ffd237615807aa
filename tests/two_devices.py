"""Two GPUs: steps on the second, and where they allocate and launch. Values are not looked at."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

import jumpstart_kernels as jk
from benchmarks.host_time.runtime import Runtime

FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)
# One kernel, a cluster of blocks, which must be allowed on each device, planes, several kernels.
SIZES = {"small": (64, 32), "cluster": (256, 1024), "planes": (8, 16, 14, 14), "large": (4096, 1000)}


def use_of(device: torch.device) -> tuple[int, int]:
    """What has been allocated on a device and, which only the stand-in counts, launched."""
    allocations = torch.cuda.memory_stats(device).get("allocation.all.allocated", 0)
    return allocations, Runtime().launches(device.index) if Runtime.is_loaded() else 0


@contextmanager
def alone(device: torch.device) -> Iterator[None]:
    """Fails if the other device is used, or the current one is another afterwards."""
    (other,) = {FIRST, SECOND} - {device}
    current, before = torch.cuda.current_device(), (use_of(device), use_of(other))
    yield
    torch.cuda.synchronize(device)  # or a failure of its kernels would be another test's
    assert torch.cuda.current_device() == current
    assert use_of(other) == before[1]
    allocations, launches = use_of(device)
    assert allocations > before[0][0]
    assert launches > before[0][1] or not Runtime.is_loaded()


def make_input(size: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(size, device=device, dtype=dtype, requires_grad=True)


def step(layers: nn.Module, x: Tensor, **options) -> list[Tensor]:
    """All that comes out of a step, and what its backward is kept."""
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each) or each, lambda each: each):
        output = layers(x * 1)
        value = jk.penalty(layers, **options)
    (output.sum() + value).backward()
    gradients = [each.grad for each in (x, *layers.parameters())]
    assert kept and all(gradient is not None for gradient in gradients)
    return [output, value, *gradients, *kept]


def make_layers(**options) -> nn.Sequential:
    return nn.Sequential(*(jk.JumpstartReLU(**options) for _ in range(2)))


def check_devices(tensors: list[Tensor], device: torch.device) -> None:
    """Without a message that prints tensors: the stand-in does not know how many values to print."""
    assert {each.device for each in tensors} == {device}
