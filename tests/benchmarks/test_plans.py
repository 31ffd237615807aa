"""``benchmarks/plans.py``: the parameters are those of the kernels, and what it refuses."""

import json
import re
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("rich", reason="the benchmark prints with rich")

from rich.console import Console

from benchmarks import plans
from benchmarks.report.documents import ROOT
from jumpstart_kernels.ops import backends


def test_parameters_are_those_of_the_kernels():
    header, bindings = ((ROOT / "csrc" / name).read_text() for name in ("cuda/plan.h", "bindings.cpp"))
    (text,) = re.findall(r"struct PlanParameters \{(.*?)\n\};", header, re.DOTALL)
    assert re.findall(r"int64_t (\w+) =", text) == list(plans.VALUES)
    assert re.findall(r'"(\w+)", &PlanParameters::(\w+)', bindings) == [(name, name) for name in plans.VALUES]
    defaults = dict(re.findall(r"int64_t (\w+) = (\d+)", text))
    assert not [name for name, values in plans.VALUES.items() if int(defaults[name]) in values]


def test_a_parameter_is_changed_for_a_while():
    parameters = SimpleNamespace(forward_steps=16)
    with pytest.raises(KeyError), plans.changed(parameters, "forward_steps", 4):
        assert parameters.forward_steps == 4
        raise KeyError
    with plans.changed(parameters, None, None):
        assert parameters.forward_steps == 16


def test_the_table_compares_with_the_defaults():
    def times(seconds):
        return {"median": seconds, "seconds": [seconds]}

    record = {
        "shape": [8, 8], "dtype": "float32", "layout": "contiguous", "bias": False,
        "settings": [
            {"parameter": None, "value": None, "forward": times(4e-6), "backward": times(2e-6)},
            {"parameter": "forward_steps", "value": 4, "forward": times(5e-6), "backward": times(2e-6)},
        ],
    }  # fmt: skip
    console = Console(width=120)
    with console.capture() as captured:
        console.print(plans.make_table(record, SimpleNamespace(forward_steps=16)))
    (row,) = (line for line in captured.get().splitlines() if "forward_steps" in line)
    assert re.findall(r"[\w.]+", row) == ["forward_steps", "16", "4", "5.0", "1.250", "2.0", "1.000"]


def test_a_missing_folder_is_named_before_any_work(capsys):
    with pytest.raises(SystemExit):
        plans.main(["--output", "nowhere/x.json"])
    assert "argument --output: there is no folder nowhere" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_needs_a_gpu(capsys):
    with pytest.raises(SystemExit):
        plans.main([])
    assert "needs a CUDA device" in capsys.readouterr().err


@pytest.mark.gpu
def test_times_of_every_setting(tmp_path, monkeypatch):
    reason = backends.unavailable("native", "cuda")
    if reason is not None:
        pytest.skip(f"native on cuda: {reason}")
    monkeypatch.setattr(plans, "CASES", (plans.Case((2048, 1024)), plans.Case((16, 64, 28, 28), bias=True)))
    output = tmp_path / "plans.json"
    assert plans.main(["--rounds", "1", "--output", str(output)]) == 0
    for case in json.loads(output.read_text())["cases"]:
        assert len(case["settings"]) == 1 + sum(map(len, plans.VALUES.values()))
        for setting in case["settings"]:
            assert setting["forward"]["median"] > 0 and setting["backward"]["median"] > 0
