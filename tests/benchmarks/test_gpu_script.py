"""``benchmarks/gpu.sh``: its arguments, its plan, and what becomes of a stage that has no time."""

import os
import re
import shutil
import signal
import subprocess

import pytest

from benchmarks.report.documents import ROOT

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None, reason="the script for a GPU machine needs bash"
)
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
MOST_FILES = 8  # of a run, as many as a machine may give back
PROGRAM = """#!/bin/bash
# In place of Python: it writes an empty file of results, and is said to go on for a minute, or not.
while [ $# -gt 0 ]; do
  case $1 in
    --output) touch "$2" ;;
    benchmarks.goals) echo the table of goals; exit ;;
    import*) exit 1 ;; # there is no xdist
    --collect-only) echo test_one.py::test_one ;;
  esac
  shift
done
[ -z "${SLOW:-}" ] || { trap "echo told to end; exit 130" INT; sleep 60 & wait; }
"""


def plan():
    """``(stage, limit, run, limit there)``"""
    rows = re.search(r'^plan="\n(.*?)"$', SCRIPT.read_text(), re.DOTALL | re.MULTILINE)[1]
    split = [row.split() for row in rows.splitlines()]
    return [(name, int(limit), run, int(there)) for name, limit, run, there in split]


def run_seconds():
    found = re.search(r"run_seconds=\((.*)\)", SCRIPT.read_text())[1]
    return {run: int(seconds) for run, seconds in re.findall(r"\[(\w+)\]=(\d+)", found)}


def number(name):
    return int(re.search(rf"^{name}=(\d+)", SCRIPT.read_text(), re.MULTILINE)[1])


@pytest.fixture
def start(tmp_path):
    """Run the script, beside nothing of the project, with a program in place of Python."""
    for folder in ("benchmarks", "tests"):
        (tmp_path / folder).mkdir()
    script, python = shutil.copy(SCRIPT, tmp_path / "benchmarks"), tmp_path / "python"
    python.write_text(PROGRAM)
    python.chmod(0o755)

    def run(*words, **variables):
        environment = {**os.environ, "PYTHON": str(python), "OUT": str(tmp_path / "out"), **variables}
        return subprocess.run(
            ["bash", script, *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            # As a shell does it for a program in the background.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        )

    return run


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--device", "tpu"], "--device must be cuda or cpu, got 'tpu'"),
        (["--fast"], "unknown argument --fast"),
        (["smoke", "nonsense"], "unknown argument nonsense: there are --device cuda|cpu, --quick"),
        (["--run", "fourth"], "--run must be first, second or third, got 'fourth'"),
        (["--run"], "--run needs a value"),
        (["--run", "first", "smoke"], "--run first and the stage smoke exclude each other"),
        (["--seconds", "0"], "--seconds and --minutes must be positive integers, got '0'"),
        (["--minutes", "1.5"], "--seconds and --minutes must be positive integers, got '1.5'"),
    ],
)
def test_mistakes_of_the_gpu_script(arguments, message):
    result = subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "") and message in result.stderr


def test_planned_runs_fit_in_their_seconds():
    rest = {"build", "cifar"}  # one is not needed with what is prepared, the other has what is left
    for run, seconds in run_seconds().items():
        there = [limit for name, _, its_run, limit in plan() if its_run == run and name not in rest]
        assert 0.6 * seconds < sum(there) + number("spare") <= seconds
    assert {run for _, _, run, _ in plan()} == {*run_seconds()}
    assert all(min(limit, there) >= number("least") + 5 for _, limit, _, there in plan())


@pytest.mark.parametrize("run", ["first", "second", "third"])
def test_a_planned_run(run, start, tmp_path):
    done = start("--run", run, CIFAR="images.npz")
    assert done.returncode == 0, done.stdout
    said = re.findall(r"^(\w+) +\d+ s  ok$|^(\w+) .* skipped: compute-sanitizer", done.stdout, re.MULTILINE)
    ran = list(dict.fromkeys(one or other for one, other in said))
    assert ran == [name for name, _, its_run, _ in plan() if its_run == run]
    assert done.stdout.endswith("the table of goals\n")
    assert len(os.listdir(tmp_path / "out")) <= MOST_FILES


def test_a_quick_run_leaves_the_stored_results_alone(start, tmp_path):
    for words, folder in ((["--quick"], "build/quick"), ([], "benchmarks/results")):
        assert start("--device", "cpu", "operator_short", *words, OUT="").returncode == 0
        written = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("cpu_operator.json")]
        assert f"{folder}/cpu_operator.json" in written
        assert words == [] or len(written) == 1


def test_stages_without_time_are_skipped(start):
    done = start("--seconds", str(number("spare") + 1), "info", "smoke")
    assert done.returncode == 0
    assert re.search(r"^info .* skipped: only [01] s are left$", done.stdout, re.MULTILINE)
    assert re.search(r"^smoke .* skipped: only [01] s are left$", done.stdout, re.MULTILINE)
    assert done.stdout.endswith("the table of goals\n")


def test_a_stage_is_stopped_in_time_for_the_table(start, tmp_path):
    seconds = number("spare") + number("least") + 1
    done = start("--seconds", str(seconds), "info", "smoke", SLOW="1")
    assert done.returncode == 1
    assert re.search(r"^info +1\d s  stopped after 1\d s$", done.stdout, re.MULTILINE)
    assert re.search(r"^smoke .* skipped", done.stdout, re.MULTILINE)
    assert "told to end" in (tmp_path / "out" / "cuda.log").read_text()
    assert done.stdout.endswith("the table of goals\n")
