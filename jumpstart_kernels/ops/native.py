"""The compiled backend: C++ on the CPU, CUDA on a GPU (``csrc/``).

Importing the extension registers its kernels and autograd node with PyTorch's dispatcher, under the schemas
that :mod:`jumpstart_kernels.ops` defines. Eager code can bypass the dispatcher's Python, which costs a thin
network more than the kernels do.
"""

import os
import shutil
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType
from typing import Any

import torch  # noqa: F401  (the extension needs torch's libraries loaded)

_extension: ModuleType | None = None
_import_error: ImportError | None = None
try:
    _extension = import_module("jumpstart_kernels._native")
except ImportError as error:
    _import_error = error


def extension() -> ModuleType | None:
    """The compiled module, or None if it was not built or does not load."""
    return _extension


INSTRUCTION_SETS = ("avx512", "avx2", "default")


def instruction_sets() -> list[str]:
    """The instruction sets that have kernels and that this processor supports, best first; none without the
    extension."""
    return [] if _extension is None else _extension.instruction_sets()


def instruction_set() -> str | None:
    """The instruction set of the CPU kernels in use: the best, or the one selected by ``JUMPSTART_CPU``."""
    return None if _extension is None else _extension.instruction_set()


def _choose_instruction_set() -> None:
    name = os.environ.get("JUMPSTART_CPU")
    if not name:
        return
    if name not in INSTRUCTION_SETS:
        raise ValueError(f"JUMPSTART_CPU must be one of {_listed(INSTRUCTION_SETS)}, got {name!r}")
    if _extension is None:
        return
    if name not in instruction_sets():
        there = _listed(instruction_sets())
        raise ValueError(f"JUMPSTART_CPU must be one of {there} on this processor, which has no {name!r}")
    _extension.use_instruction_set(name)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


_choose_instruction_set()


def _declines(*arguments) -> Any:
    """The shortcuts without the extension."""


jumpstart_activation = getattr(_extension, "jumpstart_activation", _declines)
"""``(x, bias, activation, parameter, unit_dim, position_points, margin, inplace, extrema_kind)`` to the
output and a :class:`~jumpstart_kernels.ops.arguments.Record`; None where the operator must be called
instead."""

penalty = getattr(_extension, "penalty", _declines)
"""``(records, weights, square_root)`` to the penalty; None where the operator must be called instead."""


def has_cuda() -> bool:
    """Whether the extension was built with its CUDA kernels."""
    return _extension is not None and _extension.cuda_version is not None


def unavailable(device_type: str = "cpu") -> str | None:
    """Why this backend cannot run on a device type and what to do about it; None if it can."""
    if _extension is None:
        compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
        remedy = (
            "reinstall the package from source with --no-build-isolation to build it"
            if compiler
            else "install a C++ compiler (g++ or clang++) and reinstall the package from source"
        )
        missing = _import_error is None or isinstance(_import_error, ModuleNotFoundError)
        state = "is not built" if missing else "is built but does not load, perhaps built for another torch"
        return f"the C++ extension {state} ({_import_error}): {remedy}"
    if device_type == "cuda" and not has_cuda():
        return (
            "the extension was built without CUDA: reinstall the package from source with nvcc and a CUDA "
            "build of torch installed"
        )
    if device_type not in ("cpu", "cuda"):
        return f"it has kernels for cpu and cuda, not for {device_type}"
    return None
