"""The command ``info``: versions, devices, backends, why one is missing: what a bug report needs."""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.collect_env import get_nvidia_driver_version, run

import jumpstart_kernels
from jumpstart_kernels.building import cache, toolchain
from jumpstart_kernels.cli.errors import CommandError
from jumpstart_kernels.ops import backends, native

EXTRAS = {  # package to its purpose
    "torchmetrics": "usage",
    "scikit-learn": "the data sets of demo and usage",
    "matplotlib": "the plots, the figure of demo and the pages of usage",
    "rich": "bench and the progress bars of demo",
    "lightning": "integrations.lightning",
    "transformers": "integrations.transformers",
    "tensorboard": "integrations.tensorboard",
}
# What changes a build, a choice of backend or a measurement.
VARIABLES = (
    *("JUMPSTART_BACKEND", "JUMPSTART_CPU", "JUMPSTART_BUILD", "JUMPSTART_CACHE"),
    *("TRITON_INTERPRET", "CUDA_HOME", "CUDA_VISIBLE_DEVICES", "TORCH_CUDA_ARCH_LIST"),
    *("CXX", "CXXFLAGS", "MAX_JOBS", "OMP_NUM_THREADS"),
)


def add_info(commands: argparse._SubParsersAction) -> None:
    text = "versions, devices, backends, and why one is missing"
    commands.add_parser("info", help=text, description=text).set_defaults(run=info)


def info(arguments: argparse.Namespace) -> int:
    """Print what is installed, what is missing and how to get it."""
    try:
        toolchain.build_setting()
    except ValueError as error:
        raise CommandError(str(error)) from None
    for line in _info():
        print(line)
    return 0


def _info() -> Iterator[str]:
    toolkits = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
    built_for = [f"with {name} {version}" for name, version in toolkits.items() if version]
    extension = native.extension()
    yield f"jumpstart_kernels  {jumpstart_kernels.__version__}, {_installation()}"
    yield f"python             {platform.python_version()} on {platform.platform()}"
    yield f"torch              {torch.__version__}, {built_for[0] if built_for else 'without CUDA'}"
    yield f"triton             {_version('triton') or 'not installed'}"
    yield f"C++ compiler       {toolchain.find_compiler() or toolchain.find_obstacle()}"
    yield f"ninja              {_version('ninja') or shutil.which('ninja') or 'not found: builds are slow'}"
    yield f"nvcc               {toolchain.find_nvcc() or 'not found'}"
    yield f"cpu                {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    if torch.cuda.device_count():
        yield f"NVIDIA driver      {get_nvidia_driver_version(run) or 'not found'}"
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        memory = properties.total_memory / 2**30
        capability = f"{properties.major}.{properties.minor}"
        yield f"{f'cuda:{i}':<18} {properties.name}, capability {capability}, {memory:.0f} GiB"
    if extension is None:
        yield f"native extension   {native.missing()}"
    else:
        threads = (
            "threaded by OpenMP" if getattr(extension, "openmp", False) else "without OpenMP: one thread"
        )
        cuda = f"with CUDA {extension.cuda_version}" if native.has_cuda() else "without CUDA"
        yield f"native extension   {threads}, {cuda}, {_origin(extension.__file__)}"
        yield f"instruction set    {native.instruction_set()} of {', '.join(native.instruction_sets())}"
    yield f"cache              {cache.cache_folder() or 'none: there is no home; set JUMPSTART_CACHE'}"
    for variable in VARIABLES:
        if os.environ.get(variable):
            yield f"{variable:<18} {os.environ[variable]}"
    yield ""
    for device in ("cpu", "cuda"):
        for backend in backends.BACKENDS:
            yield f"{backend:<10} {device:<5} {_backend_state(backend, device)}"
    yield ""
    for package, purpose in EXTRAS.items():
        state = _version(package) or f"not installed: pip install {package}"
        yield f"{package:<13} {state} (for {purpose})"


def _installation() -> str:
    """How and where the package is installed."""
    try:
        direct = importlib.metadata.distribution("jumpstart_kernels").read_text("direct_url.json") or "{}"
        editable = json.loads(direct).get("dir_info", {}).get("editable", False)
        how = "editable" if editable else "installed"
    except importlib.metadata.PackageNotFoundError:
        how = "not installed"
    return f"{how}, in {cache.PACKAGE}"


def _origin(file: str | None) -> str:
    folder = Path(file or "").parent
    return "came with the package" if folder == cache.PACKAGE else f"built at first use into {folder}"


def _backend_state(backend: str, device: str) -> str:
    if device == "cuda" and not torch.cuda.is_available():
        if torch.version.cuda is None and torch.version.hip is None:
            return "unavailable: torch is built without CUDA: install a CUDA build of torch"
        return "unavailable: torch sees no CUDA device: check nvidia-smi and CUDA_VISIBLE_DEVICES"
    waits = backends.waits_for_first_use(device)
    if backend == "native" and waits:
        return "will be compiled at first use; now: python -m jumpstart_kernels build"
    reason = backends.unavailable(backend, device)
    if reason is not None:
        return f"unavailable: {reason}"
    try:
        chosen = backends.current(device) == backend and not waits
    except RuntimeError:  # JUMPSTART_BACKEND names one that is not available
        chosen = False
    return "available, in use" if chosen else "available"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
