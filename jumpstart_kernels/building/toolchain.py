"""What an extension is built with and for, without running or importing any of it."""

import json
import os
import shlex
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import torch

from jumpstart_kernels.building import recipe

SETTINGS = ("auto", "never", "require")


def build_setting() -> str:
    """``JUMPSTART_BUILD``: whether the extension is built at first use.

    Raises:
        ValueError: it is none of ``SETTINGS``.
    """
    setting = os.environ.get("JUMPSTART_BUILD") or "auto"
    if setting not in SETTINGS:
        raise ValueError(f"JUMPSTART_BUILD must be one of {', '.join(map(repr, SETTINGS))}, got {setting!r}")
    return setting


def find_compiler() -> str | None:
    """The C++ compiler: that of the variable ``CXX``, which then must be there, or the first of the usual."""
    named = shlex.split(os.environ.get("CXX", ""))
    return next(filter(None, map(shutil.which, named[:1] or ("c++", "g++", "clang++"))), None)


def find_nvcc() -> str | None:
    """The CUDA compiler, with its headers; None if torch is built without CUDA."""
    home = None if torch.version.cuda is None else recipe.find_cuda_home()
    return None if home is None else str(home / "bin" / "nvcc")


def find_obstacle() -> str | None:
    """Why no extension can be built here and what to do about it; None if it can."""
    if os.name != "posix":
        return "the C++ extension is only built on Linux and macOS"
    if find_compiler() is None:
        missing = os.environ.get("CXX")
        return (
            f"the C++ compiler {missing!r}, which CXX names, is not found"
            if missing
            else "no C++ compiler is found: install g++ or clang++"
        )
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python.h is not found: install the headers of Python (python3-dev)"
    if find_spec("setuptools") is None:
        return "setuptools is not installed: pip install setuptools ninja"
    return None


def find_misfit(extension: Path) -> str | None:
    """Why an extension does not fit the torch that is there; None if it does, or if nothing is recorded."""
    record = extension.with_name(recipe.RECORD)
    if not record.is_file():
        return None
    built_for = json.loads(record.read_text())
    wanted, found = (version.partition("+")[0] for version in (built_for["torch"], torch.__version__))
    if wanted != found:
        return f"is built for torch {built_for['torch']}, and here is {torch.__version__}"
    if built_for["cuda"] not in (None, torch.version.cuda):
        return f"is built for CUDA {built_for['cuda']}, and torch here for {torch.version.cuda}"
    return None


def lacks_cuda(extension: Path) -> bool:
    """Whether an extension that fits was built without CUDA, for which torch and nvcc are here."""
    record = extension.with_name(recipe.RECORD)
    return record.is_file() and json.loads(record.read_text())["cuda"] is None and find_nvcc() is not None
