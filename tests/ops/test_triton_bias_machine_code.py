"""As test_triton_machine_code.py, for the kernels that add a bias and sum its gradient."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from triton_machine_code import machine_code as compiled
from triton_machine_code import run

TARGETS = (("float32", 90), ("bfloat16", 90))
# The most instructions for an element of 4 bytes and of 2, as in test_triton_machine_code.py: there about one
# fewer in the forward; in the backward two to three, and seven where a tile's rows are summed.
STREAMING = {
    "jumpstart_activation_forward_rows_kernel.2d": (22, 17),
    "jumpstart_activation_forward_rows_kernel.channels_last": (15, 13),
    "jumpstart_activation_forward_rows_kernel.position_points": (22, 17),
    "jumpstart_activation_forward_planes_kernel.contiguous": (14, 12),
    "jumpstart_activation_backward_kernel.2d": (9, 8),
    "jumpstart_activation_backward_kernel.channels_last": (9, 8),
    "jumpstart_activation_backward_kernel.contiguous": (14, 11),
    "jumpstart_activation_backward_kernel.position_points": (14, 11),
}
OTHERS = (
    "jumpstart_activation_statistics_forward_kernel.2d",
    "jumpstart_activation_statistics_forward_kernel.channels_last",
    "jumpstart_activation_statistics_forward_kernel.contiguous",
    "jumpstart_activation_statistics_forward_kernel.position_points",
    "jumpstart_activation_backward_bias_kernel.2d",
    "jumpstart_activation_backward_bias_kernel.contiguous",
    "jumpstart_activation_forward_small_kernel.small",
    "jumpstart_activation_backward_kernel.small",
    "jumpstart_activation_forward_rows_kernel.unaligned",
    "jumpstart_activation_statistics_forward_kernel.unaligned",
    "jumpstart_activation_backward_kernel.unaligned",
)
COMPILED = [(kernel, *target) for kernel in (*STREAMING, *OTHERS) for target in TARGETS]


@pytest.fixture(scope="module")
def machine_code():
    wanted = [f"{kernel}.{dtype}.{architecture}" for kernel, dtype, architecture in COMPILED]
    return compiled(wanted, with_bias=True)


@pytest.mark.parametrize(("dtype", "architecture"), TARGETS)
@pytest.mark.parametrize("kernel", STREAMING)
def test_loops_move_no_byte_in_vain(machine_code, kernel, dtype, architecture):
    """As without a bias, which is loaded before the loop; but for that of rows, and for sums of rows."""
    code = machine_code[f"{kernel}.{dtype}.{architecture}"]
    name, layout = kernel.split(".")
    itemsize = getattr(torch, dtype).itemsize
    assert code.depth * 16 == code.elements * itemsize
    expected = {"LDG 128": code.depth, "STG 128": code.depth}
    expected["LDG 8" if "backward" in name else "STG 8"] = code.depth
    if name == "jumpstart_activation_forward_rows_kernel" and layout != "channels_last":
        expected["STG 32"] = 2 * code.depth  # the extrema of a row, by one thread of each warp
        if layout == "position_points":
            expected[f"LDG {8 * itemsize}"] = code.depth  # the same for all threads of a row
    if "backward" in name and layout in ("contiguous", "position_points"):
        expected["STG 32"] = code.depth  # the sum of a row
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


def test_compiled_anew_for_the_presence_and_alignment_of_a_bias_only():
    small, large = [16, 8], [2000, 40]
    calls = [
        *([size, value, aligned] for size in (small, large) for value, aligned in
          ((None, True), (1.0, True), (2.0, True), (1.0, False), (2.0, False))),
        [[24, 8], 1.0, True],
    ]  # fmt: skip
    found = run("launch", calls)
    launched = [len(call["launches"]) for call in found]
    assert launched == [2] * 5 + [3] + [4] * 4 + [2]  # the backward of a small matrix sums it itself
    compiled_anew = [call["compiled"] for call in found]
    assert compiled_anew[:5] == [2, 2, 0, 1, 0]
    assert compiled_anew[5:10] == [3, 4, 0, 2, 0]
