"""``benchmarks/gpu.sh``: wrong arguments are reported before any stage runs."""

import shutil
import subprocess

import pytest

from benchmarks.report.documents import ROOT


@pytest.mark.skipif(shutil.which("bash") is None, reason="the script for a GPU machine needs bash")
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--device", "tpu"], "--device must be cuda or cpu, got 'tpu'"),
        (["--fast"], "unknown argument --fast"),
        (
            ["smoke", "nonsense"],
            "unknown argument nonsense: there are --device cuda|cpu, --quick and the stages",
        ),
    ],
)
def test_mistakes_of_the_gpu_script(arguments, message):
    script = ROOT / "benchmarks" / "gpu.sh"
    result = subprocess.run(["bash", script, *arguments], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "") and message in result.stderr
