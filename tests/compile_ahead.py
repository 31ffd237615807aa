"""A pytest plugin that compiles the kernels of the Triton tests for an absent GPU into Triton's cache.

    TRITON_CACHE_DIR=/tmp/triton_cache pytest -p compile_ahead -n 2 -k triton-cpu

A GPU machine with the same Triton finds the kernels there and spends none of its time on them. Results are
the reference's. AHEAD_CAPABILITY is the GPU's compute capability, 90 unless set.
"""

import os

os.environ["TRITON_INTERPRET"] = "0"  # before conftest.py asks for the interpreter

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from jumpstart_kernels.ops import reference
from jumpstart_kernels.ops.triton import (
    launch,
    launch_backward,
    launch_forward,
    launch_linked,
    launch_penalty,
)


class Absent:
    """The part of a driver that compiling needs."""

    def get_current_target(self):
        return GPUTarget("cuda", int(os.environ.get("AHEAD_CAPABILITY", 90)), 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_active_torch_device(self):
        return torch.device("cpu")


def compile_only(self, device, *arguments):
    if not self.compiled:
        self.compiled[device] = self.kernel.warmup(*arguments, *self.settled, grid=self.grid, **self.options)


def replace(module, name):
    launching = getattr(module, name)

    def run(*arguments):
        launching(*arguments)
        return getattr(reference, name)(*arguments)

    setattr(module, name, run)


driver.set_active(Absent())
launch.INTERPRETED = True  # or tests of the CPU would be skipped
launch.Launch.__call__ = compile_only
replace(launch_forward, "jumpstart_activation_forward")
replace(launch_backward, "jumpstart_activation_backward")
replace(launch_linked, "linked_activation_forward")
replace(launch_linked, "linked_activation_backward")
replace(launch_penalty, "penalty")
replace(launch_penalty, "penalty_backward")
