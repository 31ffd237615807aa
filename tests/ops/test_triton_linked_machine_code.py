"""As test_triton_machine_code.py, for the kernels of linked activations."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from triton_machine_code import linked_machine_code as compiled

FORWARD, BACKWARD = "linked_activation_forward_kernel", "linked_activation_backward_kernel"
# Instructions for an element of 4 bytes and of 2, at most: see test_triton_machine_code.py. A forward moves
# 12 and 6 bytes an element, for which an H200's bandwidth allows about 74 and 37; a backward as many of
# linked_relu, 16 and 8 of the others.
STREAMING = {
    f"{FORWARD}.2d.linked_relu": (21, 17),
    f"{FORWARD}.2d.linked_prelu": (12, 11),
    f"{FORWARD}.2d.linked_silu": (42, 28),
    f"{FORWARD}.contiguous.linked_relu": (21, 17),
    f"{FORWARD}.contiguous.linked_prelu": (14, 13),
    f"{FORWARD}.contiguous.linked_selu": (34, 26),
    f"{BACKWARD}.2d.linked_relu": (18, 14),
    f"{BACKWARD}.2d.linked_prelu": (24, 27),
    f"{BACKWARD}.2d.linked_selu": (36, 23),
    f"{BACKWARD}.contiguous.linked_relu": (18, 14),
    f"{BACKWARD}.contiguous.linked_prelu": (32, 31),
    f"{BACKWARD}.contiguous.linked_silu": (51, 38),
}
OTHERS = (
    f"{FORWARD}.unaligned.linked_relu",
    f"{FORWARD}.unaligned.linked_silu",
    f"{BACKWARD}.unaligned.linked_prelu",
    f"{BACKWARD}.one_long_row.linked_relu",
    f"{FORWARD}.one_long_plane.linked_selu",
)
COMPILED = [(kernel, dtype) for kernel in (*STREAMING, *OTHERS) for dtype in ("float32", "bfloat16")]


def full_name(kernel: str, dtype: str) -> str:
    name, layout, activation = kernel.split(".")
    return f"{name}.{layout}.{dtype}.90.{activation}.none"


@pytest.fixture(scope="module")
def machine_code():
    found = compiled([full_name(*kernel) for kernel in COMPILED])
    return {kernel: found[full_name(*kernel)] for kernel in COMPILED}


@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
@pytest.mark.parametrize("kernel", STREAMING)
def test_loops_move_no_byte_in_vain(machine_code, kernel, dtype):
    """16 bytes of activations at once, and two bits of masks an element: a forward reads x and writes both
    halves, a backward reads both and the masks or x. Where rows are units, a slope of each half, and sums."""
    code = machine_code[kernel, dtype]
    name, layout, activation = kernel.split(".")
    depth, itemsize = code.depth, getattr(torch, dtype).itemsize
    assert depth * 16 == code.elements * itemsize
    if name == FORWARD:
        expected = {"LDG 128": depth, "STG 128": 2 * depth}
    else:
        expected = {"LDG 128": (2 if activation == "linked_relu" else 3) * depth, "STG 128": depth}
    if activation == "linked_relu":
        expected["STG 8" if name == FORWARD else "LDG 8"] = 2 * depth
    if activation == "linked_prelu" and layout == "contiguous":
        expected[f"LDG {8 * itemsize}"] = 2 * depth  # the same for all threads of a row
        if name == BACKWARD:
            expected["STG 32"] = 2 * depth  # by one thread of each row
    assert code.accesses == expected
    assert code.barriers == 0


@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
@pytest.mark.parametrize("kernel", STREAMING)
def test_loops_are_bound_by_memory(machine_code, kernel, dtype):
    code = machine_code[kernel, dtype]
    assert code.instructions <= code.elements * STREAMING[kernel][0 if dtype == "float32" else 1]
    loads = code.accesses["LDG 128"] // code.depth
    assert loads * code.bytes_under_way >= 40 * 1024  # where latency times bandwidth is about 16 KiB


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
