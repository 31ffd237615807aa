"""What is built is kept, and only used where it fits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from jumpstart_kernels.building import cache, toolchain


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JUMPSTART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compiled(monkeypatch):
    """Instead of compiling: the calls, each of which leaves a file; or not, if its place in ``fails`` is."""

    class Calls(list):
        fails = False

    calls = Calls()

    def compile_files(folders, sources, log):
        calls.append(sources)
        log.write_text("error: expected ';'")
        if not calls.fails:
            file = Path(
                folders[0], "jumpstart_kernels", f"_native{cache.sysconfig.get_config_var('EXT_SUFFIX')}"
            )
            file.parent.mkdir(parents=True)
            file.write_text(f"build {len(calls)}")
        return int(calls.fails)

    monkeypatch.setattr(cache, "_compile", compile_files)
    return calls


def test_what_is_built_is_kept(compiled, folder, capsys):
    assert cache.find_entry().find() is None
    path = cache.build()
    assert path.read_text() == "build 1"
    assert folder in path.parents
    assert cache.find_entry().find() == cache.build() == path
    assert len(compiled) == 1
    assert (compiled[0] / "csrc" / "bindings.cpp").is_file()
    said = capsys.readouterr().err
    assert (
        f"torch {torch.__version__}" in said and str(path.parent) in said and "JUMPSTART_BUILD=never" in said
    )
    assert sorted(each.name for each in path.parent.iterdir()) == [path.name]
    assert [each.name for each in path.parent.parent.iterdir() if each.is_dir()] == [path.parent.name]


def test_it_is_built_anew_if_asked_for(compiled):
    cache.build()
    assert cache.build(anew=True).read_text() == "build 2"
    assert cache.build(retry=True).read_text() == "build 2"


def test_a_build_that_fails_is_not_tried_again_unless_asked_for(compiled):
    compiled.fails = True
    with pytest.raises(cache.BuildError, match="failed, see .*failed.log") as error:
        cache.build()
    assert Path(str(error.value).rpartition(" ")[2]).read_text() == "error: expected ';'"
    with pytest.raises(cache.BuildError, match="failed before, see .*failed.log: .* build tries again"):
        cache.build()
    assert len(compiled) == 1
    compiled.fails = False
    path = cache.build(retry=True)
    assert path.read_text() == "build 2"
    assert cache.build() == path
    assert not (path.parent / "failed.log").exists()


def test_a_rebuild_that_fails_leaves_what_was_there(compiled):
    path = cache.build()
    compiled.fails = True
    with pytest.raises(cache.BuildError, match="failed.log"):
        cache.build(anew=True)
    assert cache.find_entry().find() == cache.build() == path
    assert path.read_text() == "build 1"


def test_what_a_killed_build_leaves_is_in_nobodys_way(compiled, folder):
    entry = cache.find_entry()
    partial = entry.folder.with_name(f"{entry.folder.name}.partial")
    (partial / "built" / "jumpstart_kernels").mkdir(parents=True)
    entry.folder.with_name(f"{entry.folder.name}.lock").touch()
    assert entry.find() is None
    assert cache.build().read_text() == "build 1"
    assert not partial.exists()


def change_torch(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "9.9.0")


def change_sources(monkeypatch):
    monkeypatch.setattr(cache, "_digest_sources", lambda folder: "0" * 12)


def change_compiler(monkeypatch):
    monkeypatch.setattr(toolchain, "find_compiler", lambda: sys.executable)


def change_nvcc(monkeypatch):
    monkeypatch.setattr(toolchain, "find_nvcc", lambda: sys.executable)


def change_python(monkeypatch):
    known = cache.sysconfig.get_config_var
    change = {"SOABI": "cpython-399-x86_64-linux-gnu"}
    monkeypatch.setattr(cache.sysconfig, "get_config_var", lambda name: change.get(name) or known(name))


def change_flags(monkeypatch):
    monkeypatch.setenv("CXXFLAGS", "-g")


@pytest.mark.parametrize(
    "change", [change_torch, change_sources, change_compiler, change_nvcc, change_python, change_flags]
)
def test_another_torch_source_or_compiler_has_its_own(compiled, monkeypatch, change):
    first = cache.build()
    with monkeypatch.context() as changed:
        change(changed)
        assert cache.find_entry().find() is None
        assert cache.build() != first
    assert cache.build() == first


def test_sources_of_other_content_have_another_digest(tmp_path):
    digests = []
    for name, text in (("a.h", "1"), ("a.h", "2"), ("b.h", "2")):
        folder = tmp_path / f"{name}{text}"
        (folder / "csrc" / "cpu").mkdir(parents=True)
        (folder / "csrc" / "cpu" / name).write_text(text)
        digests.append(cache._digest_sources(folder))
    assert len(set(digests)) == 3


def test_where_there_is_no_compiler_any_build_of_these_sources_serves(compiled, monkeypatch):
    path = cache.build()
    monkeypatch.setattr(toolchain, "find_compiler", lambda: None)
    assert cache.find_entry().find() == path
    change_torch(monkeypatch)
    assert cache.find_entry().find() is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    tmp_path.chmod(0o500)
    with pytest.raises(cache.BuildError, match="JUMPSTART_CACHE"):
        cache.build()


def test_a_file_in_place_of_the_folder_is_named(folder):
    folder.write_text("")
    with pytest.raises(cache.BuildError, match="cannot be written .*: let JUMPSTART_CACHE name a folder"):
        cache.build()


def test_without_a_home_it_is_said(monkeypatch):
    def expanduser(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("JUMPSTART_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", expanduser)
    assert cache.find_entry() is None
    with pytest.raises(cache.BuildError, match="no home to keep it in: let JUMPSTART_CACHE name a folder"):
        cache.build()


def test_a_folder_that_may_not_be_read_holds_nothing(monkeypatch, folder):
    def stat(path, **options):
        raise PermissionError(path)

    entry = cache.find_entry()
    monkeypatch.setattr(toolchain, "find_compiler", lambda: None)
    monkeypatch.setattr(cache.os, "stat", stat)
    assert entry.find() is None and entry.failure() is None


def test_without_sources_it_is_said(monkeypatch):
    monkeypatch.setattr(cache, "find_sources", lambda: None)
    with pytest.raises(cache.BuildError, match="reinstall it"):
        cache.build()


def test_without_a_compiler_nothing_is_tried(compiled, folder, monkeypatch):
    monkeypatch.setattr(toolchain, "find_obstacle", lambda: "there is no C++ compiler")
    with pytest.raises(cache.BuildError, match="there is no C"):
        cache.build()
    assert not compiled and not folder.exists()


SLOW = """
import os, sys, time
from pathlib import Path
from jumpstart_kernels.building import cache

def compile_files(folders, sources, log):
    print("compiling", flush=True)
    time.sleep(float(sys.argv[1]))
    file = Path(folders[0], "jumpstart_kernels", "_native" + cache.sysconfig.get_config_var("EXT_SUFFIX"))
    file.parent.mkdir(parents=True)
    file.write_text("")
    return 0

cache._compile = compile_files
cache.build()
"""


def start(seconds: float) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    root = str(cache.PACKAGE.parent)
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, str(seconds)], env={**os.environ, "PYTHONPATH": root}, **pipes
    )


def test_one_process_builds_and_the_others_wait_for_it(folder):
    processes = [start(3) for _ in range(3)]
    ends = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert "".join(out for out, _ in ends) == "compiling\n"


def test_a_process_that_is_killed_leaves_no_lock(folder):
    killed = start(100)
    assert killed.stdout.readline() == "compiling\n"
    waiting = start(0)
    while "waiting for another process" not in waiting.stderr.readline():
        time.sleep(0.01)
    killed.kill()
    assert waiting.communicate(timeout=60)[0] == "compiling\n"
    assert waiting.returncode == 0


# In place of the recipe: a compiler that goes on for long.
COMPILING = """
import importlib.util, os, subprocess, sys, threading
from pathlib import Path
spec = importlib.util.spec_from_file_location("recipe", sys.argv[1])
recipe = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recipe)
threading.Thread(target=recipe.end_with, args=(os.getppid(),), daemon=True).start()
compiler = subprocess.Popen(["sleep", "300"])
print("error: expected ';'", flush=True)
Path(sys.argv[2]).write_text(str(compiler.pid))
compiler.wait()
"""
COMPILE = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job may have ignored
from jumpstart_kernels.building import cache, recipe
arguments, recipe.__file__ = [recipe.__file__, sys.argv[2]], sys.argv[1]
cache._compile(arguments, Path("."), Path(sys.argv[3]))
"""


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked for in /proc")
@pytest.mark.parametrize("ends", [signal.SIGKILL, signal.SIGINT])
def test_compilers_end_with_the_process_that_wanted_them(tmp_path, ends):
    script, compiler, log = tmp_path / "recipe.py", tmp_path / "compiler", tmp_path / "log"
    script.write_text(COMPILING)
    root = str(cache.PACKAGE.parent)
    words = [sys.executable, "-c", COMPILE, str(script), str(compiler), str(log)]
    building = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": root}, stderr=subprocess.DEVNULL)
    while not (compiler.exists() and compiler.read_text()):
        assert building.poll() is None
        time.sleep(0.05)
    process = int(compiler.read_text())
    assert runs(process) and log.read_text() == "error: expected ';'\n"
    building.send_signal(ends)
    building.wait()
    until = time.monotonic() + 30
    while runs(process) and time.monotonic() < until:
        time.sleep(0.1)
    assert not runs(process)
