"""What importing the package does, and what it leaves for later."""

import subprocess
import sys
import types

import pytest

import jumpstart_kernels

LATER = (
    "surgery",
    "initialization",
    "usage",
    "recycling",
    "pruning",
    "plots",
    "integrations",
    "cli",
    "demo",
    "bench",
)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_touches_neither_cuda_nor_what_is_used_later():
    """Only what a forward and its penalty need."""
    out = run(
        "import sys, torch; before = set(sys.modules)\n"
        "import jumpstart_kernels\n"
        "assert not torch.cuda.is_initialized()\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    modules = out.split()
    assert not [
        name for name in modules if name.split(".")[0] in ("torchmetrics", "triton", "numpy", "setuptools")
    ]
    for package in LATER:
        assert f"jumpstart_kernels.{package}" not in modules
    assert not [name for name in modules if name.startswith("torch._dynamo")]


@pytest.mark.parametrize("name", jumpstart_kernels.__all__)
def test_every_public_name_is_there(name):
    assert getattr(jumpstart_kernels, name) is not None
    assert name in dir(jumpstart_kernels)


@pytest.mark.parametrize("name", [*LATER[:7], "functional", "nn", "schedules"])
def test_packages_are_attributes(name):
    assert run(f"import jumpstart_kernels as jk; print(jk.{name}.__name__)") == f"jumpstart_kernels.{name}\n"


def test_all_public_names_can_be_imported_at_once():
    names: dict[str, object] = {}
    exec("from jumpstart_kernels import *", names)
    assert set(jumpstart_kernels.__all__) <= set(names)


def test_an_unknown_name_is_an_error():
    with pytest.raises(AttributeError, match="module 'jumpstart_kernels' has no attribute 'replace_reul'"):
        jumpstart_kernels.replace_reul  # noqa: B018
    assert isinstance(jumpstart_kernels.surgery, types.ModuleType)
