"""The Triton backend's machine code, compiled for GPUs that need not be present."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from triton_machine_code import machine_code as compiled
from triton_machine_code import run

# Data types and architectures that kernels are compiled for, which takes a second or two each.
TARGETS = (("float32", 90), ("bfloat16", 90), ("float16", 90), ("bfloat16", 80), ("float32", 100))
# The kernels that all activations pass through, with the most instructions that their loops may take for an
# element of 4 bytes and of 2. An H200's bandwidth allows about 50 and 25 (132 multiprocessors of 128 lanes at
# 1.75 GHz; 8 1/8 and 4 1/8 bytes an element at 4.8 TB/s), and half as many minima, comparisons and shifts.
STREAMING = {
    "jumpstart_activation_forward_rows_kernel.2d": (22, 17),
    "jumpstart_activation_forward_rows_kernel.channels_last": (14, 13),
    "jumpstart_activation_forward_rows_kernel.position_points": (22, 17),
    "jumpstart_activation_forward_planes_kernel.contiguous": (13, 12),
    "jumpstart_activation_backward_kernel.2d": (8, 6),
    "jumpstart_activation_backward_kernel.channels_last": (8, 6),
    "jumpstart_activation_backward_kernel.contiguous": (8, 6),
    "jumpstart_activation_backward_kernel.position_points": (8, 6),
}
OTHERS = (
    "jumpstart_activation_statistics_forward_kernel.2d",
    "jumpstart_activation_statistics_forward_kernel.channels_last",
    "jumpstart_activation_statistics_forward_kernel.contiguous",
    "jumpstart_activation_statistics_forward_kernel.position_points",
    "jumpstart_activation_forward_small_kernel.small",
    "jumpstart_activation_backward_kernel.small",
    "jumpstart_activation_forward_rows_kernel.unaligned",
    "jumpstart_activation_statistics_forward_kernel.unaligned",
    "jumpstart_activation_backward_kernel.unaligned",
)
LARGE = (  # sizes have 64 bits, and so have offsets within a tile
    "jumpstart_activation_forward_rows_kernel.one_long_row",
    "jumpstart_activation_forward_planes_kernel.one_long_plane",
    "jumpstart_activation_statistics_forward_kernel.one_long_row",
    "jumpstart_activation_statistics_forward_kernel.one_long_plane",
    "jumpstart_activation_backward_kernel.one_long_row",
    "jumpstart_activation_backward_kernel.one_long_plane",
)


# Every kernel that a test looks at, with its data type and architecture.
COMPILED = (
    [(kernel, *target) for kernel in STREAMING for target in TARGETS]
    + [(kernel, *target) for kernel in OTHERS for target in TARGETS[:2]]
    + [(kernel, *TARGETS[1]) for kernel in LARGE]
)


@pytest.fixture(scope="module")
def machine_code():
    return compiled([f"{kernel}.{dtype}.{architecture}" for kernel, dtype, architecture in COMPILED])


@pytest.mark.parametrize(("dtype", "architecture"), TARGETS)
@pytest.mark.parametrize("kernel", STREAMING)
def test_loops_move_no_byte_in_vain(machine_code, kernel, dtype, architecture):
    """16 bytes of activations at once in and out and their bits of the mask, with no barrier between."""
    code = machine_code[f"{kernel}.{dtype}.{architecture}"]
    assert code.depth * 16 == code.elements * getattr(torch, dtype).itemsize
    expected = {"LDG 128": code.depth, "STG 128": code.depth}
    expected["LDG 8" if "backward" in kernel else "STG 8"] = code.depth
    if kernel.startswith("jumpstart_activation_forward_rows") and not kernel.endswith("channels_last"):
        expected["STG 32"] = 2 * code.depth  # the extrema of a row, by one thread of each warp
    assert code.accesses == expected
    assert code.barriers == 0


@pytest.mark.parametrize(("dtype", "architecture"), TARGETS)
@pytest.mark.parametrize("kernel", STREAMING)
def test_loops_are_bound_by_memory(machine_code, kernel, dtype, architecture):
    code = machine_code[f"{kernel}.{dtype}.{architecture}"]
    wide, narrow = STREAMING[kernel]
    assert code.instructions <= code.elements * (wide if dtype == "float32" else narrow)
    assert code.bytes_under_way >= 40 * 1024  # where latency times bandwidth is about 16 KiB


@pytest.mark.parametrize(("kernel", "dtype", "architecture"), COMPILED)
def test_no_spills_and_no_local_memory(machine_code, kernel, dtype, architecture):
    code = machine_code[f"{kernel}.{dtype}.{architecture}"]
    assert (code.stack, code.local) == (0, 0)


@pytest.mark.parametrize("kernel", STREAMING)
def test_offsets_of_activations_have_64_bits(machine_code, kernel):
    """Those of tiles; within a tile 32 bits do, or plan.py says otherwise."""
    code = machine_code[f"{kernel}.bfloat16.90"]
    assert code.pointer_offsets
    assert set(code.pointer_offsets) == {"i64"}


def test_later_launches_give_the_kernel_what_the_first_gave():
    """The first launch of a kind goes through Triton's dispatch, later ones directly to the kernel."""
    first, second = run("launch", [[[16, 8], None, True]] * 2)
    assert len(first["launches"]) == 2  # the forward and the backward of a small matrix
    assert first["launches"] == second["launches"]
    assert (first["compiled"], second["compiled"]) == (2, 0)
