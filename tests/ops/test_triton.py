"""Specifics of the Triton backend: launch plans, and when it is unavailable."""

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from triton_interpreted import (
    OF_LAYOUTS,
    WITH_AND_WITHOUT_BIAS,
    assert_forward_like_reference,
    assert_like_reference,
    cut_small,
    forget_plans,
    make_dense,
    of_layouts_and,
)

from jumpstart_kernels.ops import backends
from jumpstart_kernels.ops import triton as triton_backend
from jumpstart_kernels.ops.arguments import Options


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

    forward = _forward((16, columns), 1, False, False, torch.float16, True, "relu", "exact", None)
    assert expected in [str(constant) for constant in forward.launches[0].settled]


@pytest.fixture(autouse=True)
def fresh_plans():
    """None of an altered plan, before or after."""
    forget_plans()
    yield
    forget_plans()


@pytest.fixture
def interpreted():
    reason = triton_backend.unavailable("cpu")
    if reason is not None:
        pytest.skip(reason)


@of_layouts_and(
    "dtype with_bias",
    [(torch.float32,), (torch.float16,), (torch.bfloat16,), (torch.float64,)],
    (False, True),
)
def test_programs_of_several_tiles(
    interpreted, monkeypatch, size, unit_dim, memory_format, position_points, dtype, with_bias
):
    """The code path of large tensors, for which the interpreter is too slow."""
    cut_small(monkeypatch)
    assert_like_reference(size, unit_dim, memory_format, position_points, dtype, with_bias)


@of_layouts_and("dtype with_bias", [(torch.float32,), (torch.bfloat16,), (torch.float64,)], (False, True))
def test_values_that_are_not_numbers(
    interpreted, monkeypatch, size, unit_dim, memory_format, position_points, dtype, with_bias
):
    """NaN of either sign, infinities and −0.0, in tiles of several programs."""
    from jumpstart_kernels.ops.triton import plan

    monkeypatch.setattr(plan, "_LANES", 4)
    monkeypatch.setattr(plan, "_SMALL", 1)
    values = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0, 0.0, -1.0, 2.0], dtype=dtype)
    values = torch.cat([values, values[:1].copysign(values[-2:-1])])
    generator = torch.Generator().manual_seed(0)
    kinds = torch.rand(size, generator=generator).mul(len(values)).long()
    rare = torch.rand(size, generator=generator) < 16 / kinds.numel()  # the others are zeros and −1.0
    x = make_dense(values[torch.where(rare, kinds, 3 + kinds % 3)], memory_format)
    bias = None
    if with_bias:
        bias = torch.zeros(size[unit_dim], dtype=dtype)
        bias[:4] = values[:4]  # the infinite sums with those of the other sign to NaN
    options = Options("relu", 0.0, unit_dim, position_points, 1.0, extrema_kind="indexed")
    expected = assert_forward_like_reference(x, bias, options)
    assert expected.extrema.isnan().any() and not expected.extrema.isnan().all()


@OF_LAYOUTS
@WITH_AND_WITHOUT_BIAS
def test_64_bit_offsets(interpreted, monkeypatch, size, unit_dim, memory_format, position_points, with_bias):
    """The code path of tensors with rows of 2²⁷ elements and more."""
    from jumpstart_kernels.ops.triton import plan

    monkeypatch.setattr(plan, "fits_int32", lambda elements: False)
    assert_like_reference(size, unit_dim, memory_format, position_points, torch.float32, with_bias)


@OF_LAYOUTS
@WITH_AND_WITHOUT_BIAS
def test_misaligned(interpreted, size, unit_dim, memory_format, position_points, with_bias):
    from jumpstart_kernels.ops.triton.launch import is_aligned

    x = make_dense(torch.randn(size), memory_format)
    apart = torch.empty(x.numel() + 1)[1:].as_strided(x.size(), x.stride()).copy_(x)
    bias = torch.randn(size[unit_dim] + 1)[1:] if with_bias else None
    assert not is_aligned(apart) and not (with_bias and is_aligned(bias))
    options = Options("relu", 0.0, unit_dim, position_points, 1.0, extrema_kind="indexed")
    for actual, expected in zip(
        triton_backend.jumpstart_activation_forward(apart, bias, options),
        triton_backend.jumpstart_activation_forward(x, None if bias is None else bias.clone(), options),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected)


@OF_LAYOUTS
@WITH_AND_WITHOUT_BIAS
def test_reads_nothing_that_it_has_not_written(
    interpreted, monkeypatch, size, unit_dim, memory_format, position_points, with_bias
):
    new_empty = torch.Tensor.new_empty

    def poisoned(self, *args, **kwargs):
        tensor = new_empty(self, *args, **kwargs)
        return tensor.fill_(torch.nan if tensor.is_floating_point() else 77)

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    assert_like_reference(size, unit_dim, memory_format, position_points, torch.float32, with_bias)


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
