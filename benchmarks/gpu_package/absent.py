"""Triton for a GPU that is not there: kernels are compiled into Triton's cache, and not launched.

What Triton looks for is the same whether a tensor is on a CPU or on a GPU: types, which pointers and integers
16 divides, which integers are 1. Neither the machine nor a path is in its keys, but paths are in the files:
those of a cache that moves must be rewritten.
"""

import functools
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"  # before any kernel is decorated

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from jumpstart_kernels.ops.triton import launch


class Absent:
    """The part of a driver that compiling needs."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", int(os.environ.get("AHEAD_CAPABILITY", 90)), 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def compile_only(self: launch.Launch, device: int, *arguments: Any) -> None:
    """In place of a launch."""
    if self.compiled:
        return
    compiled = self.kernel.warmup(*arguments, *self.settled, grid=self.grid, **self.options)
    self.compiled[device] = compiled
    for path in Path(next(iter(compiled.metadata_group.values()))).parent.iterdir():
        os.utime(path)  # found or compiled, it is of the sources of now
    if os.environ.get("TRITON_LIBCUDA_PATH"):
        compile_launcher(compiled)


_launchers: set[Any] = set()


def compile_launcher(compiled: Any) -> None:
    """The C that passes a kernel's arguments on, another for other types. It needs something to link with."""
    types = tuple(compiled.src.signature.values())
    if types in _launchers:
        return
    _launchers.add(types)
    from triton.backends.nvidia.driver import CudaLauncher

    compile_driver()
    with suppress(ImportError):  # it is in the cache by then, and cannot be loaded without a driver
        CudaLauncher(compiled.src, compiled.metadata)


@functools.cache
def compile_driver() -> None:
    """The C by which Triton loads kernels."""
    from triton.backends.nvidia.driver import CudaUtils

    with suppress(ImportError):
        CudaUtils()


def install() -> None:
    driver.set_active(Absent())
    launch.INTERPRETED = True  # or the backend would decline tensors of a CPU
    launch.Launch.__call__ = compile_only  # type: ignore[method-assign]
