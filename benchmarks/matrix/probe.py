"""Print what was built in an environment as JSON. Run by its Python in its copy of the sources."""

import json
import platform
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from jumpstart_kernels.ops import native

NAMESPACE = "jumpstart_kernels::"


def operators(dispatch_key: str) -> list[str]:
    """The project's operators with a kernel for a dispatch key, without their namespace."""
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith(NAMESPACE)]
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return sorted(name.removeprefix(NAMESPACE) for name in names if has_kernel(name, dispatch_key))


def probe() -> dict[str, Any]:
    import jumpstart_kernels.ops  # noqa: F401  (defines the operators)

    extension = native.extension()
    assert extension is not None and extension.__file__ is not None  # the build would have failed
    path = Path(extension.__file__)
    triton = None
    if find_spec("triton"):
        import triton as installed

        triton = installed.__version__
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton,
        "instruction_set": native.instruction_set(),
        "extension": {"file": path.name, "bytes": path.stat().st_size, "cuda": extension.cuda_version},
        "operators": {"CPU": operators("CPU"), "CUDA": operators("CUDA")},
    }


if __name__ == "__main__":
    print(json.dumps(probe()))
