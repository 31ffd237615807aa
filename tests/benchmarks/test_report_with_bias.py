"""Tables and goals of made-up results with a bias, which stay apart from those without."""

import json

import pytest
from made_up_results import BIAS, MACHINE, make_case, make_steps, verdicts, write

pytest.importorskip("matplotlib", reason="the figures are drawn with matplotlib")

from benchmarks import goals
from benchmarks.report import figures, tables


def test_cases_with_a_bias_have_goals_and_a_table_of_their_own(folder):
    """Wherever they are stored."""
    before = tables.make_tables(folder)
    with_bias = [
        make_case((64, 64, 56, 56), fields=BIAS, native=(0.5, 0.5, 0.55, 0.5)),
        make_case((64, 64, 56, 56), "bfloat16", fields=BIAS, native=(9, 9, 9, 9)),
        make_case((4096, 4096), fields=BIAS, native=(0.6, 0.6, 0.61, 0.6)),
        make_case((256, 4), fields=BIAS, native=(9, 9, 9, 9)),
    ]
    operator = json.loads((folder / "cpu_operator.json").read_text())
    write(folder / "cpu_operator.json", operator | {"cases": with_bias[:1] + operator["cases"]})
    write(folder / "cpu_bias.json", {"machine": MACHINE | {"git": "other"}, "cases": with_bias[1:]})
    sweep = json.loads((folder / "cpu_sweep.json").read_text())
    write(folder / "cpu_sweep.json", sweep | {"cases": with_bias + sweep["cases"]})

    found = verdicts(folder)
    assert found["fp32 64x64x56x56 and 4096x4096, native"] == (1.1, False)
    with_a_bias = "fp32 64x64x56x56 and 4096x4096 with a bias, relative to bias + ReLU, native"
    assert found[with_a_bias] == (0.61, False)
    made = tables.make_tables(folder)
    unchanged = {"machine-cpu", "operator-cpu", "memory-cpu", "steps-cpu"}
    assert {name: made[name] for name in unchanged} == {name: before[name] for name in unchanged}
    added = set(made["ratios-cpu"].splitlines()) - set(before["ratios-cpu"].splitlines())
    assert added == {"| 64×64×56×56, with a bias | 3.00 s (bias + nn.ReLU) | 0.55 |"}
    machine, _, *rows = made["bias-cpu"].splitlines()
    assert machine == made["machine-cpu"].replace("0123456789", "other")
    assert rows[0] == "| input | dtype | layout | copy | `bias + nn.ReLU` | Jumpstart native |"
    times = "1.00 s / 2.00 s / 3.00 s / 4.00 s"
    assert rows[2:] == [
        f"| 64×64×56×56 | float32 | contiguous | 1.00 s | {times} | 0.50 / 0.50 / 0.55 / 0.50 |",
        f"| 64×64×56×56 | bfloat16 | contiguous | 1.00 s | {times} | 9.00 / 9.00 / 9.00 / 9.00 |",
        f"| 4096×4096 | float32 | contiguous | 1.00 s | {times} | 0.60 / 0.60 / 0.61 / 0.60 |",
        f"| 256×4 | float32 | contiguous | 1.00 s | {times} | 9.00 / 9.00 / 9.00 / 9.00 |",
    ]


def test_figures_are_of_cases_without_a_bias(folder, tmp_path_factory):
    def draw() -> list[bytes]:
        return [path.read_bytes() for path in figures.draw(folder, tmp_path_factory.mktemp("root"))]

    before = draw()
    with_bias = make_case((64, 64, 56, 56), fields=BIAS, native=(0.5, 0.5, 0.5, 0.5))
    for name in ("operator", "sweep"):
        results = json.loads((folder / f"cpu_{name}.json").read_text())
        write(folder / f"cpu_{name}.json", results | {"cases": [with_bias, *results["cases"]]})
    assert draw() == before


def test_results_with_a_bias_need_no_others(tmp_path):
    with_bias = make_case((4096, 4096), fields=BIAS, native=(0.5, 0.5, 0.5, 0.5))
    write(tmp_path / "cpu_bias.json", {"machine": MACHINE, "cases": [with_bias]})
    made = tables.make_tables(tmp_path)
    assert set(made) == {"goals", "machine-cpu", "bias-cpu"}
    assert made["bias-cpu"].startswith("| input |")  # of the machine that the page names
    with_a_bias = "fp32 64x64x56x56 and 4096x4096 with a bias, relative to bias + ReLU, native"
    assert verdicts(tmp_path)[with_a_bias] == (0.5, True)
    assert figures.draw(tmp_path, tmp_path) == []


def test_goals_of_a_gpu_with_a_bias(tmp_path):
    cases = [
        make_case((16384, 16384), "bfloat16", fields=BIAS, native=(1, 1, 0.58), triton=(1, 1, 0.7)),
        make_case((256, 64, 112, 112), fields=BIAS, native=(1, 1, 0.6)),
        make_case((4096, 4096), fields=BIAS, native=(9, 9, 9)),  # too small to count
    ]
    write(tmp_path / "cuda_bias.json", {"machine": MACHINE, "cases": cases})
    fused = "Jumpstart, fused bias"
    steps = [
        make_steps("resnet50", 128, {"mode": mode}, Jumpstart=1.1, **{fused: ratio})
        for mode, ratio in (("eager", 0.96), ("graphs", 3), ("compiled", 0.99))
    ]
    write(tmp_path / "cuda_steps.json", {"machine": MACHINE, "networks": steps})
    found = verdicts(tmp_path)
    large = "256 MiB and more with a bias, relative to bias + ReLU: forward + backward"
    assert found[f"{large}, native"] == (0.6, True) and found[f"{large}, triton"] == (0.7, False)
    assert found["256 MiB and more, bf16 and fp32: forward + backward, native"] == (None, None)
    step = "step of plain ResNet-50 with its biases fused, relative to the same without Jumpstart, native"
    assert found[step] == (pytest.approx(0.96), False)
    assert found[f"compiled {step}"] == (pytest.approx(0.99), True)


def test_a_variant_that_was_not_measured_has_not_failed(tmp_path):
    steps = [make_steps("resnet50", 128, Jumpstart=0.9)]  # from before there was one with fused biases
    write(tmp_path / "cuda_steps.json", {"machine": MACHINE, "networks": steps})
    rows = {row[1]: row[3:] for row in goals.rows(tmp_path)}
    step = "step of plain ResNet-50 with its biases fused, relative to the same without Jumpstart"
    assert rows[step] == rows[f"compiled {step}"] == ("", "")
    assert rows["step of plain ResNet-50, relative to the same without Jumpstart"] == ("0.90", "met")
