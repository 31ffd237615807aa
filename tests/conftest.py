"""Shared fixtures: the backends to test, and the available devices."""

import os
from importlib.util import find_spec
from types import SimpleNamespace

import torch

# What is tested is what is there; the tests of building at first use say otherwise.
os.environ.setdefault("JUMPSTART_BUILD", "never")
# Compile in this process: a pool of compiler processes beside those of pytest can wait for itself.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before any kernel is decorated
else:
    torch.backends.cudnn.allow_tf32 = False  # by default it may round convolutions to 10 bits, or not

import builds
import pytest
from hypothesis import HealthCheck, given, settings

from jumpstart_kernels.ops import backends

TARGETS = [
    pytest.param(
        (backend, device), id=f"{backend}-{device}", marks=[pytest.mark.gpu] if device == "cuda" else []
    )
    for device in ("cpu", "cuda")
    for backend in backends.BACKENDS
]


def pytest_runtest_logreport(report):
    """Tracebacks at once, for a run that may be stopped before its end: into the file FAILURES."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # the controller gets the report too
    if report.failed and "FAILURES" in os.environ:
        with open(os.environ["FAILURES"], "a") as file:
            file.write(f"==== {report.nodeid}\n{report.longreprtext}\n{report.capstderr}\n")


@pytest.fixture(scope="session", autouse=True)
def folder_of_builds(tmp_path_factory):
    """Within that of the run, in which each worker has its own."""
    folder = tmp_path_factory.getbasetemp()
    builds.FOLDER = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session", autouse=True)
def quick_interpreter():
    """Have Triton's interpreter patch its language once a kernel, not for each function that it calls."""
    if "TRITON_INTERPRET" not in os.environ or find_spec("triton") is None:
        yield
        return
    import triton.language as tl
    from triton.runtime import interpreter

    patch = interpreter._patch_lang

    def patch_once(function):
        seen = [value for value in function.__globals__.values() if value is tl or value is tl.core]
        patched = seen and all(module.static_print is print for module in seen)
        return SimpleNamespace(restore=lambda: None) if patched else patch(function)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(interpreter, "_patch_lang", patch_once)
        yield


@pytest.fixture(params=TARGETS)
def target(request):
    """The backend in use and its device: ``backend, device = target``. Skipped if unavailable."""
    backend, device = request.param
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    reason = backends.unavailable(backend, device)
    if reason is not None:
        pytest.skip(f"{backend} on {device}: {reason}")
    with backends.use_backend(backend):
        yield backend, device


@pytest.fixture
def for_all(target):
    """``for_all(strategy, check)`` calls ``check`` with drawn examples, the same ones in every run."""
    examples = 25 if target[0] == "triton" else 100  # interpreted kernels are slow, others are compiled anew
    profile = settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )

    def run(strategy, check):
        profile(given(strategy)(check))()

    return run


@pytest.fixture
def poisoned_memory():
    """Fill new memory with NaN or the largest integer, to detect what a kernel leaves unwritten."""
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fill
