"""The origin of a measurement: machine, versions, commit."""

import ctypes
import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

import jumpstart_kernels
from jumpstart_kernels.ops import native

_CLOCKS = ("clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "driver_version")  # MHz, W


# From malloc.h: when glibc returns memory to the system, and when it maps memory for a single block.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_memory(device: torch.device) -> bool:
    """Make glibc keep freed memory, like the caching allocator of a GPU; returns whether it does.

    Otherwise it may return large blocks to the system when they are freed, depending on their total size, and
    the page faults of the next call then cost several times as much as an elementwise operation.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, _NEVER))


def describe(device: torch.device, command: Sequence[str], keeps_memory: bool = False) -> dict[str, object]:
    """A JSON record of the machine and the command; absolute paths are reduced to their names."""
    git = _git_state(Path(jumpstart_kernels.__file__).parent)
    record: dict[str, object] = {
        "device": _device_name(device),
        "device_type": device.type,
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "instruction_set": native.instruction_set(),
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "keeps_memory": keeps_memory,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "cuda": torch.version.cuda,
        "jumpstart_kernels": jumpstart_kernels.__version__,
        "native_cuda": native.has_cuda(),
        "git": git[0],
        "git_dirty": git[1],
        "command": " ".join(Path(word).name if _leads_outside(word) else word for word in command),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        record["memory"] = properties.total_memory
        record["multiprocessors"] = properties.multi_processor_count
        record["l2_cache"] = properties.L2_cache_size
        record["clocks"] = _clocks(device)
    return record


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _clocks(device: torch.device) -> dict[str, str]:
    """The clocks that nvidia-smi reports, with units; empty if it is not installed."""
    if shutil.which("nvidia-smi") is None:
        return {}
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    query = ["nvidia-smi", f"--query-gpu={','.join(_CLOCKS)}", "--format=csv,noheader", f"--id=GPU-{uuid}"]
    output = _run(query)
    return dict(zip(_CLOCKS, (value.strip() for value in output.split(",")), strict=False)) if output else {}


def _leads_outside(word: str) -> bool:
    """Whether a word is a path that is meaningful only on this machine."""
    return os.path.isabs(word) or word.startswith(os.pardir + os.sep)


def _git_state(folder: Path) -> tuple[str | None, bool | None]:
    """Commit, and whether the tree differs from it; None outside a checkout."""
    git = ["git", "-C", str(folder)]
    if _run([*git, "ls-files", "--error-unmatch", "__init__.py"]) is None:  # another repository
        return None, None
    # Benchmarks write results and figures: these do not change what is measured.
    measured = [":/", ":(top,exclude)benchmarks/results", ":(top,exclude)docs"]
    return _run([*git, "rev-parse", "HEAD"]), _run([*git, "status", "--porcelain", "--", *measured]) != ""


def _run(command: list[str]) -> str | None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
