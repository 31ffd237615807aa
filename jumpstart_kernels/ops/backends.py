"""The backends, and which one runs: the fastest available one, or the one selected."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from jumpstart_kernels.ops import native, reference, triton
from jumpstart_kernels.ops.triton import eager


class Backend(NamedTuple):
    """A row of the table: what a backend provides."""

    name: str
    unavailable: Callable[[str], str | None]
    """For a device type (``"cpu"``, ``"cuda"``): why it cannot run there and what to do about it, or None."""
    kernels: ModuleType | None
    """The functions of :mod:`~jumpstart_kernels.ops.reference`; None if the extension registers its own in
    C++."""
    shortcuts: ModuleType | None
    """``jumpstart_activation`` and ``penalty`` for eager code, which return None where the operator must be
    called instead; None if there are none."""
    only_asked_on: tuple[str, ...] = ()
    """Device types on which it only runs if selected."""


_TABLE = (  # fastest first
    Backend("native", native.unavailable, None, native),
    # On the CPU Triton is an interpreter, for tests.
    Backend("triton", triton.unavailable, triton, eager, only_asked_on=("cpu",)),
    Backend("reference", reference.unavailable, reference, None),
)
BACKENDS = {backend.name: backend for backend in _TABLE}

_chosen: str | None = None  # None: the fastest on each device
_resolved: dict[str, str] = {}  # device type to backend, for the current choice
_open: list["_Choice"] = []  # blocks of all threads; the one entered last applies
_changing = threading.Lock()


def unavailable(backend: str, device_type: str) -> str | None:
    """Why a backend cannot run tensors on a device type (``"cpu"``, ``"cuda"``), or None if it can."""
    return BACKENDS[backend].unavailable(device_type)


def select(x: Tensor) -> str:
    """The backend that runs ``x``.

    Raises:
        RuntimeError: the selected backend cannot run a tensor on this device.
    """
    # x.device costs more than everything else here.
    device_type = "cpu" if x.is_cpu else "cuda" if x.is_cuda else x.device.type
    if torch.compiler.is_compiling():  # a guard on the cache would compile twice
        return _resolve(device_type, _chosen)
    resolved = _resolved  # a thread that changes the choice creates a new dictionary
    backend = resolved.get(device_type)
    if backend is None:
        backend = resolved[device_type] = _resolve(device_type, _chosen)
    return backend


def current(device_type: str) -> str:
    """The backend that would run on a device type as things are, without building one for it.

    Raises:
        RuntimeError: the selected backend cannot run there.
    """
    return _pick(device_type, _chosen)


def waits_for_first_use(device_type: str) -> bool:
    """Whether the first tensor on a device type will have the extension built, and run on it."""
    return _chosen in (None, "native") and native.waits_for_first_use(device_type)


def select_shortcuts(x: Tensor) -> ModuleType | None:
    """The shortcuts for ``x`` in eager code; see :func:`select`."""
    device_type = "cpu" if x.is_cpu else "cuda" if x.is_cuda else x.device.type
    backend = _resolved.get(device_type)
    return BACKENDS[select(x) if backend is None else backend].shortcuts


@contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Run every Jumpstart operator inside the ``with`` block on one backend.

    The environment variable ``JUMPSTART_BACKEND`` does the same for a whole program. Backward runs on the
    backend of its forward. The choice applies to all threads; if several threads are in such blocks, the one
    entered last applies.

    Args:
        backend: ``"native"``, ``"triton"`` or ``"reference"``.

    Raises:
        ValueError: unknown name.
        RuntimeError: the backend cannot run on any device of this machine; the message says how to get it.
    """
    _check(backend)
    choice = _Choice(backend)
    with _changing:
        _open.append(choice)
        _choose()
    try:
        yield
    finally:
        with _changing:
            _open.remove(choice)
            _choose()


class _Choice:
    """The choice of one ``with`` block."""

    def __init__(self, backend: str) -> None:
        self.backend = backend


def _choose() -> None:
    global _chosen, _resolved
    _chosen = _open[-1].backend if _open else _default
    _resolved = {}


def _check(backend: str) -> None:
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    if backend == "native":
        native.prepare(devices[0])
    reasons = [unavailable(backend, device) for device in devices]
    if all(reasons):
        raise RuntimeError(f"backend {backend!r} is not available: {reasons[-1]}")


def _resolve(device_type: str, chosen: str | None) -> str:
    if chosen in (None, "native"):
        native.prepare(device_type)
    return _pick(device_type, chosen)


def _pick(device_type: str, chosen: str | None) -> str:
    if chosen is not None:
        reason = unavailable(chosen, device_type)
        if reason is not None:
            asked = "" if chosen != _from_environment() else ", which JUMPSTART_BACKEND selects,"
            raise RuntimeError(f"backend {chosen!r}{asked} cannot run a {device_type} tensor: {reason}")
        return chosen
    usable = (backend for backend in _TABLE if device_type not in backend.only_asked_on)
    return next(backend.name for backend in usable if backend.unavailable(device_type) is None)


# What torch.compiler.assume_constant_result does, without importing the compiler: torch.compile must call it,
# not trace into it.
_resolve._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _from_environment() -> str | None:
    backend = os.environ.get("JUMPSTART_BACKEND") or None
    if backend is not None and backend not in BACKENDS:
        names = ", ".join(map(repr, BACKENDS))
        raise ValueError(f"JUMPSTART_BACKEND must be one of {names}, got {backend!r}")
    return backend


_default = _chosen = _from_environment()
