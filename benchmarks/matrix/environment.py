"""An environment of the matrix: a Python, a PyTorch, and a copy of the sources built in place."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from jumpstart_kernels.building.recipe import find_cuda_home

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "build" / "matrix"
TESTS = (
    *("tests/nn", "tests/ops", "tests/surgery"),
    *(f"tests/penalties/test_{name}.py" for name in ("injection", "reduction")),
    *(
        f"tests/test_{name}.py"
        for name in ("checkpointing", "compile", "functional", "golden", "tracers", "transforms")
    ),
)
# What g++ and nvcc compile by themselves: the same with every torch.
WITHOUT_TORCH = tuple(
    f"tests/ops/test_{name}.py"
    for name in (
        "cpu_tasks",
        "cpu_vectors",
        "cuda",
        "cuda_beyond_32_bits",
        "cuda_machine_code",
        "cuda_penalty",
    )
)
BUILD_TOOLS = ("setuptools", "wheel", "pybind11", "ninja", "numpy")
TEST_TOOLS = ("torchmetrics", "hypothesis", "pytest", "pytest-benchmark", "pytest-timeout", "pytest-xdist")


class Environment(NamedTuple):
    """A row of the matrix."""

    name: str
    torch: str  # requirement for pip
    python: Path
    constraints: tuple[str, ...] = ()  # replace those of the development environment
    with_cuda: bool = False  # whether torch must be a CUDA build, so that the CUDA code is built

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    @property
    def sources(self) -> Path:
        return self.folder / "sources"

    def install(self) -> None:
        """Create the virtual environment, or keep it if it has the same requirements."""
        venv, stamp = self.folder / "venv", self.folder / "environment"
        constraints, text = self.folder / "constraints.txt", self._constraints()
        wanted = f"{self.torch}\n{self.python}\n{text}"
        if not stamp.is_file() or stamp.read_text() != wanted:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            constraints.write_text(text)
            run([self.python, "-m", "venv", venv])
        pip: list[str | Path] = [
            venv / "bin" / "python",
            *["-m", "pip", "install", "--quiet", "--disable-pip-version-check"],
        ]
        # Alone, so that pip chooses the build that users get; every time, since the newest version changes.
        run([*pip, "--constraint", constraints, "--upgrade", self.torch])
        run([*pip, "--constraint", constraints, "triton", *BUILD_TOOLS, *TEST_TOOLS])
        stamp.write_text(wanted)

    def _constraints(self) -> str:
        """Those of the development environment, except for what the row replaces."""
        pinned = (ROOT / "constraints.txt").read_text().splitlines()
        replaced = {re.split("[<>=]", line)[0] for line in self.constraints}
        if self.torch != f"torch=={pinned_torch()}":
            replaced |= {"torch", "triton", "setuptools"}  # chosen by torch
        kept = [line for line in pinned if line.partition("==")[0] not in replaced]
        return "\n".join([*kept, *self.constraints, ""])

    def copy_sources(self) -> None:
        """Copy the working tree, since a built extension fits only one PyTorch."""
        listed = run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"], capture=True
        ).splitlines()
        wanted = {self.sources / name for name in listed if (ROOT / name).is_file()}
        for path in self.sources.rglob("*"):
            built = path.suffix == ".so" or "build" in path.relative_to(self.sources).parts
            if path.is_file() and path not in wanted and not built:
                path.unlink()
        for path in wanted:
            original = ROOT / path.relative_to(self.sources)
            if not path.is_file() or path.read_bytes() != original.read_bytes():
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(original, path)

    def build(self) -> None:
        """Compile and link the extension, including the CUDA code for a CUDA build of torch."""
        variables = {"JUMPSTART_BUILD": "require"}
        cuda = self.run(["-c", "import torch; print(torch.version.cuda or '')"], capture=True).strip()
        if self.with_cuda and not cuda:
            raise SystemExit(f"{self.name}: {self.torch} is a build without CUDA")
        if cuda:
            variables |= {"CUDA_HOME": str(find_cuda()), "TORCH_CUDA_ARCH_LIST": "9.0"}
        self.run(["setup.py", "--quiet", "build_ext", "--inplace"], variables)

    def probe(self) -> dict[str, Any]:
        """:func:`benchmarks.matrix.probe.probe` of this environment."""
        found: dict[str, Any] = json.loads(self.run(["-m", "benchmarks.matrix.probe"], capture=True))
        if not found["operators"]["CPU"]:
            raise SystemExit(f"{self.name}: the extension has registered no operators")
        if found["cuda"] and found["operators"]["CUDA"] != found["operators"]["CPU"]:
            raise SystemExit(
                f"{self.name}: the operators of CUDA differ from those of the CPU: {found['operators']}"
            )
        return found

    def test(self, tests: Sequence[str], workers: int) -> dict[str, Any]:
        """Run the tests; returns the counts of passed, failed and skipped ones, and the seconds."""
        report = self.folder / "report.xml"
        report.unlink(missing_ok=True)
        words = ["-m", "pytest", "-q", "-n", str(workers), f"--junitxml={report}", *tests]
        words += [f"--ignore={path}" for path in WITHOUT_TORCH]
        self.run(words, allowed=(0, 1))  # 1: some tests failed
        return read_report(report)

    def run(
        self,
        words: Sequence[str],
        variables: dict[str, str] | None = None,
        capture: bool = False,
        allowed: Sequence[int] = (0,),
    ) -> str:
        python = self.folder / "venv" / "bin" / "python"
        path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"  # for ninja
        environment = {**os.environ, "PATH": path, **(variables or {})}
        return run([python, *words], self.sources, environment, capture, allowed)


def run(
    words: Sequence[str | Path],
    folder: Path = ROOT,
    environment: dict[str, str] | None = None,
    capture: bool = False,
    allowed: Sequence[int] = (0,),
) -> str:
    """Run a program; returns its output if captured. Exits if its status is not allowed."""
    print("$", *words, file=sys.stderr, flush=True)
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE if capture else None,
        text=True,
    )
    if done.returncode not in allowed:
        raise SystemExit(f"this failed, with status {done.returncode}: {' '.join(map(str, words))}")
    return done.stdout or ""


def read_report(path: Path) -> dict[str, Any]:
    """The counts of pytest's JUnit report."""
    suite = ElementTree.parse(path).getroot().find("testsuite")
    assert suite is not None  # pytest writes one
    total, skipped, failed, errors = (
        int(suite.attrib[name]) for name in ("tests", "skipped", "failures", "errors")
    )
    return {
        "passed": total - skipped - failed - errors,
        "skipped": skipped,
        "failed": failed + errors,
        "seconds": round(float(suite.attrib["time"])),
    }


def pinned_torch() -> str:
    """The version of the development environment."""
    return _find(r"^torch==(.+)$", ROOT / "constraints.txt")


def oldest_torch() -> str:
    """The lowest version that the metadata allows."""
    return f"{_find(r'^dependencies = .*torch>=([0-9.]+)', ROOT / 'pyproject.toml')}.0"


def _find(pattern: str, path: Path) -> str:
    match = re.search(pattern, path.read_text(), re.MULTILINE)
    if match is None:
        raise SystemExit(f"{path.name} has no line {pattern}")
    return match[1]


def find_python(version: str, given: Sequence[Path] = ()) -> Path:
    """A Python of a version such as "3.12": a given one, or one on the PATH or in pyenv."""
    on_path = [Path(found) for found in (shutil.which(f"python{version}"), shutil.which("python3")) if found]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    of_pyenv = sorted(pyenv.glob(f"versions/{version}*/bin/python"))
    for python in (*given, Path(sys.executable), *on_path, *of_pyenv):
        asked: list[str | Path] = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        try:
            done = subprocess.run(asked, capture_output=True, text=True)
        except OSError:
            continue
        if done.returncode == 0 and done.stdout.strip() == version:
            return python
    raise SystemExit(f"there is no Python {version}: install it, or name one with --python PATH")


def find_cuda() -> Path:
    """The CUDA toolkit, as the build finds it."""
    home = find_cuda_home()
    if home is None:
        raise SystemExit("there is no CUDA toolkit: install it, or set CUDA_HOME")
    return home
