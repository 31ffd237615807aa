"""A pytest plugin that compiles the kernels of the Triton tests for an absent GPU into Triton's cache.

    TRITON_CACHE_DIR=/tmp/triton_cache pytest -p compile_ahead -n 2 -k triton-cpu

A GPU machine with the same Triton finds the kernels there and spends none of its time on them; make
gpu-package runs it. Results are the reference's. AHEAD_CAPABILITY is the GPU's compute capability, 90 unless
set.
"""

from benchmarks.gpu_package import absent  # first: it turns the interpreter off, for which conftest.py asks
from jumpstart_kernels.ops import reference
from jumpstart_kernels.ops.triton import launch_backward, launch_forward, launch_linked, launch_penalty


def replace(module, name):
    launching = getattr(module, name)

    def run(*arguments):
        launching(*arguments)
        return getattr(reference, name)(*arguments)

    setattr(module, name, run)


absent.install()
replace(launch_forward, "jumpstart_activation_forward")
replace(launch_backward, "jumpstart_activation_backward")
replace(launch_linked, "linked_activation_forward")
replace(launch_linked, "linked_activation_backward")
replace(launch_penalty, "penalty")
replace(launch_penalty, "penalty_backward")
