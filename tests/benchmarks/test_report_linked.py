"""The table and the goals of linked activations, from made-up results."""

import pytest
from made_up_results import make_linked, verdicts, write

pytest.importorskip("matplotlib", reason="the figures are drawn with matplotlib")

from benchmarks.report import tables

ON_THE_CPU = "linked activations, fp32 64x64x56x56 and 4096x4096, relative to"
ON_A_GPU = "linked activations, 256 MiB and more, relative to"
EAGER, COMPILED = "cat(g(x), g(-x))", "the same compiled"


def test_goals_of_the_cpu_are_those_without_a_penalty(tmp_path):
    for linked, compiled, met in ((0.5, 0.4, (True, False)), (0.7, 0.8, (False, True))):
        write(tmp_path / "cpu_linked.json", make_linked(compiled=compiled, native=(linked, 9.0)))
        found = verdicts(tmp_path)
        assert found[f"{ON_THE_CPU} {EAGER}, native"] == (linked, met[0])
        assert found[f"{ON_THE_CPU} {COMPILED}, native"] == (pytest.approx(linked / compiled), met[1])


def test_a_wrong_layer_misses_its_goals(tmp_path):
    results = make_linked()
    results["cases"][0]["peers"][1] |= {"failure": "wrong output", "passes": {}}
    write(tmp_path / "cpu_linked.json", results)
    found = verdicts(tmp_path)
    assert [found[f"{ON_THE_CPU} {which}, native"][1] for which in (EAGER, COMPILED)] == [False, False]


def test_goals_of_a_gpu_are_of_large_cases_and_each_backend(tmp_path):
    results = make_linked((16384, 16384), "bfloat16", native=(0.3, 1), triton=(0.7, 1))
    results["cases"] += make_linked((256, 4), native=(5, 5), triton=(5, 5))["cases"]
    write(tmp_path / "cuda_linked.json", results)
    found = verdicts(tmp_path)
    assert found[f"{ON_A_GPU} {EAGER}, native"] == (0.3, True)
    assert found[f"{ON_A_GPU} {EAGER}, triton"] == (0.7, False)
    assert found[f"{ON_A_GPU} {COMPILED}, native"] == (pytest.approx(0.75), True)


def test_the_table_has_a_row_for_each_case(tmp_path):
    write(tmp_path / "cpu_linked.json", make_linked())
    machine, _, header, _, *rows = tables.make_tables(tmp_path)["linked-cpu"].splitlines()
    assert machine.startswith("Made-up") and header.startswith(
        "| in PyTorch | input | dtype | layout | time |"
    )
    assert rows == [
        "| `cat(relu(x), relu(-x))` | 4096×4096 | float32 | contiguous | 3.00 s | 0.25 | 0.30 | 0.40 |"
    ]
