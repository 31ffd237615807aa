"""Pack for a GPU machine what it then need not compile: the extension, and Triton's kernels of the tests and
benchmarks. benchmarks/gpu.sh unpacks and uses it.

python -m benchmarks.gpu_package        (make gpu-package)

All is built in the environment "oldest" of benchmarks.matrix, whose Python and PyTorch are those of the GPU
machines.
"""

import argparse
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.matrix.__main__ import environment
from benchmarks.matrix.environment import ROOT, Environment
from jumpstart_kernels.building import recipe

PACKAGE = ROOT / "build" / "gpu" / "package.tar.xz"
SUMS, EXTENSION, CACHE = "sources.sha256", "extension", "triton"  # what is in it
FOLDER_OF_CACHE = "@cache@"  # in the archive, since Triton writes absolute paths; gpu.sh puts its own
# Of the driver, to link with and to load what it is linked to; nothing calls them here.
DRIVER = (
    *("CtxGetCurrent", "CtxGetLimit", "CtxSetCurrent", "CtxSetLimit"),
    *("DeviceGet", "DeviceGetAttribute", "DevicePrimaryCtxRetain"),
    *("FuncGetAttribute", "FuncSetAttribute", "FuncSetCacheConfig"),
    *("GetErrorString", "ModuleGetFunction", "ModuleLoadData", "PointerGetAttribute"),
)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_package", description=__doc__)
    parser.add_argument(
        "--python", type=Path, action="append", default=[], metavar="PATH", help="Python 3.12"
    )
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes; default: 2")
    parser.add_argument("--without-tests", action="store_true", help="only the kernels of the benchmarks")
    return parser


def make_driver(folder: Path) -> None:
    """A library with the name and the functions of CUDA's driver."""
    folder.mkdir(parents=True, exist_ok=True)
    source = "".join(f"int cu{name}(void) {{ return 999; }}\n" for name in DRIVER)
    command = [*("cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-x", "c", "-"), "-o"]
    subprocess.run([*command, folder / "libcuda.so.1"], input=source, text=True, check=True)


def compile_kernels(row: Environment, cache: Path, workers: int, tests: bool) -> None:
    """Compile for the GPU into a cache of Triton, which keeps what it has of an earlier run."""
    driver = row.folder / "driver"
    make_driver(driver)
    variables = {
        "TRITON_CACHE_DIR": str(cache),
        "TRITON_STORE_BINARY_ONLY": "1",
        "TRITON_LIBCUDA_PATH": str(driver),
        "LD_LIBRARY_PATH": str(driver),
        "PYTHONPATH": os.pathsep.join((str(row.sources), str(row.sources / "tests"))),
        "JUMPSTART_BUILD": "never",
        "OMP_NUM_THREADS": "1",
    }
    parts = [["--part", str(i), "--parts", str(workers)] for i in range(workers)]
    with ThreadPoolExecutor(workers) as threads:
        list(
            threads.map(lambda part: row.run(["-m", "benchmarks.gpu_package.cases", *part], variables), parts)
        )
    if tests:
        words = ["-m", "pytest", "-q", "-p", "compile_ahead", "-p", "no:cacheprovider", "-n", str(workers)]
        words += ["-k", "triton-cpu", "--timeout=0", "--continue-on-collection-errors", "tests"]
        row.run(words, variables, allowed=(0, 1))  # a test may fail: what it has compiled is there


def pack(folder: Path, package: Path, since: float = 0) -> int:
    """Pack a folder, its cache without what a launch does not read; returns the number of kernels.

    Args:
        folder: with what there is in a package.
        package: the file.
        since: no kernels of before this time.
    """
    kernels = 0
    cache = os.fsencode(folder / CACHE)
    package.parent.mkdir(parents=True, exist_ok=True)
    part = package.with_suffix(".part")  # an interrupted one would be damaged
    with tarfile.open(part, "w:xz") as file:
        # By name, so that similar ones are neighbours.
        for path in sorted(folder.rglob("*"), key=lambda path: (path.suffix, path.name, path)):
            kernel = path.parent.parent == folder / CACHE and path.suffix != ".so"
            unused = kernel and (path.suffix == ".source" or path.stat().st_mtime < since)
            if unused or not path.is_file():
                continue
            data = path.read_bytes()
            if path.name.startswith("__grp__"):
                data = data.replace(cache, os.fsencode(FOLDER_OF_CACHE))
            entry = tarfile.TarInfo(str(path.relative_to(folder)))
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
            kernels += path.suffix == ".cubin"
    os.replace(part, package)
    return kernels


def sums(sources: Path) -> str:
    """Of what the extension is built from, for sha256sum --check in the folder of the sources."""
    paths = [path.relative_to(sources) for path in sorted((sources / recipe.CSRC).rglob("*.*"))]
    paths.append(Path(recipe.__file__).relative_to(ROOT))
    digests = [hashlib.sha256((sources / path).read_bytes()).hexdigest() for path in paths]
    return "".join(f"{digest}  {path}\n" for digest, path in zip(digests, paths, strict=True))


def build_extension(row: Environment, folder: Path) -> bool:
    """Put the extension, its record and the sums of its sources into a folder, unless they are there."""
    stored, wanted = folder / SUMS, sums(row.sources)
    if stored.is_file() and stored.read_text() == wanted:
        return False
    row.build()
    row.probe()
    extension, package = folder / EXTENSION, row.sources / "jumpstart_kernels"
    shutil.rmtree(extension, ignore_errors=True)
    extension.mkdir(parents=True)
    for path in (*package.glob("_native.*.so"), package / recipe.RECORD):
        shutil.copy(path, extension)
    stored.write_text(wanted)
    return True


def main(words: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(words)
    started = time.monotonic()

    def done(what: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {what}", flush=True)

    row = environment("oldest", options.python)
    row.install()
    row.copy_sources()
    done("the environment is there")
    folder = row.folder / "package"
    built = build_extension(row, folder)
    done(f"the extension {'is built' if built else 'has been built before'}")
    before = time.time()
    compile_kernels(row, folder / CACHE, options.workers, not options.without_tests)
    shutil.rmtree(PACKAGE.parent, ignore_errors=True)  # also what was unpacked there
    kernels = pack(folder, PACKAGE, before)
    done(f"{kernels} kernels are compiled")
    size = PACKAGE.stat().st_size
    print(f"{size / 2**20:.1f} MiB to be taken along with the working tree: {PACKAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
