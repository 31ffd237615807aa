"""``benchmarks/watching.py``: it measures what it says, and writes it."""

import json

from torch import nn

from benchmarks import watching


def test_a_network(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(watching, "EVERY", 3)
    file = tmp_path / "watching.json"
    words = ["--network", "50 layers of 4 units", "--rounds", "2", "--device", "cpu", "--output", str(file)]
    assert watching.main(words) == 0
    results = json.loads(file.read_text())
    (record,) = results["networks"]
    assert record["rounds"] == 2 and record["plain"]["ratio"] == 1
    assert (record["watched"]["iterations"], record["observed"]["iterations"]) == (3, watching.OBSERVED)
    assert all(record[name]["median"] > 0 for name in watching.VARIANTS)
    assert "ratio watched" in capsys.readouterr().out


def test_networks_with_gelu_have_no_relu():
    model = watching.with_gelu(nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()), nn.ReLU()))
    assert [type(module) for module in model.modules()].count(nn.GELU) == 2
    assert not any(isinstance(module, nn.ReLU) for module in model.modules())
