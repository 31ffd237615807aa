"""A package without the extension builds it when it is first used, and runs by it from then on.

What is compiled in minutes is replaced by the extension that is there; a real build is in
``benchmarks/packages``.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jumpstart_kernels.building import cache, recipe
from jumpstart_kernels.ops import native

BUILT = native.extension() and Path(native.extension().__file__)
needs_extension = pytest.mark.skipif(BUILT is None, reason="no extension is there that could be built")

# Compiling, by copying what is there.
STUB = """
import os, shutil
from pathlib import Path
from jumpstart_kernels.building import cache

def compile_files(folders, sources, log):
    print("compiling", flush=True)
    built = Path(os.environ["BUILT"])
    if built.suffix != ".so":
        log.write_text("no such luck")
        return 1
    folder = Path(folders[0], "jumpstart_kernels")
    folder.mkdir(parents=True)
    for path in (built, built.with_name("_native.json")):
        if path.is_file():
            shutil.copy(path, folder)
    return 0

cache._compile = compile_files
from jumpstart_kernels.ops import OVERLOADS, native
"""
TRAIN = """
import torch, jumpstart_kernels as jk
torch.manual_seed(0)
layer, x = jk.JumpstartReLU(), torch.randn(8, 4, requires_grad=True)
def step():
    jk.clear_records(layer)
    x.grad = None
    (layer(x).sum() + jk.penalty(layer)).backward()
    return x.grad
"""


@pytest.fixture
def run(tmp_path):
    """``run(code, **variables)`` runs code with a package that came without the extension."""
    root = tmp_path / "site"
    leave_out = shutil.ignore_patterns("_native*", "__pycache__")
    shutil.copytree(cache.PACKAGE, root / "jumpstart_kernels", ignore=leave_out)
    shutil.copytree(cache.find_sources() / "csrc", root / "jumpstart_kernels" / "csrc")

    def run(code: str, **variables: str) -> subprocess.CompletedProcess:
        settings = {
            "JUMPSTART_CACHE": str(tmp_path / "cache"),
            "JUMPSTART_BUILD": "auto",
            "BUILT": str(BUILT),
        }
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(root), **settings, **variables},
            capture_output=True,
            text=True,
            timeout=200,
        )

    return run


@needs_extension
def test_it_is_built_once_and_loaded_from_then_on(run):
    code = f"""
{STUB}{TRAIN}
assert native.extension() is None and "native" not in OVERLOADS
assert "is not built" in native.unavailable("cpu")
own = step().clone()
assert native.extension() is not None and list(OVERLOADS)[-1] == "native"
with jk.use_backend("reference"):
    assert torch.equal(own, step())
print(native.extension().__file__)
"""
    first, second = run(code), run(code.split("assert native.extension() is None")[0] + "step()\nprint(1)")
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("compiling\n") and "cache" in first.stdout
    assert "building the C++ extension" in first.stderr and "Warning" not in first.stderr
    assert (second.stdout, second.stderr) == ("1\n", "")


@needs_extension
@pytest.mark.parametrize(
    "first_use",
    [
        "jk.functional.jumpstart_relu(x)",
        "jk.functional.linked_relu(x)",
        "jk.use_backend('native').__enter__()",
        "jk.unit_usage(torch.nn.Sequential(layer), [x.detach()])",
        "torch.compile(layer, fullgraph=True, backend='aot_eager')(x)",
    ],
)
def test_any_use_is_a_first_use(run, first_use):
    done = run(f"{STUB}{TRAIN}{first_use}\nassert native.extension() is not None\nstep()")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "compiling\n"


@needs_extension
def test_of_several_threads_one_builds_and_all_use_it(run):
    code = f"""
{STUB}{TRAIN}
import threading
def use():
    output = jk.functional.jumpstart_relu(x).output
    seen.append(output.grad_fn.name())
seen = []
threads = [threading.Thread(target=use) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(seen), len(set(seen)))
"""
    assert run(code).stdout == "compiling\n4 1\n"


@pytest.mark.parametrize(
    "unused",
    ["", "jk.JumpstartReLU()", "jk.replace_relu(torch.nn.Sequential(torch.nn.ReLU()))"],
)
def test_nothing_is_built_before_its_use(run, unused):
    done = run(f"{STUB}import torch, jumpstart_kernels as jk\n{unused}")
    assert (done.returncode, done.stdout) == (0, "")


def test_info_says_what_the_first_use_will_do(run):
    info = STUB + "from jumpstart_kernels.cli import main; raise SystemExit(main(['info']))"
    out = run(info).stdout
    assert "native     cpu   will be compiled at first use; now: python -m jumpstart_kernels build" in out
    assert "in use" not in out
    assert "reference  cpu   available, in use" in run(info, JUMPSTART_BACKEND="reference").stdout
    out = run(info, JUMPSTART_BUILD="never").stdout
    assert "native     cpu   unavailable: the C++ extension is not built" in out
    assert "reference  cpu   available, in use" in out
    run(f"{STUB}{TRAIN}step()", BUILT="nothing")
    out = run(info).stdout
    assert "reference  cpu   available, in use" in out
    assert "is not built: building it has failed before, see" in out


def test_a_chosen_backend_builds_nothing(run):
    assert run(f"{STUB}{TRAIN}step()", JUMPSTART_BACKEND="reference").stdout == ""


def test_it_can_be_turned_off(run):
    done = run(f"{STUB}{TRAIN}step()", JUMPSTART_BUILD="never")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_build_that_fails_is_said_in_one_warning(run):
    first, second = (run(f"{STUB}{TRAIN}step(); step()", BUILT="nothing") for _ in range(2))
    assert first.stdout == "compiling\n" and second.stdout == ""
    for done in (first, second):
        assert done.returncode == 0
        assert done.stderr.count("UserWarning") == 1
        assert "plain PyTorch, many times slower" in done.stderr and "failed.log" in done.stderr
    assert "build tries again" in second.stderr


def test_a_build_that_fails_is_an_error_where_it_is_required(run):
    done = run(f"{STUB}{TRAIN}step()", BUILT="nothing", JUMPSTART_BUILD="require")
    assert done.returncode == 1
    assert "RuntimeError: JUMPSTART_BUILD=require, but building it failed" in done.stderr


def test_an_extension_that_does_not_load_is_said(run, tmp_path):
    broken = tmp_path / "broken.so"
    broken.write_text("no library")
    stub = STUB.replace(
        "shutil.copy(path, folder)",
        f"shutil.copy(path, folder / {os.path.basename(BUILT or '_native.so')!r})",
    )
    for _ in range(2):
        done = run(f"{stub}{TRAIN}step()", BUILT=str(broken))
        assert done.returncode == 0, done.stderr
        assert "many times slower" in done.stderr and "build compiles it again" in done.stderr
    command = "from jumpstart_kernels.cli import main; raise SystemExit(main(['build']))"
    assert run(STUB + command).returncode == 0  # it is compiled again, by what does not write a broken file
    assert run(f"{STUB}{TRAIN}step()\nassert native.extension() is not None").stderr == ""


@needs_extension
def test_an_extension_of_another_torch_is_not_loaded(run, tmp_path):
    package = tmp_path / "site" / "jumpstart_kernels"
    shutil.copy(BUILT, package)
    (package / recipe.RECORD).write_text('{"torch": "1.0.0", "cuda": null}')
    code = f"{STUB}{TRAIN}print(native.unavailable('cpu'))\nstep()\nprint(native.extension().__file__)"
    done = run(code)
    assert done.returncode == 0, done.stderr
    why, compiling, file = done.stdout.splitlines()
    assert "that came with the package is built for torch 1.0.0, and here is" in why
    assert compiling == "compiling" and str(tmp_path / "cache") in file


@needs_extension
def test_the_command_builds_what_is_missing(run, tmp_path):
    command = "from jumpstart_kernels.cli import main; raise SystemExit(main(['build', *{}]))"
    first, second, third = (run(STUB + command.format(words)) for words in ([], [], ["--anew"]))
    assert first.returncode == second.returncode == third.returncode == 0
    path = first.stdout.splitlines()[1]
    assert Path(path).is_file()
    assert (second.stdout, third.stdout) == (f"{path}\n", f"compiling\n{path}\n")
    failed = run(STUB + command.format(["--anew"]), BUILT="nothing")
    assert failed.returncode == 2 and failed.stderr.splitlines()[-1].startswith(
        "error: building it failed, see"
    )
    shutil.copy(BUILT, tmp_path / "site" / "jumpstart_kernels")
    assert "nothing to do" in run(STUB + command.format([])).stdout
