"""Shapes, strides and dtypes beyond 2³¹ elements, with tensors that have no memory."""

import math

import pytest
import torch
import torch.nn.functional as F
from operators import run_forward
from torch._subclasses.fake_tensor import FakeTensorMode

from jumpstart_kernels.ops import OVERLOADS
from jumpstart_kernels.ops.layout import Layout, make_layout, mask_shape, point_count
from jumpstart_kernels.ops.slack import SUMS_SHAPE

LAST = torch.channels_last
# Size, unit dimension, memory format, shape of the mask; how many units, samples and positions there are.
CASES = {
    "rows": ((2**19 + 24, 4096), 1, None, (2**19 + 24, 512), 4096, 2**19 + 24, 2**19 + 24),
    "narrow_rows": ((2**29 + 40, 4), 1, None, (2**29 + 40, 1), 4, 2**29 + 40, 2**29 + 40),
    "one_column": ((2**31 + 3, 1), 1, None, (2**31 + 3, 1), 1, 2**31 + 3, 2**31 + 3),
    "one_row": ((1, 2**31 + 9), 1, None, (1, 2**28 + 2), 2**31 + 9, 1, 1),
    "units_last": ((4, 2**28 + 8, 2), 2, None, (2**30 + 32, 1), 2, 4, 2**30 + 32),
    "planes": ((33, 64, 1024, 1024), 1, None, (33 * 64, 2**17), 64, 33, 33 * 2**20),
    "channels_last": ((33, 64, 1024, 1024), 1, LAST, (33 * 2**20, 8), 64, 33, 33 * 2**20),
    "one_plane": ((1, 1, 46343, 46343), 1, None, (1, 268459207), 1, 1, 46343**2),
    "volume": ((2, 5, 512, 1024, 512), 1, torch.channels_last_3d, (2**29, 1), 5, 2, 2**29),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    return request.param


def make_fake(size, memory_format, dtype):
    return torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format)


@pytest.mark.parametrize("backend", OVERLOADS)
@pytest.mark.parametrize("points", ("sample", "position"))
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float64), ids=str)
def test_fakes(case, backend, points, dtype):
    size, unit_dim, memory_format, mask_size, units, samples, positions = case
    statistics = torch.float64 if dtype == torch.float64 else torch.float32
    position_points = points == "position"
    count = units + (positions if position_points else samples)
    with FakeTensorMode():
        x = make_fake(size, memory_format, dtype).requires_grad_()
        assert x.numel() > 2**31
        outputs = run_forward(backend, x, unit_dim, position_points)
        expected = [
            (size, F.relu(x).stride(), dtype),
            (mask_size, (mask_size[1], 1), torch.uint8),
            (SUMS_SHAPE, (SUMS_SHAPE[1], 1), statistics),
            ((2, count), (count, 1), statistics),
            ((2, count), (count, 1), torch.int64),
        ]
        for output, (shape, stride, kind) in zip(outputs, expected, strict=True):
            assert (output.shape, output.stride(), output.dtype) == (shape, stride, kind)
        differentiated = [outputs.output, outputs.slack_sums]
        (grad_x,) = torch.autograd.grad(differentiated, x, differentiated)
        assert (grad_x.shape, grad_x.stride(), grad_x.dtype) == (size, x.stride(), dtype)


def test_layouts(case):
    size, unit_dim, memory_format, mask_size, units, samples, positions = case
    layout = make_layout(size, unit_dim, memory_format is not None)
    assert layout.samples * layout.rows * layout.units * layout.inner == math.prod(size)
    assert mask_shape(layout) == mask_size and layout.units == units
    assert layout.matrix[0] * layout.matrix[1] == math.prod(size)
    assert point_count(size, unit_dim, False) == samples
    assert point_count(size, unit_dim, True) == positions


def test_layout_of_one_dimension():
    assert make_layout([2**32 + 1], 0, False) == Layout(1, 1, 2**32 + 1, 1, False)
