"""As test_triton_machine_code.py, for the kernels of linked activations."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from triton_machine_code import linked_machine_code as compiled

FORWARD, BACKWARD = "linked_activation_forward_kernel", "linked_activation_backward_kernel"
ROWS, PLANES = "jumpstart_activation_forward_rows_kernel", "jumpstart_activation_forward_planes_kernel"
# Instructions for an element of 4 bytes and of 2, at most: see test_triton_machine_code.py. A forward moves
# 12 and 6 bytes an element, for which an H200's bandwidth allows about 74 and 37; a backward as many of
# linked_relu, 16 and 8 of the others.
STREAMING = {
    f"{FORWARD}.2d.linked_relu.none": (21, 17),
    f"{FORWARD}.2d.linked_prelu.none": (12, 11),
    f"{FORWARD}.2d.linked_silu.none": (42, 28),
    f"{FORWARD}.contiguous.linked_relu.none": (21, 17),
    f"{FORWARD}.contiguous.linked_prelu.none": (14, 13),
    f"{FORWARD}.contiguous.linked_selu.none": (34, 26),
    f"{BACKWARD}.2d.linked_relu.none": (18, 14),
    f"{BACKWARD}.2d.linked_prelu.none": (24, 27),
    f"{BACKWARD}.2d.linked_selu.none": (36, 23),
    f"{BACKWARD}.contiguous.linked_relu.none": (18, 14),
    f"{BACKWARD}.contiguous.linked_prelu.none": (33, 32),
    f"{BACKWARD}.contiguous.linked_silu.none": (51, 38),
    # With statistics.
    f"{ROWS}.2d.linked_relu.exact": (31, 25),
    f"{ROWS}.2d.linked_silu.exact": (52, 36),
    f"{ROWS}.channels_last.linked_silu.exact": (45, 32),
    f"{ROWS}.position_points.linked_relu.exact": (31, 25),
    f"{PLANES}.contiguous.linked_relu.exact": (23, 20),
    f"{PLANES}.contiguous.linked_selu.exact": (38, 29),
    f"{BACKWARD}.2d.linked_relu.exact": (18, 14),
    f"{BACKWARD}.contiguous.linked_prelu.exact": (33, 32),
}
OTHERS = (
    f"{FORWARD}.unaligned.linked_relu.none",
    f"{FORWARD}.unaligned.linked_silu.none",
    f"{BACKWARD}.unaligned.linked_prelu.none",
    f"{BACKWARD}.one_long_row.linked_relu.none",
    f"{FORWARD}.one_long_plane.linked_selu.none",
    f"{ROWS}.2d.linked_prelu.exact",
    f"{ROWS}.position_points.linked_prelu.exact",
    f"{ROWS}.unaligned.linked_relu.exact",
    f"{PLANES}.contiguous.linked_silu.exact",
    "jumpstart_activation_forward_small_kernel.small.linked_silu.exact",
    f"{BACKWARD}.2d.linked_prelu.exact",
)
DTYPES = ("float32", "bfloat16")
COMPILED = [(kernel, dtype) for kernel in STREAMING for dtype in DTYPES]
COMPILED += [(kernel, "bfloat16") for kernel in OTHERS]


def full_name(kernel: str, dtype: str) -> str:
    name, layout, activation, kind = kernel.split(".")
    return f"{name}.{layout}.{dtype}.90.{activation}.{kind}"


@pytest.fixture(scope="module")
def machine_code():
    found = {}
    for kind in ("none", "exact"):  # a process each, which has its limit
        wanted = [kernel for kernel in COMPILED if kernel[0].endswith(kind)]
        codes = compiled([full_name(*kernel) for kernel in wanted])
        found.update({kernel: codes[full_name(*kernel)] for kernel in wanted})
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", STREAMING)
def test_loops_move_no_byte_in_vain(machine_code, kernel, dtype):
    """16 bytes of activations at once, and two bits of masks an element: a forward reads x and writes both
    halves, a backward reads both and the masks or x. Where rows are units, a slope of each half, and sums."""
    code = machine_code[kernel, dtype]
    name, layout, activation, _ = kernel.split(".")
    depth, itemsize = code.depth, getattr(torch, dtype).itemsize
    assert depth * 16 == code.elements * itemsize
    if name != BACKWARD:
        expected = {"LDG 128": depth, "STG 128": 2 * depth}
    else:
        expected = {"LDG 128": (2 if activation == "linked_relu" else 3) * depth, "STG 128": depth}
    if activation == "linked_relu":
        expected["LDG 8" if name == BACKWARD else "STG 8"] = 2 * depth
    if activation == "linked_prelu" and layout == "contiguous":
        expected[f"LDG {8 * itemsize}"] = 2 * depth  # the same for all threads of a row
        if name == BACKWARD:
            expected["STG 32"] = 2 * depth  # by one thread of each row
    if name == ROWS and layout != "channels_last":
        expected["STG 32"] = 2 * depth  # the extrema of a row, by one thread of each warp
    assert code.accesses == expected
    assert code.barriers == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", STREAMING)
def test_loops_are_bound_by_memory(machine_code, kernel, dtype):
    code = machine_code[kernel, dtype]
    assert code.instructions <= code.elements * STREAMING[kernel][DTYPES.index(dtype)]
    loads = code.accesses["LDG 128"] // code.depth
    # Latency times bandwidth is about 16 KiB, of which loads of a forward need a third.
    assert loads * code.bytes_under_way >= 16 * 1024


@pytest.mark.parametrize(("kernel", "dtype"), COMPILED)
def test_no_spills_and_no_local_memory(machine_code, kernel, dtype):
    code = machine_code[kernel, dtype]
    assert (code.stack, code.local) == (0, 0)


@pytest.mark.parametrize("kernel", STREAMING)
def test_offsets_of_activations_have_64_bits(machine_code, kernel):
    """Those of tiles; of slopes 32 do where there are not more units."""
    offsets = machine_code[kernel, "bfloat16"].pointer_offsets
    assert "i64" in offsets
    assert "linked_prelu" in kernel or set(offsets) == {"i64"}
