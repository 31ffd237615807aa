"""The kernels of ``csrc/cuda`` on the CPU: the same source, compiled with an emulator of CUDA's language.

Every tensor of a call lies in memory of its own that ends where no access is allowed, and what lies around it
must stay as it was. Threads and blocks run in an order drawn from ``seed``.
"""

import ctypes
import functools
import math
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from builds import build_all
from torch import Tensor

from cuda_emulator.structures import (
    ROOT,
    BackwardCall,
    ForwardCall,
    LayoutOfCall,
    OptionsOfCall,
    PenaltyGradientCall,
    PlanParameters,
)
from jumpstart_kernels.ops.activations import NONE
from jumpstart_kernels.ops.arguments import (
    EXTREMA_KINDS,
    ForwardResult,
    Gradients,
    InputGradients,
    Options,
    Saved,
)
from jumpstart_kernels.ops.layout import (
    channels_last_format,
    is_channels_last,
    make_layout,
    mask_shape,
    point_count,
    statistics_dtype,
)
from jumpstart_kernels.ops.slack import LAYER_SUMS, SUMS_SHAPE

SOURCES = (
    "csrc/cuda/kernels.cu",
    "csrc/cuda/linked_kernels.cu",
    "csrc/cuda/plan.cpp",
    "tests/cuda_emulator/cuda_emulator.cpp",
    "tests/cuda_emulator/calls.cpp",
)
SCALARS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
POISON = 0x7F  # as a float NaN or huge, as a key above most


def plan_parameters() -> PlanParameters:
    """Those in use, which can be changed."""
    return library().emulator_plan_parameters().contents


class PenaltyGradient(NamedTuple):
    """That of a penalty, in place of the slack sums' gradient."""

    grad: Tensor
    root: Tensor | None  # the penalty, if it is a square root
    weights: list[float]


def unavailable() -> str | None:
    """Why the emulator cannot be built here, or None if it can."""
    return None if shutil.which("g++") else "the emulator of CUDA takes g++, which is not here"


@functools.cache
def library() -> ctypes.CDLL:
    """The kernels, compiled for the CPU."""
    (path,) = build_all(["emulator.so"], _compile)
    loaded = ctypes.CDLL(str(path))
    for name in ("forward", "backward", "linked_forward", "linked_backward", "penalty", "penalty_backward"):
        getattr(loaded, f"emulator_{name}").restype = ctypes.c_char_p
    loaded.emulator_limit.argtypes = [ctypes.c_int64, ctypes.c_int64]
    loaded.emulator_forward_workspace.restype = ctypes.c_int64
    loaded.emulator_backward_workspace.restype = ctypes.c_int64
    loaded.emulator_linked_forward_workspace.restype = ctypes.c_int64
    loaded.emulator_linked_backward_workspace.restype = ctypes.c_int64
    loaded.emulator_plan_parameters.restype = ctypes.POINTER(PlanParameters)
    loaded.emulator_allocate.restype = ctypes.c_void_p
    loaded.emulator_allocate.argtypes = [ctypes.c_size_t]
    loaded.emulator_free.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    loaded.emulator_page.restype = ctypes.c_size_t
    return loaded


def _compile(name: str, path: Path) -> None:
    command = ["g++", "-std=c++17", "-O1", "-fPIC", "-U_FORTIFY_SOURCE", "-ffp-contract=off"]
    # No number loses bits unless the source says so.
    command += ["-Wconversion", "-Wno-sign-conversion"]
    command += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    command += [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests' / 'cuda_emulator'}"]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as threads:

        def compile_one(source: str) -> str:
            made = str(Path(folder) / Path(source).with_suffix(".o").name)
            _run([*command, "-c", "-x", "c++", str(ROOT / source), "-o", made])
            return made

        _run(["g++", "-shared", *threads.map(compile_one, SOURCES), "-o", str(path)])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr


class Memory:
    """The memory of one call, freed afterwards."""

    def __init__(self) -> None:
        self._regions: list[tuple[int, int, Tensor, int, int]] = []

    def __enter__(self) -> "Memory":
        return self

    def __exit__(self, *error) -> None:
        for address, pages, *_ in self._regions:
            library().emulator_free(address, pages)

    def allocate(self, count: int, dtype: torch.dtype, aligned: bool = True) -> Tensor:
        """``[count]``, poisoned, aligned to 16 bytes or off by one element, at the end of what is allowed."""
        size = count * dtype.itemsize
        page = library().emulator_page()
        pages = max(1, -(-(size + 16) // page))
        address = library().emulator_allocate(pages)
        region = torch.frombuffer((ctypes.c_uint8 * (pages * page)).from_address(address), dtype=torch.uint8)
        region.fill_(POISON)
        start = pages * page - -(-size // 16) * 16
        if not aligned:
            start -= 16 - dtype.itemsize
        self._regions.append((address, pages, region, start, size))
        return region[start : start + size].view(dtype)

    def place(self, tensor: Tensor, aligned: bool = True) -> Tensor:
        """A tensor's values, in the order in which they lie in memory, ``[count]``."""
        flat = tensor.as_strided((tensor.numel(),), (1,))
        return self.allocate(tensor.numel(), tensor.dtype, aligned).copy_(flat)

    def check(self) -> None:
        """Check that nothing was written outside the allocations."""
        for _, _, region, start, size in self._regions:
            assert (region[:start] == POISON).all() and (region[start + size :] == POISON).all()


def forward(
    x: Tensor,  # contiguous or channels_last
    bias: Tensor | None,
    options: Options,
    *,
    inplace: bool = False,
    aligned: bool = True,
    multiprocessors: int = 2,
    cluster_blocks: int = 0,  # none merge in the same launch
    seed: int = 0,
    workspace_byte: int = POISON,
) -> ForwardResult:
    """As the reference's ``jumpstart_activation_forward``."""
    layout = make_layout(x.shape, options.unit_dim, is_channels_last(x, options.unit_dim))
    count = layout.units + point_count(x.shape, options.unit_dim, options.position_points)
    dtype = statistics_dtype(x.dtype)
    with_output = options.activation != NONE
    with Memory() as memory:
        source = memory.place(x, aligned)
        added = None if bias is None else memory.place(bias, aligned)
        output = mask = None
        if with_output:
            output = source if inplace else memory.allocate(x.numel(), x.dtype, aligned)
            mask = memory.allocate(math.prod(mask_shape(layout)), torch.uint8)
        slack_sums, extrema = memory.allocate(LAYER_SUMS, dtype), memory.allocate(2 * count, dtype)
        indices = memory.allocate(2 * count, torch.int64)
        call = ForwardCall(
            SCALARS.index(x.dtype),
            *map(_address, (source, added, output, mask, slack_sums, extrema, indices)),
            LayoutOfCall(*layout), _options(options), multiprocessors, cluster_blocks,
        )  # fmt: skip
        size = library().emulator_forward_workspace(ctypes.byref(call))
        workspace = memory.allocate(size, torch.uint8).fill_(workspace_byte)
        library().emulator_seed(seed)
        _raise(library().emulator_forward(ctypes.byref(call), ctypes.c_void_p(_address(workspace))))
        memory.check()
        if not (with_output and inplace):
            assert torch.equal(source.view(torch.uint8), _bytes(x))
        return ForwardResult(
            _like(output, x) if with_output else x.new_empty(0),
            mask.clone().view(mask_shape(layout)) if with_output else x.new_empty((0, 0), dtype=torch.uint8),
            slack_sums.clone().view(SUMS_SHAPE),
            extrema.clone().view(2, count),
            indices.clone().view(2, count),
        )


def backward(
    gradients: Gradients,
    saved: Saved,
    options: Options,
    penalty: PenaltyGradient | None = None,
    *,
    aligned: bool = True,
    multiprocessors: int = 2,
    seed: int = 0,
    workspace_byte: int = POISON,
) -> InputGradients:
    """As the reference's ``jumpstart_activation_backward``, for a gradient that is dense like the result.

    The gradient of the bias is not rounded to its dtype yet.
    """
    mask, extrema, indices, size, channels_last, dtype, with_grad_bias = saved
    layout = make_layout(size, options.unit_dim, channels_last)
    with Memory() as memory:
        by_output, *by_statistics = (
            None if grad is None else memory.place(grad, aligned) for grad in gradients
        )
        grad_x = memory.allocate(math.prod(size), dtype, aligned)
        placed = [memory.place(tensor) for tensor in (mask, extrema, indices)]
        bias_sums = memory.allocate(layout.units, extrema.dtype) if with_grad_bias else None
        call = BackwardCall(
            SCALARS.index(dtype),
            *map(_address, (by_output, placed[0], grad_x, *by_statistics, *placed[1:], bias_sums)),
            LayoutOfCall(*layout), _options(options), multiprocessors, _penalty_gradient(penalty, memory),
        )  # fmt: skip
        held = library().emulator_backward_workspace(ctypes.byref(call))
        workspace = memory.allocate(held, torch.uint8).fill_(workspace_byte)
        library().emulator_seed(seed)
        _raise(library().emulator_backward(ctypes.byref(call), ctypes.c_void_p(_address(workspace))))
        memory.check()
        memory_format = channels_last_format(len(size)) if channels_last else torch.contiguous_format
        return InputGradients(
            _like(grad_x, torch.empty(size, dtype=dtype, memory_format=memory_format)),
            bias_sums.clone() if bias_sums is not None else None,
        )


def fault(which: int) -> str:
    """The emulator's error for a kernel with one of the faults that it detects."""
    page = library().emulator_page()
    with Memory() as memory:
        end = memory.allocate(page, torch.uint8)
        library().emulator_fault.restype = ctypes.c_char_p
        address = ctypes.c_void_p(_address(end))
        return (library().emulator_fault(which, address, ctypes.c_size_t(page)) or b"").decode()


def workspace(size: list[int], unit_dim: int, channels_last: bool, dtype: torch.dtype) -> int:
    """Bytes of workspace of a forward on a GPU of 132 multiprocessors."""
    call = ForwardCall(
        scalar=SCALARS.index(dtype), layout=LayoutOfCall(*make_layout(size, unit_dim, channels_last))
    )
    call.multiprocessors = 132
    return library().emulator_forward_workspace(ctypes.byref(call))


def backward_workspace(size: list[int], unit_dim: int, channels_last: bool, dtype: torch.dtype) -> int:
    """The same of a backward that sums the gradient of a bias; with none it is one launch."""
    call = BackwardCall(
        scalar=SCALARS.index(dtype), layout=LayoutOfCall(*make_layout(size, unit_dim, channels_last))
    )
    call.multiprocessors, call.bias_sums = 132, 16  # not accessed
    return library().emulator_backward_workspace(ctypes.byref(call))


def _options(options: Options) -> OptionsOfCall:
    activation = library().emulator_activation(options.activation.encode())
    assert activation >= 0, f"csrc/activations.h does not list {options.activation!r}"
    return OptionsOfCall(activation, *options[1:-1], EXTREMA_KINDS.index(options.extrema_kind))


def _penalty_gradient(penalty: PenaltyGradient | None, memory: Memory) -> PenaltyGradientCall:
    if penalty is None:
        return PenaltyGradientCall()
    grad, root, weights = penalty
    placed = (None if tensor is None else memory.place(tensor) for tensor in (grad, root))
    return PenaltyGradientCall(*map(_address, placed), _weights(weights))


def _weights(weights: list[float]) -> ctypes.Array:
    return (ctypes.c_double * LAYER_SUMS)(*weights)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _bytes(x: Tensor) -> Tensor:
    return x.as_strided((x.numel(),), (1,)).view(torch.uint8)


def _like(flat: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(x).copy_(flat.as_strided(x.shape, x.stride()))


def _raise(error: bytes | None) -> None:
    if error is not None:
        raise RuntimeError(error.decode())
