"""``benchmarks/pruning_keys.py``: it finds the copies and writes what it measured."""

import json

import pytest

from benchmarks import pruning_keys


def test_a_small_layer(tmp_path, capsys):
    file = tmp_path / "keys.json"
    words = ["--units", "64", "--samples", "500", "--rounds", "2", "--device", "cpu", "--output", str(file)]
    assert pruning_keys.main(words) == 0
    results = json.loads(file.read_text())
    assert results["units"] == 64 and results["samples"] == 500
    assert [len(record["seconds"]) for record in results["functions"]] == [2, 2, 2]
    assert results["functions"][0]["same_order"] == 2
    assert "redundant_pairs" in capsys.readouterr().out


def test_what_is_measured_stays_when_it_is_interrupted(tmp_path, monkeypatch):
    def interrupted(values):
        raise KeyboardInterrupt

    monkeypatch.setattr(pruning_keys, "permutation_keys", interrupted)
    file = tmp_path / "keys.json"
    words = ["--units", "64", "--samples", "500", "--rounds", "1", "--device", "cpu", "--output", str(file)]
    with pytest.raises(KeyboardInterrupt):
        pruning_keys.main(words)
    results = json.loads(file.read_text())
    assert [record["name"] for record in results["functions"]] == ["redundant_pairs", "passed_on"]
