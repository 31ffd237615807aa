"""Build the packages, install one in a clean environment with another torch, and use it there.

    python -m benchmarks.packages --output benchmarks/results/packages.json

Builds an sdist and from it the wheel that everybody can install (without torch, in isolation), checks both,
and installs the wheel in a virtual environment of its own, in which it has to build its extension at first
use, start again without building, and train the demo. With --native, a Python with another torch builds a
wheel with an extension too, which must be refused there in favor of the one that fits.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.matrix.environment import ROOT, pinned_torch, run
from benchmarks.report.command import read_complete, write
from benchmarks.report.documents import insert
from jumpstart_kernels.bench.machine import describe

FOLDER = ROOT / "build" / "packages"
STORED = "packages.json"  # of benchmarks/results, for --output
DOCUMENT = Path("docs/install.md")
DEMO = ("-m", "jumpstart_kernels", "demo", "--data", "wine", "--epochs", "50", "--output")
# Which are imported in turn; the difference is what the package takes.
TIMED_IMPORTS = """
import time
start = time.perf_counter(); import torch
middle = time.perf_counter(); import jumpstart_kernels
print(middle - start, time.perf_counter() - middle)
"""
USE = """
import torch, jumpstart_kernels as jk
from jumpstart_kernels.ops import native
layer = jk.JumpstartReLU()
(layer(torch.randn(8, 4, requires_grad=True)).sum() + jk.penalty(layer)).backward()
print(native.extension().__file__)
"""
PIP = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packages", description=__doc__)
    here = Path(sys.executable)
    parser.add_argument("--python", type=Path, default=here, metavar="PATH", help="default: this one")
    parser.add_argument(
        "--torch", default=f"torch=={pinned_torch()}", help="what is installed there; default: %(default)s"
    )
    parser.add_argument(
        "--native", type=Path, metavar="PYTHON", help="a Python of the same version with another torch"
    )
    parser.add_argument(
        "--repeats", type=int, default=20, metavar="N", help="imports that are timed; default: 20"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="JSON; also fills the table of docs/install.md"
    )
    return parser


def build(folder: Path) -> tuple[Path, Path]:
    """The sdist and, from it, the wheel."""
    run([sys.executable, "-m", "build", "--outdir", folder, ROOT])
    sdist, wheel = next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))
    run([sys.executable, "-m", "twine", "check", "--strict", sdist, wheel])
    with tarfile.open(sdist) as archive:
        check_names(
            [name.partition("/")[2] for name in archive.getnames()], {"setup.py", "csrc/bindings.cpp"}
        )
    check_wheel(wheel, native=False)
    return sdist, wheel


def check_wheel(wheel: Path, native: bool) -> None:
    """What must be in a wheel, and what must not."""
    names = zipfile.ZipFile(wheel).namelist()
    wanted = {"py.typed", "csrc/bindings.cpp", "csrc/cpu/vector_avx2.h", "csrc/cuda/kernels.cu"}
    check_names(names, {f"jumpstart_kernels/{name}" for name in wanted})
    built = [name for name in names if re.search(r"_native.*\.(so|json)$", name)]
    if len(built) != (2 if native else 0) or wheel.name.endswith("py3-none-any.whl") == native:
        raise SystemExit(f"{wheel.name} has {built or 'no extension'}")
    strangers = {name.partition("/")[0] for name in names if not name.startswith("jumpstart_kernels")}
    if strangers:
        raise SystemExit(f"{wheel.name} has {strangers} beside the package")


def check_names(names: Sequence[str], wanted: set[str]) -> None:
    missing = wanted - set(names)
    if missing:
        raise SystemExit(f"the package lacks {missing}")


class Clean:
    """A virtual environment with a torch, and a cache of its own."""

    def __init__(self, folder: Path, python: Path, torch: str) -> None:
        self.folder, self.cache = folder, folder / "cache"
        run([python, "-m", "venv", "--clear", folder / "venv"])
        self.python = folder / "venv" / "bin" / "python"
        self(*PIP, torch, "ninja")

    def __call__(self, *words: str | Path, **variables: str) -> tuple[str, str, float]:
        """Output, errors and seconds of a program that must succeed, away from the sources."""
        print("$ python", " ".join(map(str, words))[:100].replace("\n", " "), file=sys.stderr, flush=True)
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("JUMPSTART", "PYTHON"))
        }
        start = time.perf_counter()
        done = subprocess.run(
            [str(word) for word in (self.python, *words)],
            cwd=self.folder,
            env={**kept, "JUMPSTART_CACHE": str(self.cache), **variables},
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - start
        if done.returncode != 0:
            raise SystemExit(f"this failed: {' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}")
        return done.stdout, done.stderr, seconds


def check(clean: Clean, wheel: Path, repeats: int) -> dict[str, Any]:
    """Install a wheel and use it: figures of that."""
    clean(*PIP, "torchmetrics", "matplotlib", "rich", "scikit-learn")  # so that the package alone is timed
    _, _, install = clean(*PIP, "--no-deps", wheel)
    clean("-m", "pip", "check")
    imports = [clean("-c", TIMED_IMPORTS)[0].split() for _ in range(repeats)]
    out, err, _ = clean("-c", USE)
    if "building the C++ extension" not in err or str(clean.cache) not in out:
        raise SystemExit(f"nothing was built at first use:\n{out}{err}")
    seconds = re.search(r"built in (\d+) s", err)
    assert seconds is not None
    extension = Path(out.strip())
    _, err, _ = clean("-c", USE)
    _, demo_err, demo = clean(*DEMO, clean.folder / "demo.png")
    if "building" in err + demo_err:
        raise SystemExit(f"it was built again:\n{err}{demo_err}")
    information = clean("-m", "jumpstart_kernels", "info")[0]
    if "native     cpu   available, in use" not in information:
        raise SystemExit(f"the extension is not in use:\n{information}")
    package = Path(clean("-c", "import jumpstart_kernels; print(jumpstart_kernels.__path__[0])")[0].strip())
    torch_time, package_time = (
        statistics.median(map(float, column)) for column in zip(*imports, strict=True)
    )
    return {
        "python": clean("-c", "import platform; print(platform.python_version())")[0].strip(),
        "torch": clean("-c", "import torch; print(torch.__version__)")[0].strip(),
        "install_seconds": round(install, 1),
        "installed_bytes": sum(path.stat().st_size for path in package.rglob("*") if path.suffix != ".pyc"),
        "import_torch_seconds": round(torch_time, 4),
        "import_seconds": round(package_time, 4),
        "first_use_seconds": int(seconds[1]),
        "extension_bytes": extension.stat().st_size,
        "demo_seconds": round(demo, 1),
    }


def check_native(clean: Clean, sdist: Path, builder: Path, folder: Path) -> dict[str, Any]:
    """A wheel with an extension for another torch is installed, and its extension is not loaded."""
    start = time.perf_counter()
    run(
        [builder, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "-w", folder, sdist],
        environment={**os.environ, "JUMPSTART_BUILD": "require"},
    )
    seconds = time.perf_counter() - start
    wheel = next(path for path in folder.glob("*.whl") if not path.name.endswith("none-any.whl"))
    check_wheel(wheel, native=True)
    clean(*PIP, "--no-deps", "--force-reinstall", wheel)
    out, err, _ = clean("-c", USE)
    if str(clean.cache) not in out or "building" in err:
        raise SystemExit(f"the extension of the wheel was loaded, or built again:\n{out}{err}")
    built_for = json.loads(zipfile.ZipFile(wheel).read("jumpstart_kernels/_native.json"))
    return {
        "native_wheel_bytes": wheel.stat().st_size,
        "native_wheel_seconds": round(seconds),
        "built_for": built_for,
    }


def make_table(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rows = {
        f"`pip install` of the wheel, Python {found['python']}, torch being there": (
            f"{found['install_seconds']} s"
        ),
        "wheel, with the sources of the extension": megabytes(found["wheel_bytes"]),
        "sdist, with documentation, tests and stored results": megabytes(found["sdist_bytes"]),
        "installed": megabytes(found["installed_bytes"]),
        f"building the extension at first use, {found['cores']} cores": f"{found['first_use_seconds']} s",
        "the extension, for the CPU": megabytes(found["extension_bytes"]),
        "`import jumpstart_kernels` after `import torch`": f"{1e3 * found['import_seconds']:.0f} ms",
        f"`import torch` ({found['torch']})": f"{1e3 * found['import_torch_seconds']:.0f} ms",
    }
    if "native_wheel_bytes" in found:
        name = f"wheel with an extension, built for torch {found['built_for']['torch']}"
        rows[name] = megabytes(found["native_wheel_bytes"])
    return "\n".join(["| what | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def redraw(results: Path, root: Path) -> list[Path]:
    """Write the table from the stored results; there is no figure."""
    record = read_complete(results / STORED)
    if record is not None:
        write(root, [DOCUMENT], {"packages": make_table(record)})
    return []


def main(words: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(words)
    shutil.rmtree(FOLDER, ignore_errors=True)
    sdist, wheel = build(FOLDER / "dist")
    clean = Clean(FOLDER, options.python, options.torch)
    command = ["python", "-m", "benchmarks.packages", *(sys.argv[1:] if words is None else words)]
    found: dict[str, Any] = {
        "machine": describe(torch.device("cpu"), command),
        "cores": os.cpu_count(),
        "sdist_bytes": sdist.stat().st_size,
        "wheel_bytes": wheel.stat().st_size,
        **check(clean, wheel, options.repeats),
    }
    if options.native:
        found |= check_native(clean, sdist, options.native, FOLDER / "native")
    print(make_table(found))
    if options.output:
        options.output.write_text(json.dumps(found, indent=2) + "\n")
        insert(ROOT / DOCUMENT, {"packages": make_table(found)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
