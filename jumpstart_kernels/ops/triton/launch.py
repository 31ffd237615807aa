"""How a kernel is launched, and what all launches have in common. Needs Triton."""

import contextlib
import struct
from typing import Any

import torch
import triton.language as tl
from torch import Tensor
from triton.runtime.jit import JITFunction

from jumpstart_kernels.ops.triton import floats, plan

# Whether the kernels are functions of Triton's interpreter.
INTERPRETED = floats.INTERPRETED.value


class Launch:
    """A kernel with all that does not change from call to call: a launch then costs as little as can be.

    Triton works out anew in each call which compiled kernel the arguments ask for. Here that is settled but
    for the device: what else it depends on, dtypes and alignment, is in the keys of
    ``launch_forward.py`` and ``launch_backward.py``.

    Kernels take their numbers one by one: Triton specializes what is in a tuple whatever do_not_specialize
    says, and would compile anew for many a shape.

    Args:
        settled: the kernel's last arguments by name, its constants among them. Those before are of each call.
    """

    def __init__(self, kernel: Any, programs: int, settled: dict[str, Any], **options: Any) -> None:
        if programs > plan.MOST_PROGRAMS:
            raise ValueError(
                f"x takes {programs} programs of Triton, more than the {plan.MOST_PROGRAMS} of a launch: "
                "run this shape by another backend, use_backend('native') or use_backend('reference')"
            )
        settle_key(kernel)
        self.kernel, self.grid = kernel, (programs, 1, 1)
        self.settled = tuple(settled[name] for name in kernel.arg_names[-len(settled) :])
        # A fused multiply-add would round otherwise than the reference does.
        self.options = {"num_warps": plan.WARPS, "enable_fp_fusion": False, **options}
        self.compiled: dict[int, Any] = {}  # by device

    def __call__(self, device: int, *arguments: Any) -> None:
        arguments = (*arguments, *self.settled)
        compiled = self.compiled.get(device)
        if compiled is None:
            # None from the interpreter, which has nothing to keep.
            self.compiled[device] = self.kernel[self.grid](*arguments, **self.options)
        else:
            compiled[self.grid](*arguments)


_settled: set[int] = set()


def settle_key(function: Any) -> None:
    """Have Triton work out under which key it caches a function, after those of the functions it calls.

    In the key are the constants that these use too, but only of those whose key is known already: it would
    depend on what the process has launched before, and what another has compiled would not be found.
    """
    if id(function) in _settled or not isinstance(function, JITFunction):
        return
    _settled.add(id(function))
    for name in function.fn.__code__.co_names:
        settle_key(function.__globals__.get(name))
        settle_key(getattr(tl, name, None))
    _ = function.cache_key


def offset_dtype(span: int) -> tl.dtype:
    """Of offsets within a tile, which reaches over so many elements of the matrix."""
    return tl.int32 if plan.fits_int32(span) else tl.int64


def registers(most: int) -> dict:
    """Left alone, ptxas takes so many registers that fewer programs fit, or so few that it spills."""
    return {} if torch.version.hip else {"maxnreg": most}


def is_aligned(x: Tensor) -> bool:
    return x.data_ptr() % 16 == 0


def alignment(x: Tensor | None) -> bool | None:
    """Whether a tensor that may be missing is aligned."""
    return None if x is None else is_aligned(x)


def float_bits(number: float) -> int:
    """A number as the kernels take it, see ``float_from_bits``."""
    return struct.unpack("<q", struct.pack("<d", number))[0]


def device_of(x: Tensor) -> contextlib.AbstractContextManager:
    if not x.is_cuda or x.get_device() == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(x.device)
