"""The compiled backend: C++ on the CPU, CUDA on a GPU (``csrc/``).

Importing the extension registers its kernels and autograd node with PyTorch's dispatcher, under the schemas
that :mod:`jumpstart_kernels.ops` defines. Eager code can bypass the dispatcher's Python, which costs a thin
network more than the kernels do.
"""

import importlib.util
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from jumpstart_kernels.building import cache, recipe, toolchain

_extension: ModuleType | None = None
_missing: str | None = None  # what is the matter with it
_loading = threading.Lock()
_when_loaded: list[Callable[[], None]] = []


def extension() -> ModuleType | None:
    """The compiled module, or None if it was not built, does not load, or waits for its first use."""
    return _extension


def when_loaded(run: Callable[[], None]) -> None:
    """Call ``run`` now, or as soon as the extension is loaded."""
    if _extension is None:
        _when_loaded.append(run)
    else:
        run()


def missing() -> str | None:
    """What is the matter with the extension, if it is not loaded."""
    return None if _extension is not None else _missing


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


def _declines(*arguments) -> Any:
    """The shortcuts without the extension."""


jumpstart_activation: Callable[..., Any] = _declines
"""``(x, bias, activation, parameter, unit_dim, position_points, margin, inplace, extrema_kind)`` to the
output and a :class:`~jumpstart_kernels.ops.arguments.Record`; None where the operator must be called
instead."""

penalty: Callable[..., Any] = _declines
"""``(records, weights, square_root)`` to the penalty; None where the operator must be called instead."""


def _load(path: Path) -> None:
    """Import the extension from a file, which registers its kernels.

    Raises:
        ImportError: it does not load.
    """
    global _extension, jumpstart_activation, penalty
    spec = importlib.util.spec_from_file_location(recipe.NAME, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no extension module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[recipe.NAME] = _extension = module
    jumpstart_activation, penalty = module.jumpstart_activation, module.penalty
    while _when_loaded:
        _when_loaded.pop(0)()
    _choose_instruction_set()


def packaged_extension() -> Path | None:
    """The extension that came with the package, if it fits and nothing is missing in it."""
    path = cache.find_extension(cache.PACKAGE)
    return path if path and not toolchain.find_misfit(path) and not toolchain.lacks_cuda(path) else None


def _load_existing() -> None:
    """Load the extension that came with the package if it fits, or else one that was built before."""
    global _missing
    packaged = cache.find_extension(cache.PACKAGE)
    misfit = packaged and toolchain.find_misfit(packaged)
    candidates = [packaged] if packaged and misfit is None else []
    if packaged_extension() is None:
        entry = cache.find_entry()
        built = entry and entry.find()
        candidates = ([built] if built else []) + candidates
    _missing = f"that came with the package {misfit}" if misfit else "is not built"
    for path in candidates:
        try:
            return _load(path)
        except ImportError as error:
            _missing = f"does not load ({error})"


def prepare(device_type: str) -> None:
    """Build the extension if it is not there and could run tensors on a device type; only tried once.

    ``JUMPSTART_BUILD=never`` turns this off, ``JUMPSTART_BUILD=require`` makes it an error if it fails.

    Raises:
        RuntimeError: it cannot be built, and is required.
    """
    global _tried
    setting = toolchain.build_setting()
    if _extension is not None or _tried or setting == "never" or not _could_run(device_type):
        return
    with _loading:
        if _extension is not None or _tried:
            return
        try:
            _load_built(cache.build())
        except cache.BuildError as error:
            if setting == "require":
                raise RuntimeError(f"JUMPSTART_BUILD=require, but {error}") from None
            if device_type == "cpu":
                warnings.warn(
                    f"jumpstart_kernels runs in plain PyTorch, many times slower: {error} "
                    "(JUMPSTART_BUILD=never: no such attempt, no such warning)",
                    stacklevel=2,
                )
        _tried = True


_tried = False


def _load_built(path: Path) -> None:
    try:
        _load(path)
    except ImportError as error:
        remedy = "python -m jumpstart_kernels build compiles it again"
        raise cache.BuildError(f"{path} does not load ({error}): {remedy}") from None


def waits_for_first_use(device_type: str) -> bool:
    """Whether the first tensor on a device type will have the extension built."""
    if _extension is not None or _tried or toolchain.build_setting() == "never":
        return False
    entry = cache.find_entry()
    possible = toolchain.find_obstacle() is None and entry is not None and entry.failure() is None
    return possible and _could_run(device_type)


def _could_run(device_type: str) -> bool:
    if device_type != "cuda":
        return device_type == "cpu"
    nvcc = toolchain.find_nvcc()
    return nvcc is not None and recipe.fits_cuda(Path(nvcc), torch.version.cuda)


def has_cuda() -> bool:
    """Whether the extension was built with its CUDA kernels."""
    return _extension is not None and _extension.cuda_version is not None


def unavailable(device_type: str = "cpu") -> str | None:
    """Why this backend cannot run on a device type and what to do about it; None if it can."""
    if _extension is None:
        entry = cache.find_entry()
        failure = entry and entry.failure()
        remedy = failure or "python -m jumpstart_kernels build compiles it"
        return f"the C++ extension {_missing}: {toolchain.find_obstacle() or remedy}"
    if device_type == "cuda" and not has_cuda():
        return (
            "the extension was built without CUDA: with nvcc and a CUDA build of torch, "
            "python -m jumpstart_kernels build compiles it"
        )
    if device_type not in ("cpu", "cuda"):
        return f"it has kernels for cpu and cuda, not for {device_type}"
    return None


_load_existing()
_choose_instruction_set()
