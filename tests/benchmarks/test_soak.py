"""``benchmarks/soak.py``: what it counts, and that it sees what is left behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import jumpstart_kernels as jk
from benchmarks import soak
from jumpstart_kernels.demo.training import one_thread


@pytest.fixture(autouse=True)
def threads():
    with one_thread():
        yield


def test_nothing_is_left_behind(tmp_path):
    """In a process of its own, since other tests' tensors come and go in theirs."""
    file = tmp_path / "soak.json"
    command = [sys.executable, "-m", "benchmarks.soak", "--steps", "480", "--output", str(file)]
    root = Path(soak.__file__).parents[1]
    subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=230, check=False)
    phases = json.loads(file.read_text())["phases"]
    assert [phase["phase"] for phase in phases] == ["eager", "checkpointed", "compiled"]
    for phase in phases:
        half = phase["samples"][soak.SAMPLES // 2 :]
        assert all(sample["graphs"] == 0 for sample in phase["samples"]), phase
        assert len({sample["tensors"] for sample in half}) == 1, phase


def test_every_event_comes_up_in_that_many_steps(monkeypatch):
    trainer, seen = soak.Trainer("eager"), []
    for owner, name in (
        (jk, "clear_records"),
        (jk, "unit_usage"),
        (trainer, "fail"),
        (trainer.model, "eval"),
    ):
        original = getattr(owner, name)

        def spy(*args, name=name, original=original):
            seen.append(name)
            return original(*args)

        monkeypatch.setattr(owner, name, spy)
    for number in range(1, 601):
        trainer.train_step(number)
    assert seen.count("fail") == 6 and seen.count("clear_records") == 14 + 6
    assert seen.count("unit_usage") == 1 and seen.count("eval") >= 12


class KeepsRecords(soak.Trainer):
    """What a penalty that took no records would do: every forward's stay."""

    def train_step(self, number):
        self.forward(soak.BATCH)


class KeepsTensors(soak.Trainer):
    kept: list[torch.Tensor] = []

    def train_step(self, number):
        super().train_step(number)
        self.kept.append(torch.ones(1))


def test_what_is_left_behind_is_seen():
    with pytest.warns(UserWarning, match="no penalty"):
        record = soak.run_phase("eager", 1000, KeepsRecords("eager"), count=2)
    graphs = [sample["graphs"] for sample in record["samples"]]
    assert graphs[0] == soak.WARM_UP and graphs[-1] == soak.WARM_UP + 1000 and not record["flat"]
    assert not soak.run_phase("eager", 100, KeepsTensors("eager"), count=2)["flat"]


def test_growth_is_the_slope_of_the_second_half():
    def samples(memory):
        return [
            {"step": 10 * i, "resident_bytes": value, "tensors": 5, "graphs": 0}
            for i, value in enumerate(memory)
        ]

    most = soak.MAX_GROWTH
    rising = [most // 4 * i for i in range(11)]
    assert tuple(soak.judge(samples(rising)).values()) == (5 * most // 4, 5 * most // 4, False)
    settled = [min(value, most) for value in rising]
    assert tuple(soak.judge(samples(settled)).values()) == (0, 0, True)
    once = [most * (i == 10) for i in range(11)]
    assert tuple(soak.judge(samples(once)).values()) == (0, most, True)
    in_steps = [most * (i // 2) for i in range(11)]
    assert not soak.judge(samples(in_steps))["flat"]
    assert tuple(soak.judge(samples([None] * 11)).values()) == (None, None, True)


def test_the_command(tmp_path, capsys):
    file = tmp_path / "soak.json"
    status = soak.main(["--steps", "200", "--only", "eager", "--output", str(file)])
    results = json.loads(file.read_text())
    (phase,) = results["phases"]
    assert phase["steps"] == 200 and len(phase["samples"]) == soak.SAMPLES + 1
    assert status == int(not phase["flat"])  # other tests share this process, and its memory
    assert "eager" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        soak.main(["--steps", "3"])
    assert "--steps: must be 120 or more, got 3" in capsys.readouterr().err


def test_the_model_has_every_kind_of_relu():
    layers = [module for module in soak.make_model("eager").modules() if isinstance(module, nn.ReLU)]
    assert {type(layer) for layer in layers} == {jk.JumpstartReLU}
    assert sorted(layer.inplace for layer in layers) == [False, False, True]
