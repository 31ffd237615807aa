"""``benchmarks/kernels.py``: what it refuses, and on a GPU the kernels it finds."""

import json

import pytest
import torch

pytest.importorskip("rich", reason="the benchmark prints with rich")

from benchmarks import kernels


def test_kernel_times_name_a_missing_folder_before_any_work(capsys):
    with pytest.raises(SystemExit):
        kernels.main(["--output", "nowhere/x.json"])
    assert "argument --output: there is no folder nowhere" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_kernel_times_need_a_gpu(capsys):
    with pytest.raises(SystemExit):
        kernels.main([])
    assert "needs a CUDA device" in capsys.readouterr().err


def test_results_are_there_as_they_come(tmp_path, capsys):
    """Also if a later case fails."""
    output, cases = tmp_path / "kernels.json", [kernels.Case((2, 3)), kernels.Case((4, 5))]

    def measure(case):
        if case == cases[1]:
            raise KeyboardInterrupt
        return {"shape": list(case.shape)}

    with pytest.raises(KeyboardInterrupt):
        kernels.run_cases(["command"], cases, torch.device("cpu"), measure, str, output)
    results = json.loads(output.read_text())
    assert results["cases"] == [{"shape": [2, 3]}] and results["machine"]["command"] == "command"
    assert "{'shape': [2, 3]}" in capsys.readouterr().out


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_kernel_times(tmp_path):
    output = tmp_path / "kernels.json"
    assert kernels.main(["--shape", "256x4", "--output", str(output)]) == 0
    (case,) = json.loads(output.read_text())["cases"]
    plain, *others = case["peers"]
    assert [kernel["launches"] for kernel in plain["kernels"]] == [1, 1]
    for peer in others:
        assert any("jumpstart_activation_forward" in kernel["kernel"] for kernel in peer["kernels"])
