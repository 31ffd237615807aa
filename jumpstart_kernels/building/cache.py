"""Extensions that are built at first use and kept for the next.

An entry is a folder for one state of the sources, one torch, one Python and one compiler, so that nothing is
ever loaded into another torch than it was built for, and a rebuilt or updated one does not meet the old file.
"""

import glob
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from jumpstart_kernels.building import recipe, toolchain
from jumpstart_kernels.version import __version__

PACKAGE = Path(__file__).parents[1]
LOG = "failed.log"
# What the compilers read besides the sources.
_VARIABLES = ("CXX", "CXXFLAGS", "CFLAGS", "CPPFLAGS", "LDFLAGS", "TORCH_CUDA_ARCH_LIST")


class BuildError(RuntimeError):
    """The extension cannot be built here; the message says why and what to do about it."""


class Entry(NamedTuple):
    """A place in the cache."""

    family: Path
    """The folder of this package, torch and Python."""
    sources: str
    """A digest of the sources."""
    tools: str
    """A digest of the compilers and of the variables that they read."""

    @property
    def folder(self) -> Path:
        return self.family / f"{self.sources}-{self.tools}"

    def find(self) -> Path | None:
        """The extension, if it has been built; by any compiler where there is none."""
        folders: Iterable[Path] = [self.folder]
        if toolchain.find_compiler() is None:
            of_sources = glob.escape(str(self.family / self.sources))
            folders = map(Path, sorted(glob.glob(f"{of_sources}-*")))
        return next(filter(None, map(find_extension, folders)), None)

    def failure(self) -> str | None:
        """That it was built before, to no avail."""
        log = self.folder / LOG
        if not os.path.isfile(log):
            return None
        return f"building it has failed before, see {log}: python -m jumpstart_kernels build tries again"


def cache_folder() -> Path | None:
    """``JUMPSTART_CACHE``, or ``jumpstart_kernels`` in the cache of the user; None without a home."""
    named, of_user = os.environ.get("JUMPSTART_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        if named:
            return Path(named).expanduser().absolute()
        return Path(of_user or "~/.cache").expanduser().absolute() / "jumpstart_kernels"
    except RuntimeError:  # there is no home
        return None


def find_extension(folder: Path) -> Path | None:
    """The extension in a folder that this Python can load."""
    path = folder / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    return path if os.path.isfile(path) else None  # also where it may not be looked for


def find_entry() -> Entry | None:
    """The entry of what is here; None if the sources are not, or no cache is."""
    sources, folder = find_sources(), cache_folder()
    if sources is None or folder is None:
        return None
    python = sysconfig.get_config_var("SOABI") or f"python{sys.version_info.major}{sys.version_info.minor}"
    family = folder / f"{__version__}-torch{torch.__version__}-{python}"
    return Entry(family, _digest_sources(sources), _digest(_describe_tools()))


def find_sources() -> Path | None:
    """The folder with ``csrc``: within an installed package, beside one that is run from its sources."""
    return next((folder for folder in (PACKAGE, PACKAGE.parent) if (folder / "csrc").is_dir()), None)


@cache
def _digest_sources(folder: Path) -> str:
    files = [Path(recipe.__file__), *sorted((folder / "csrc").rglob("*.*"))]
    return _digest(part for file in files for part in (file.name.encode(), file.read_bytes()))


def _describe_tools() -> Iterator[bytes]:
    for tool in (toolchain.find_compiler(), toolchain.find_nvcc()):
        real = os.path.realpath(tool) if tool else ""  # often named by its version
        state = os.stat(real) if real else None
        yield f"{real} {state and (state.st_size, state.st_mtime_ns)}".encode()
    with suppress(AttributeError, ValueError, OSError):  # not glibc
        yield (os.confstr("CS_GNU_LIBC_VERSION") or "").encode()
    for variable in _VARIABLES:
        yield f"{variable}={os.environ.get(variable)}".encode()


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:12]


def build(anew: bool = False, retry: bool = False) -> Path:
    """Build the extension into its entry, or wait for the process that does; returns its file.

    Args:
        anew: even if it is there.
        retry: even if it has failed before.

    Raises:
        BuildError: it cannot be built; the message says why.
    """
    obstacle = toolchain.find_obstacle()
    if obstacle is not None:
        raise BuildError(obstacle)
    entry, sources = find_entry(), find_sources()
    if entry is None or sources is None:
        missing = "its sources (csrc) are not with the package: reinstall it"
        homeless = "there is no home to keep it in: let JUMPSTART_CACHE name a folder"
        raise BuildError(missing if sources is None else homeless)
    started = time.time()
    try:
        lock = _acquire(entry.folder)
    except (OSError, NotImplementedError) as error:
        raise BuildError(
            f"the cache cannot be written ({error}): let JUMPSTART_CACHE name a folder"
        ) from None
    with lock:
        extension, failure = find_extension(entry.folder), entry.failure()
        since = extension or failure and entry.folder / LOG
        by_another = since and since.stat().st_mtime >= started  # while this process waited
        if extension is not None and (by_another or not anew):
            return extension
        if failure is not None and (by_another or not (anew or retry)):
            raise BuildError(failure)
        return _build(entry, sources)


def _acquire(folder: Path) -> AbstractContextManager:
    """The lock of a folder, held until its context ends, or its process, however that ends."""
    from filelock import FileLock, Timeout  # on which torch depends too

    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    try:
        return lock.acquire(blocking=False)
    except Timeout:
        _say(f"waiting for another process, which builds the extension in {folder}")
        return lock.acquire()


def _build(entry: Entry, sources: Path) -> Path:
    """Under the lock: into a folder beside the entry, which takes the entry's place when it is complete."""
    partial = entry.folder.with_name(f"{entry.folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    built, temporary = partial / "built", partial / "temporary"
    temporary.mkdir(parents=True)
    log = partial / LOG
    _say(
        f"building the C++ extension for torch {torch.__version__}, once, in some minutes; it is kept in "
        f"{entry.folder} (JUMPSTART_BUILD=never: go on without it)"
    )
    started = time.monotonic()
    status = _compile([str(built), str(temporary)], sources, log)
    extension = find_extension(built / "jumpstart_kernels")
    if status != 0 or extension is None:
        entry.folder.mkdir(exist_ok=True)  # with what was built before, if anything was
        log.replace(entry.folder / LOG)
        shutil.rmtree(partial, ignore_errors=True)
        raise BuildError(f"building it failed, see {entry.folder / LOG}")
    shutil.rmtree(entry.folder, ignore_errors=True)
    extension.parent.replace(entry.folder)
    shutil.rmtree(partial, ignore_errors=True)
    _say(f"built in {time.monotonic() - started:.0f} s")
    return entry.folder / extension.name


def _compile(folders: list[str], sources: Path, log: Path) -> int:
    """Run the recipe in a process of its own, which setuptools may change as it likes; returns its status."""
    command = [sys.executable, recipe.__file__, *folders]
    variables = {**os.environ, "CXX": os.environ.get("CXX") or str(toolchain.find_compiler())}
    variables["PATH"] = os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", "")))  # ninja
    with open(log, "w") as file:
        # With a group of its own, in which compilers end together with it.
        running = subprocess.Popen(
            command, cwd=sources, env=variables, stdout=file, stderr=file, start_new_session=True
        )
        try:
            return _wait(running)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)


def _wait(running: subprocess.Popen) -> int:
    """The status of a process, at the end; on a terminal with the seconds until then."""
    shown, started = sys.stderr is not None and sys.stderr.isatty(), time.monotonic()
    while True:
        try:
            status = running.wait(timeout=1)
        except subprocess.TimeoutExpired:
            if shown:
                seconds = time.monotonic() - started
                print(f"\rcompiling: {seconds:.0f} s", end="", file=sys.stderr, flush=True)
        else:
            if shown:
                print("\r\033[K", end="", file=sys.stderr, flush=True)
            return status


def _say(text: str) -> None:
    print(f"jumpstart_kernels: {text}", file=sys.stderr, flush=True)
