"""Specifics of the Triton backend: launch plans, and when it is unavailable."""

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from jumpstart_kernels.ops import backends, reference
from jumpstart_kernels.ops import triton as triton_backend
from jumpstart_kernels.ops.arguments import Gradients, Options, Saved
from jumpstart_kernels.ops.layout import is_channels_last
from jumpstart_kernels.ops.slack import LAYER_SUMS, SUMS_SHAPE


def _run_python(arguments: list[str], **environment: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
    command = [sys.executable, *arguments]
    output = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert output.returncode == 0, output.stderr
    return output.stdout


@pytest.mark.parametrize(("columns", "expected"), [(2**20, "int32"), (2**30, "int64")])
def test_offsets_within_a_tile_have_the_bits_they_need(columns, expected):
    from jumpstart_kernels.ops.triton.launch_forward import _forward

    forward = _forward((16, columns), 1, False, False, torch.float16, True, "relu", False)
    assert expected in [str(constant) for constant in forward.launches[0].settled]


LAYOUTS = [
    pytest.param((70, 40), 1, None, False, id="2d"),
    pytest.param((3, 24, 9, 5), 1, torch.channels_last, False, id="channels_last"),
    pytest.param((3, 24, 9, 5), 1, torch.channels_last, True, id="channels_last-position"),
    pytest.param((3, 5, 300), 1, None, False, id="planes"),
    pytest.param((3, 20, 52), 1, None, True, id="planes-position"),
    pytest.param((2, 37, 12), 2, None, False, id="units-last"),
]
OF_LAYOUTS = pytest.mark.parametrize(("size", "unit_dim", "memory_format", "position_points"), LAYOUTS)


@pytest.fixture
def interpreted():
    reason = triton_backend.unavailable("cpu")
    if reason is not None:
        pytest.skip(reason)


def _assert_like_reference(size, unit_dim, memory_format, position_points, dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, generator=generator).mul(2).round().div(2).to(dtype)  # with ties
    if memory_format is not None:
        x = x.contiguous(memory_format=memory_format)
    options = Options("relu", 0.0, unit_dim, position_points, 3.0, extrema_kind="exact")
    expected = reference.jumpstart_activation_forward(x, options)
    actual = triton_backend.jumpstart_activation_forward(x, options)
    for name in ("output", "mask", "extrema", "indices"):
        assert torch.equal(getattr(actual, name), getattr(expected, name))
    torch.testing.assert_close(actual.slack_sums, expected.slack_sums, rtol=1e-6, atol=0)

    grad_output = torch.empty_like(x).copy_(torch.randn(size, generator=generator))
    # Whole numbers, and slacks that are multiples of a half: no rounding, in whatever order they are added.
    grad_slack_sums = torch.arange(LAYER_SUMS, dtype=expected.slack_sums.dtype).view(SUMS_SHAPE)
    gradients = Gradients(grad_output, grad_slack_sums, None)
    channels_last = is_channels_last(x, unit_dim)
    saved = Saved(expected.mask, expected.extrema, expected.indices, list(size), channels_last, dtype)
    assert torch.equal(
        triton_backend.jumpstart_activation_backward(gradients, saved, options),
        reference.jumpstart_activation_backward(gradients, saved, options),
    )


@OF_LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_programs_of_several_tiles(
    interpreted, monkeypatch, size, unit_dim, memory_format, position_points, dtype
):
    """The code path of large tensors, for which the interpreter is too slow."""
    from jumpstart_kernels.ops.triton import backward, plan

    _forget_plans()
    monkeypatch.setattr(plan, "_PROGRAMS", 1)
    monkeypatch.setattr(plan, "_LANES", 4)
    monkeypatch.setattr(plan, "_SMALL", 1)
    monkeypatch.setattr(plan, "STATISTICS_ELEMENTS", 64)
    monkeypatch.setattr(backward, "BLOCK", 16)
    monkeypatch.setattr(backward, "CHUNK", 8)
    _assert_like_reference(size, unit_dim, memory_format, position_points, dtype)
    _forget_plans()


@OF_LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_values_that_are_not_numbers(
    interpreted, monkeypatch, size, unit_dim, memory_format, position_points, dtype
):
    """NaN of either sign, infinities and −0.0, in tiles of several programs."""
    from jumpstart_kernels.ops.triton import plan

    _forget_plans()
    monkeypatch.setattr(plan, "_LANES", 4)
    monkeypatch.setattr(plan, "_SMALL", 1)
    values = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0, 0.0, -1.0, 2.0], dtype=dtype)
    values = torch.cat([values, values[:1].copysign(values[-2:-1])])
    generator = torch.Generator().manual_seed(0)
    kinds = torch.rand(size, generator=generator).mul(len(values)).long()
    rare = torch.rand(size, generator=generator) < 16 / kinds.numel()  # the others are zeros and −1.0
    x = values[torch.where(rare, kinds, 3 + kinds % 3)].contiguous(
        memory_format=memory_format or torch.contiguous_format
    )
    options = Options("relu", 0.0, unit_dim, position_points, 1.0, extrema_kind="indexed")
    expected = reference.jumpstart_activation_forward(x, options)
    actual = triton_backend.jumpstart_activation_forward(x, options)
    for name in ("output", "mask", "extrema", "indices"):
        torch.testing.assert_close(
            getattr(actual, name), getattr(expected, name), rtol=0, atol=0, equal_nan=True
        )
    assert expected.extrema.isnan().any() and not expected.extrema.isnan().all()
    _forget_plans()


@OF_LAYOUTS
def test_64_bit_offsets(interpreted, monkeypatch, size, unit_dim, memory_format, position_points):
    """The code path of tensors with rows of 2²⁷ elements and more."""
    from jumpstart_kernels.ops.triton import plan

    _forget_plans()
    monkeypatch.setattr(plan, "fits_int32", lambda elements: False)
    _assert_like_reference(size, unit_dim, memory_format, position_points, torch.float32)
    _forget_plans()


@OF_LAYOUTS
def test_misaligned(interpreted, size, unit_dim, memory_format, position_points):
    from jumpstart_kernels.ops.triton.launch import is_aligned

    x = torch.randn(size).contiguous(memory_format=memory_format or torch.contiguous_format)
    apart = torch.empty(x.numel() + 1)[1:].as_strided(x.size(), x.stride()).copy_(x)
    assert not is_aligned(apart)
    options = Options("relu", 0.0, unit_dim, position_points, 1.0, extrema_kind="indexed")
    for actual, expected in zip(
        triton_backend.jumpstart_activation_forward(apart, options),
        triton_backend.jumpstart_activation_forward(x, options),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected)


@OF_LAYOUTS
def test_reads_nothing_that_it_has_not_written(
    interpreted, monkeypatch, size, unit_dim, memory_format, position_points
):
    new_empty = torch.Tensor.new_empty

    def poisoned(self, *args, **kwargs):
        tensor = new_empty(self, *args, **kwargs)
        return tensor.fill_(torch.nan if tensor.is_floating_point() else 77)

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    _assert_like_reference(size, unit_dim, memory_format, position_points, torch.float32)


def _forget_plans():
    from jumpstart_kernels.ops.triton import launch_backward, launch_forward

    launch_forward._forward.cache_clear()
    launch_backward._backward.cache_clear()


def test_every_tile_of_a_plan_is_taken_once():
    from jumpstart_kernels.ops.layout import Layout
    from jumpstart_kernels.ops.triton.plan import make_grid, make_planes

    grid = make_grid(Layout(2**20, 1, 2**13, 1, False), False, 2, True)
    assert grid.steps > 1
    assert grid.programs == (2**20 // grid.region_rows) * (2**13 // grid.tile.columns)
    planes = make_planes(Layout(2**10, 1, 2**8, 2**12, False), 2, True)
    assert planes.steps > 1
    assert planes.programs == (2**18 // planes.tile.rows) * (2**12 // planes.chunk_columns)


@pytest.mark.parametrize("inner", [49, 196, 784, 3136, 12544])
def test_few_elements_of_images_come_again(inner):
    from jumpstart_kernels.ops.layout import Layout
    from jumpstart_kernels.ops.triton.plan import make_planes

    planes = make_planes(Layout(64, 1, 256, inner, False), 2, True)
    tile = planes.tile.depth * planes.tile.columns
    assert -(-inner // tile) * tile <= 1.35 * inner


def test_a_launch_is_settled_once_for_each_device():
    from jumpstart_kernels.ops.triton.launch import Launch

    calls = []

    class Compiled:
        def __getitem__(self, grid):
            return lambda *arguments: calls.append(("compiled", grid, arguments))

    class Kernel:
        arg_names = ("x_ptr", "rows", "BLOCK")

        def __getitem__(self, grid):
            return lambda *arguments, **options: calls.append(("kernel", grid, arguments)) or Compiled()

    launch = Launch(Kernel(), 3, {"BLOCK": 64, "rows": 7})
    for device in (0, 0, 1, 0):
        launch(device, "x")
    assert [call[0] for call in calls] == ["kernel", "compiled", "kernel", "compiled"]
    assert {call[1:] for call in calls} == {((3, 1, 1), ("x", 7, 64))}


def test_unavailable_names_the_device():
    assert "not for mps" in triton_backend.unavailable("mps")


def test_unavailable_without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    triton_backend._import_error.cache_clear()
    try:
        assert "pip install 'triton" in triton_backend.unavailable("cuda")
        assert "pip install 'triton" in triton_backend.unavailable("cpu")
    finally:
        triton_backend._import_error.cache_clear()


def test_unavailable_on_the_cpu_without_the_interpreter(monkeypatch):
    from jumpstart_kernels.ops.triton import launch

    monkeypatch.setattr(launch, "INTERPRETED", False)
    assert "TRITON_INTERPRET=1" in triton_backend.unavailable("cpu")
    assert triton_backend.unavailable("cuda") is None
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"), backends.use_backend("triton"):
            pass


def test_import_needs_no_triton_and_no_cuda():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, jumpstart_kernels as jk\n"
        "assert not torch.cuda.is_initialized()\n"
        "print(jk.functional.jumpstart_relu(torch.ones(2, 2)).output.sum().item())"
    )
    assert _run_python(["-c", code], JUMPSTART_BACKEND="").strip() == "4.0"
