"""``benchmarks/pruning_keys.py``: it finds the copies and writes what it measured."""

import json

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
