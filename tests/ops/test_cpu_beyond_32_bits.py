"""The CPU kernels of the built extension on the last rows of tensors with more than 2³¹ elements.

All other elements are zeros that take no memory, and belong to tasks that do not run. The whole operator runs
at this size in test_large_activations.py, which takes gigabytes.
"""

import ctypes
import math

import pytest
import torch
from sparse_memory import sparse_zeros

from jumpstart_kernels.ops import native, reference
from jumpstart_kernels.ops.activations import ACTIVATIONS
from jumpstart_kernels.ops.arguments import Gradients, Options, Saved
from jumpstart_kernels.ops.layout import is_channels_last, make_layout, mask_shape, point_count

_extension = native.extension()
pytestmark = pytest.mark.skipif(_extension is None, reason=str(native.unavailable("cpu")))

SCALARS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # as csrc/layout.h counts them
SYMBOLS = {
    "default": "_ZN9jumpstart15kernels_defaultEv",
    "avx2": "_ZN9jumpstart12kernels_avx2Ev",
    "avx512": "_ZN9jumpstart14kernels_avx512Ev",
}

PARAMETER = 0.3  # of the activation

# Size, whether in channels_last, whether points are positions, samples at the end that hold values.
CASES = {
    "rows": ((2**19 + 24, 4096), False, False, 40),
    "odd_rows": ((2**19 + 300, 4095), False, False, 40),
    "narrow_rows": ((2**29 + 40, 4), False, False, 100),
    "channels_last": ((2**15 + 3, 64, 32, 32), True, False, 2),
    "channels_last_positions": ((2**15 + 3, 64, 32, 32), True, True, 2),
    "planes": ((2**15 + 3, 16, 64, 64), False, False, 3),
    "planes_positions": ((2**15 + 3, 16, 64, 64), False, True, 3),
}


class Layout(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("samples", "rows", "units", "inner")]
    _fields_ += [("channels_last", ctypes.c_bool)]


class Forward(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("x", "bias", "output", "mask")]
    _fields_ += [("layout", Layout), ("position_points", ctypes.c_bool), ("stream", ctypes.c_bool)]
    _fields_ += [("parameter", ctypes.c_double), ("limited", ctypes.c_bool), ("margin", ctypes.c_double)]


class Partial(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("begin", "end")]
    _fields_ += [
        (name, ctypes.c_void_p)
        for name in (
            "unit_max", "unit_min", "chunk_max", "chunk_min", "unit_max_at", "unit_min_at", "follows",
            "point_max", "point_min", "point_max_element", "point_min_element",
        )
    ]  # fmt: skip
    _fields_ += [("continues", ctypes.c_bool), ("head_max", ctypes.c_float), ("head_min", ctypes.c_float)]
    _fields_ += [(name, ctypes.c_int64) for name in ("head_max_element", "head_min_element")]


class Backward(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("grad_output", "mask", "grad_x")]
    _fields_ += [("layout", Layout), ("stream", ctypes.c_bool), ("parameter", ctypes.c_double)]
    _fields_ += [("bias_sums", ctypes.c_void_p), ("chunk_rows", ctypes.c_int64)]


RANGE = (ctypes.c_int64, ctypes.c_int64)


class ActivationKernels(ctypes.Structure):
    _fields_ = [  # without a bias, with one; by scalar type
        ("forward", ctypes.CFUNCTYPE(None, ctypes.POINTER(Forward), ctypes.POINTER(Partial)) * 4 * 2),
        ("backward", ctypes.CFUNCTYPE(None, ctypes.POINTER(Backward), *RANGE) * 4 * 2),
        ("inplace", ctypes.CFUNCTYPE(None, ctypes.POINTER(Forward), *RANGE) * 4 * 2),
    ]


@pytest.fixture(params=SYMBOLS)
def kernels(request):
    """Of an instruction set: activation to its kernels. Skipped if this processor has no such set."""
    if request.param not in native.instruction_sets():
        pytest.skip(f"this processor has no {request.param}")
    find = getattr(ctypes.CDLL(_extension.__file__), SYMBOLS[request.param])
    names = _extension.activations
    find.restype = ctypes.POINTER(ActivationKernels * len(names))
    return dict(zip(names, find().contents, strict=True))


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float32), ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("with_bias", (False, True), ids=("", "bias"))
def test_the_last_rows_are_right(kernels, with_bias, name, activation, dtype):
    size, channels_last, position_points, samples = CASES[name]
    x = sparse_zeros(size, dtype, channels_last)
    assert x.numel() > 2**31
    part = x[-samples:]
    generator = torch.Generator().manual_seed(0)
    part.copy_((2 * torch.randn(part.shape, generator=generator)).round() / 2)
    offset = x.numel() - part.numel()
    layout = make_layout(size, 1, channels_last)
    units, rows = layout.units, layout.matrix[0]
    begin = rows - samples * (rows // size[0])
    options = Options(activation, PARAMETER, 1, position_points, 1.0, extrema_kind="indexed")
    bias = torch.randn(units, generator=generator).to(dtype) if with_bias else None
    expected = reference.jumpstart_activation_forward(part, bias, options)
    count = expected.extrema.shape[1] - units
    scalar = SCALARS.index(dtype)

    exact_bias = bias.float() if with_bias else None
    of_bias = exact_bias.data_ptr() if with_bias else None
    output, mask = sparse_zeros(size, dtype, channels_last), sparse_zeros(mask_shape(layout), torch.uint8)
    forward = Forward(
        x.data_ptr(), of_bias, output.data_ptr(), mask.data_ptr(), Layout(*layout), position_points, False,
        PARAMETER, False, 0.0,
    )  # fmt: skip
    extrema = torch.full((4, -(-units // 16) * 16), torch.nan)
    places = torch.full((2, extrema.shape[1]), 2**31 - 1, dtype=torch.int32)
    all_points = point_count(size, 1, position_points)
    points = sparse_zeros((2, all_points), torch.float32)
    follows = torch.zeros((1, extrema.shape[1]), dtype=torch.uint8)
    elements = sparse_zeros((2, all_points), torch.int64)
    pointers = [row.data_ptr() for tensor in (extrema, places, follows, points) for row in tensor]
    pointers += [row.data_ptr() if name == "narrow_rows" else None for row in elements]
    partial = Partial(begin, rows, *pointers, False, 0, 0)
    run = kernels[activation]
    run.forward[with_bias][scalar](ctypes.byref(forward), ctypes.byref(partial))
    assert torch.equal(output[-samples:], expected.output)
    assert torch.equal(mask[begin:], expected.mask)
    assert torch.equal(extrema[:2, :units], expected.extrema[:, :units])
    assert torch.equal(points[:, -count:], expected.extrema[:, units:])
    assert not points[:, :100].any()  # of others' rows nothing is written
    if name == "narrow_rows":
        assert torch.equal(elements[:, -count:], expected.indices[:, units:] + offset)
        assert not elements[:, :100].any()
    # From where the extremum of a unit is looked for: not behind it, and not far before.
    for side in (0, 1):
        index = expected.indices[side, :units] + offset
        plane = index // (x.numel() // size[0] // units)  # of a unit and a sample
        if layout.inner > 1:
            assert torch.equal(places[side, :units], (plane // units - begin // units).int())
        else:
            position = index % layout.rows
            found = (
                plane // units * layout.rows + position - begin if channels_last else index // units - begin
            )
            assert (places[side, :units] >= 0).all() and (found - places[side, :units] < 32).all()

    grad_output, grad_x = (sparse_zeros(size, dtype, channels_last) for _ in range(2))
    grad_output[-samples:] = torch.randn(part.shape, generator=generator)
    # Of rows in chunks, of which one begins where the task does; of each plane.
    planes = layout.inner > 1
    chunk_rows = units if planes else math.gcd(begin, 16)
    sums = sparse_zeros((rows // units if planes else -(-rows // chunk_rows), units), torch.float32)
    backward = Backward(
        grad_output.data_ptr(), mask.data_ptr(), grad_x.data_ptr(), Layout(*layout), False, PARAMETER,
        sums.data_ptr() if with_bias else None, chunk_rows,
    )  # fmt: skip
    run.backward[with_bias][scalar](ctypes.byref(backward), begin, rows)
    saved = Saved(
        expected.mask, expected.extrema, expected.indices, part.shape, is_channels_last(part, 1), dtype,
        with_bias,
    )  # fmt: skip
    gradients = Gradients(grad_output[-samples:], None, None)
    expected_grads = reference.jumpstart_activation_backward(gradients, saved, options)
    assert torch.equal(grad_x[-samples:], expected_grads.x)
    if with_bias:
        grad_bias = sums[begin // units if planes else begin // chunk_rows :].double().sum(0)
        tolerance = 0.01 if dtype == torch.bfloat16 else 1e-4
        torch.testing.assert_close(grad_bias, expected_grads.bias.double(), rtol=tolerance, atol=tolerance)
        assert not sums[:100].any()

    again = sparse_zeros(mask_shape(layout), torch.uint8)
    forward = Forward(
        x.data_ptr(),
        of_bias,
        x.data_ptr(),
        again.data_ptr(),
        Layout(*layout),
        position_points,
        False,
        PARAMETER,
        False,
        0.0,
    )
    run.inplace[with_bias][scalar](ctypes.byref(forward), begin, rows)
    assert torch.equal(part, expected.output) and torch.equal(again[begin:], expected.mask)
