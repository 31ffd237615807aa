"""The matrix of versions: requirements, interpreters and toolkits, and the counts of pytest's report."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.matrix import environment
from benchmarks.matrix.__main__ import OLDEST_CONSTRAINTS, make_parser, make_table
from benchmarks.matrix.environment import (
    ROOT,
    TESTS,
    WITHOUT_TORCH,
    Environment,
    find_python,
    oldest_torch,
    pinned_torch,
    read_report,
)

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def test_versions_are_those_of_the_metadata():
    assert f"torch>={oldest_torch().removesuffix('.0')}" in (ROOT / "pyproject.toml").read_text()
    assert f"torch=={pinned_torch()}\n" in (ROOT / "constraints.txt").read_text()


def test_all_its_tests_are_there():
    assert all((ROOT / path).exists() for path in (*TESTS, *WITHOUT_TORCH))


def test_constraints_leave_out_what_the_row_says():
    pinned = Environment("pinned", f"torch=={pinned_torch()}", Path(sys.executable))._constraints()
    assert pinned.splitlines() == (ROOT / "constraints.txt").read_text().splitlines()
    oldest = Environment("oldest", "torch==2.11.0", Path(sys.executable), OLDEST_CONSTRAINTS)._constraints()
    assert "numpy<2.4" in oldest.splitlines() and "pytest==" in oldest
    assert not any(name in oldest for name in ("torch==", "triton==", "setuptools==", "numpy=="))


def test_a_python_is_found_or_named(monkeypatch, tmp_path):
    assert find_python(HERE) == Path(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    with pytest.raises(
        SystemExit, match="there is no Python 3.4: install it, or name one with --python PATH"
    ):
        find_python("3.4", [tmp_path / "missing"])
    python = tmp_path / "versions" / "3.4.1" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho 3.4\n")
    python.chmod(0o755)
    assert find_python("3.4") == python


def test_a_toolkit_is_found_or_named(monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").touch()
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "cuda_runtime.h").touch()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert environment.find_cuda() == tmp_path
    (tmp_path / "bin" / "nvcc").unlink()
    with pytest.raises(SystemExit, match="there is no CUDA toolkit"):
        environment.find_cuda()


def test_the_report_of_pytest_is_counted(tmp_path):
    tests = "import pytest\ndef test_a(): pass\ndef test_b(): assert False\n@pytest.fixture\ndef x(): 1 / 0\n"
    tests += "def test_c(x): pass\n@pytest.mark.skip(reason='so')\ndef test_d(): pass\ndef test_e(): pass\n"
    (tmp_path / "test_it.py").write_text(tests)
    words = [sys.executable, "-m", "pytest", "-q", "--junitxml=report.xml", "-c", "/dev/null", "test_it.py"]
    subprocess.run(words, cwd=tmp_path, capture_output=True)
    counts = read_report(tmp_path / "report.xml")
    assert counts.pop("seconds") >= 0
    assert counts == {"passed": 2, "skipped": 1, "failed": 2}


def test_the_table_has_a_line_for_each_row():
    row = {
        "python": "3.12.1",
        "torch": "2.11.0+cu130",
        "triton": "3.6.0",
        "instruction_set": "avx2",
        "extension": {"file": "_native.so", "bytes": 7_654_321, "cuda": "13.0"},
        "operators": {"CPU": ["a", "b"], "CUDA": ["a", "b"]},
        "passed": 2400,
        "skipped": 10,
        "failed": 0,
    }
    plain = {**row, "triton": None, "extension": {**row["extension"], "cuda": None}}
    lines = make_table({"oldest": row, "newest": plain}).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert "| built for 13.0, 2 operators | avx2 | 2,400 | 10 | 0 | 7.7 MB |" in lines[2]
    assert "| none | not built |" in lines[3]


def test_programs_that_fail_end_it():
    assert environment.run([sys.executable, "-c", "print('out')"], capture=True) == "out\n"
    assert environment.run([sys.executable, "-c", "exit(1)"], allowed=(0, 1)) == ""
    with pytest.raises(SystemExit, match="this failed, with status 5"):  # pytest that has collected nothing
        environment.run([sys.executable, "-c", "exit(5)"], allowed=(0, 1))


def test_words():
    assert make_parser().parse_args([]).tests == list(TESTS)
    assert make_parser().parse_args(["--only", "oldest"]).only == ["oldest"]
