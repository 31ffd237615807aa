"""Which backend runs: the fastest that is there, or the one that was asked for."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from jumpstart_kernels.kernels import native, triton

BACKENDS = ("native", "triton", "reference")  # fastest first

_chosen: str | None = None  # None: the fastest of each device
_resolved: dict[str, str] = {}  # device type to backend, for the choice in force


def unavailable(backend: str, device_type: str) -> str | None:
    """Why a backend cannot run tensors of a device type (``"cpu"``, ``"cuda"``), or None where it can."""
    if backend == "native":
        return native.unavailable(device_type)
    if backend == "triton":
        return triton.unavailable(device_type)
    return None


def select(x: Tensor) -> str:
    """The backend that runs ``x``.

    Raises:
        RuntimeError: the backend asked for cannot run a tensor of this device.
    """
    device_type = "cpu" if x.is_cpu else x.device.type  # asking for the device costs more than all the rest
    if torch.compiler.is_compiling():  # a guard on what is resolved already would compile twice
        return _resolve(device_type, _chosen)
    backend = _resolved.get(device_type)
    if backend is None:
        backend = _resolved[device_type] = _resolve(device_type, _chosen)
    return backend


@contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Run every Jumpstart operator inside the ``with`` block by one backend.

    The environment variable ``JUMPSTART_BACKEND`` does the same for a whole program. Backward runs by the
    backend of its forward. The choice holds for all threads.

    Args:
        backend: ``"native"``, ``"triton"`` or ``"reference"``.

    Raises:
        ValueError: unknown name.
        RuntimeError: the backend can run on no device of this machine; the message says how to get it.
    """
    global _chosen
    _check(backend)
    previous = _chosen
    _chosen = backend
    _resolved.clear()
    try:
        yield
    finally:
        _chosen = previous
        _resolved.clear()


def _check(backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    reasons = [unavailable(backend, device) for device in devices]
    if all(reasons):
        raise RuntimeError(f"backend {backend!r} is not available: {reasons[-1]}")


def _resolve(device_type: str, chosen: str | None) -> str:
    if chosen is not None:
        reason = unavailable(chosen, device_type)
        if reason is not None:
            asked = "" if chosen != _from_environment() else ", which JUMPSTART_BACKEND asks for,"
            raise RuntimeError(f"backend {chosen!r}{asked} cannot run a {device_type} tensor: {reason}")
        return chosen
    # On the CPU Triton is an interpreter, there for tests: it runs when it is asked for only.
    usable = [name for name in BACKENDS if name != "triton" or device_type != "cpu"]
    return next(name for name in usable if unavailable(name, device_type) is None)


# As torch.compiler.assume_constant_result marks it, which would import the compiler: torch.compile is to call
# it, not to trace what it imports and asks.
_resolve._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _from_environment() -> str | None:
    backend = os.environ.get("JUMPSTART_BACKEND") or None
    if backend is not None and backend not in BACKENDS:
        names = ", ".join(map(repr, BACKENDS))
        raise ValueError(f"JUMPSTART_BACKEND must be one of {names}, got {backend!r}")
    return backend


_chosen = _from_environment()
