"""How a kernel is launched, and what all launches have in common. Needs Triton."""

import contextlib
import functools
import struct
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from jumpstart_kernels.kernels.triton import plan
from jumpstart_kernels.kernels.triton.statistics import jumpstart_relu_statistics_forward_kernel

# Whether the kernels are functions of Triton's interpreter: settled when they were decorated.
INTERPRETED = not isinstance(jumpstart_relu_statistics_forward_kernel, triton.JITFunction)


class Launch:
    """A kernel with all that does not change from call to call: a launch then costs as little as can be.

    Triton works out anew in each call which compiled kernel the arguments ask for. Here that is settled but
    for the device: what else it depends on, dtypes and alignment, is in the keys of
    ``launch_forward.py`` and ``launch_backward.py``.
    """

    def __init__(self, kernel: Any, programs: int, numbers: tuple, constants: dict, **options: Any) -> None:
        if programs > plan.MOST_PROGRAMS:
            raise ValueError(
                f"x takes {programs} programs of Triton, more than the {plan.MOST_PROGRAMS} of a launch: "
                "run this shape by another backend, use_backend('native') or use_backend('reference')"
            )
        self.kernel, self.grid, self.numbers = kernel, (programs, 1, 1), numbers
        self.constants = tuple(constants[name] for name in kernel.arg_names if name in constants)
        # A fused multiply-add would round otherwise than the reference does.
        self.options = {"num_warps": plan.WARPS, "enable_fp_fusion": False, **options}
        self.compiled: dict[int, Any] = {}  # by device

    def __call__(self, device: int, *tensors_and_margin: Any) -> None:
        arguments = (*tensors_and_margin, *self.numbers, *self.constants)
        compiled = self.compiled.get(device)
        if compiled is None:
            # None from the interpreter, which has nothing to keep.
            self.compiled[device] = self.kernel[self.grid](*arguments, **self.options)
        else:
            compiled[self.grid](*arguments)


def tile_constants(tile: plan.Tile, columns: int, rows: int) -> dict:
    """Of kernels whose tiles reach over some rows of a matrix of so many columns."""
    return {
        "WHOLE_BYTES": columns % 8 == 0,
        "offset_dtype": tl.int32 if plan.fits_int32(rows * columns) else tl.int64,
        "DEPTH": tile.depth,
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "VECTOR": tile.vector,
    }


def registers(most: int) -> dict:
    """Left alone, ptxas takes so many registers that fewer programs fit, or so few that it spills."""
    return {} if torch.version.hip else {"maxnreg": most}


def is_aligned(x: Tensor) -> bool:
    return x.data_ptr() % 16 == 0


@functools.lru_cache(maxsize=1024)
def margin_bits(margin: float) -> int:
    """The margin as the kernels take it, see ``margin_from_bits``."""
    return struct.unpack("<q", struct.pack("<d", margin))[0]


def device_of(x: Tensor) -> contextlib.AbstractContextManager:
    if not x.is_cuda or x.get_device() == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(x.device)
