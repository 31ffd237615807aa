"""The operator on allocated tensors of more than 2³¹ elements: ``make test-large``, 20 GB of memory.

Every unit and point but the last has extrema beyond the margin. The last have theirs at planted places near
the end, so that each result is known without a second computation of this size.
"""

import pytest
import torch
from operators import run_forward

pytestmark = pytest.mark.large

# Size, whether in channels_last, whether points are positions.
SIZES = {
    "rows": ((2**19 + 1, 4096), False, False),
    "odd_rows": ((2**19 + 300, 4095), False, False),
    "narrow_rows": ((2**28 + 3, 8), False, True),
    "channels_last": ((2**15 + 3, 64, 32, 32), True, False),
    "channels_last_positions": ((2**15 + 3, 64, 32, 32), True, True),
    "planes": ((2**15 + 3, 64, 32, 32), False, False),
    "planes_positions": ((2**15 + 3, 64, 32, 32), False, True),
}
SLACK_GRADIENTS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]) / 4  # of units, of points


@pytest.fixture(autouse=True)
def memory(target):
    backend, device = target
    if backend == "reference":
        pytest.skip("the reference makes float32 copies of what is large already")
    if target == ("triton", "cpu"):
        pytest.skip("interpreted kernels are slow; test_triton_beyond_32_bits.py runs some of their programs")
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else available_memory()
    if free < 20e9:
        pytest.skip(f"{free / 1e9:.0f} GB of free memory are less than 20")


def available_memory():
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))


def make_activation(size, channels_last, device):
    """1.5 to 3 in steps of a half, with signs alternating along samples and units."""
    generator = torch.Generator().manual_seed(0)
    samples, units = 8, size[1]
    part = torch.randint(3, 7, (samples, *size[1:]), generator=generator) / 2
    turns = torch.arange(samples)[:, None] + torch.arange(units)  # [samples, units]
    part *= (1 - 2 * (turns % 2)).view(samples, units, *[1] * (len(size) - 2))
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.empty(size, dtype=torch.bfloat16, device=device, memory_format=memory_format)
    whole = size[0] // samples * samples
    x[:whole].unflatten(0, (-1, samples)).copy_(part.to(x))
    x[whole:] = part[: size[0] - whole].to(x)
    return x


@pytest.mark.timeout(580)
@pytest.mark.parametrize("name", SIZES)
def test_more_than_two_to_the_31_elements(target, name):
    backend, device = target
    size, channels_last, position_points = SIZES[name]
    x = make_activation(size, channels_last, device)
    assert x.numel() > 2**31 and x.element_size() == 2
    samples, units = size[:2]
    positions = [length - 1 for length in size[2:]]
    # The last unit: 0.25, but for its maximum and minimum in samples before the last.
    unit_places = [(samples - 3, units - 1, *positions), (samples - 2, units - 1, *positions)]
    x[:, -1] = 0.25
    x[unit_places[0]], x[unit_places[1]] = 0.5, -0.5
    # The last point likewise, in units before the last.
    point_places = [(samples - 1, units - 2, *positions), (samples - 1, units - 3, *positions)]
    x[(samples - 1, slice(None), *positions) if position_points else samples - 1] = 0.25
    x[point_places[0]], x[point_places[1]] = 0.5, -0.5

    x.requires_grad_()
    output, mask, slack_sums, extrema, indices = run_forward(
        backend, x, 1, position_points, extrema_kind="exact"
    )
    assert slack_sums.tolist() == [[0.5, 0.5, 0.25, 0.25, 0.25]] * 2
    last_unit, last_point = units - 1, extrema.shape[1] - 1
    assert extrema[:, [last_unit, last_point]].tolist() == [[0.5, 0.5], [-0.5, -0.5]]
    strides = torch.empty(size, device="meta").stride()
    for place, side, column in (
        *zip(unit_places, (0, 1), (last_unit,) * 2, strict=True),
        *zip(point_places, (0, 1), (last_point,) * 2, strict=True),
    ):
        index = sum(i * stride for i, stride in zip(place, strides, strict=True))
        assert index > 2**31 - 10**7 and indices[side, column] == index

    grads = (output.detach(), SLACK_GRADIENTS.to(slack_sums))
    (grad_x,) = torch.autograd.grad((output, slack_sums), x, grads)
    output = output.detach()
    with torch.no_grad():
        x.relu_()
        assert torch.equal(output, x)
        # A slack of 0.5 falls by what its maximum grows, and by what its minimum shrinks.
        for row, places in enumerate((unit_places, point_places)):
            positive, negative, positive_squared, negative_squared, product = SLACK_GRADIENTS[row].tolist()
            output[places[0]] -= positive + positive_squared + 0.5 * product
            output[places[1]] += negative + negative_squared + 0.5 * product
    assert torch.equal(grad_x, output)
