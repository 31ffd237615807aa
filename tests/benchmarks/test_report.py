"""Figures, tables and goals from made-up results, whose ratios are known."""

import json
import re
import shutil

import pytest
from made_up_results import (
    BIAS,
    MACHINE,
    make_case,
    make_kernels,
    make_linked,
    make_steps,
    verdicts,
    write,
)

pytest.importorskip("matplotlib", reason="the figures are drawn with matplotlib")

from benchmarks import goals
from benchmarks.report import __main__ as report
from benchmarks.report import figures, tables
from benchmarks.report.documents import ROOT, insert
from benchmarks.result_files import load


def test_goals_of_the_cpu(folder):
    found = verdicts(folder)
    assert found["fp32 64x64x56x56 and 4096x4096, native"] == (1.1, False)  # the worst of its cases
    assert found["fp32 1024x1024, native"] == (0.85, True)
    assert found["fp32 256x1024, native"] == (None, None)
    assert found["fp32 256x4, native"] == (1.95, True)
    assert found["step of 50 layers of 4 units, relative to the same without Jumpstart, native"] == (
        pytest.approx(1.25),
        False,
    )
    assert all(
        measured is None for text, (measured, _) in found.items() if "256 MiB" in text or "graph" in text
    )


def test_goals_of_a_gpu(tmp_path):
    cases = [
        make_case((16384, 16384), "bfloat16", native=(1.0, 0.7, 0.85), triton=(1.06, 0.7, 0.95)),
        make_case((256, 64, 112, 112), layout="channels_last", native=(1.0, 0.8, 0.87)),
        make_case((4096, 4096), native=(9, 9, 9)),  # too small to count
        make_case((256, 4), native=(1, 1, 1.9)),
        make_case((256, 4), native=(1, 1, 1.4), graphs=True),
        make_case((256, 1024), native=(1, 1, 1.6), graphs=True),
    ]
    write(tmp_path / "cuda_operator.json", {"machine": MACHINE, "cases": cases})
    steps = [make_steps("resnet50", 128, Jumpstart=0.94, **{"BatchNorm + skips": 1.2})]
    write(tmp_path / "cuda_steps.json", {"machine": MACHINE, "networks": steps})
    found = verdicts(tmp_path)
    large = "256 MiB and more, bf16 and fp32: forward + backward"
    assert found[f"{large}, native"] == (0.87, True) and found[f"{large}, triton"] == (0.95, False)
    assert found["256 MiB and more: forward, triton"] == (1.06, False)
    assert found["256 MiB and more: backward, native"] == (0.8, False)
    share, met = found["256 MiB and more: bandwidth in model bytes, relative to a copy, native"]
    assert (share, met) == (pytest.approx(1 / 2.61), False)
    assert found["256x4 to 256x1024, eager, native"] == (1.9, True)
    assert found["256x4 to 256x1024, CUDA graph, native"] == (1.6, False)
    assert found["256x4 to 256x1024, eager, triton"] == (None, None)
    assert found["step of plain ResNet-50, relative to the same without Jumpstart, native"][1] is True
    measured, met = found["step of plain ResNet-50, relative to one with BatchNorm and skips, native"]
    assert measured == pytest.approx(0.94 / 1.2) and met


def test_goals_are_of_healthy_units_and_of_sgd_with_a_batch_of_256(tmp_path):
    cases = [
        make_case((256, 4), fields={"health": health}, native=(1, 1, ratio, ratio))
        for health, ratio in (("dead", 9), ("healthy", 1.5), ("unhealthy", 8))
    ]
    write(tmp_path / "cpu_operator.json", {"machine": MACHINE, "cases": cases})
    steps = [
        make_steps("50x4", samples, {"optimizer": optimizer}, Jumpstart=ratio)
        for samples, optimizer, ratio in (
            (64, "sgd", 3),
            (256, "adam", 2),
            (256, "sgd", 1.1),
            (1024, "sgd", 4),
        )
    ]
    write(tmp_path / "cpu_steps.json", {"machine": MACHINE, "networks": steps})
    found = verdicts(tmp_path)
    assert found["fp32 256x4, native"] == (1.5, True)
    measured, _ = found["step of 50 layers of 4 units, relative to the same without Jumpstart, native"]
    assert measured == pytest.approx(1.1)
    made = tables.make_tables(tmp_path)
    assert [row.split(" |")[0] for row in made["operator-cpu"].splitlines()[2:]] == [
        "| 256×4, dead",
        "| 256×4",
        "| 256×4, unhealthy",
    ]
    assert "| 1.00 s / 2.00 s / 3.00 s / 4.00 s | 1.00 / 1.00 / 1.50 / 1.50 |" in made["operator-cpu"]
    assert made["ratios-cpu"].splitlines()[2:] == ["| 256×4 | 3.00 s | 1.50 |"]
    assert "| 50x4 | eager, adam | 256x30 float32 |" in made["steps-cpu"]
    assert "| 50x4 | eager | 256x30 float32 |" in made["steps-cpu"]


def test_a_case_without_a_figure_misses_its_goal(folder):
    results = json.loads((folder / "cpu_operator.json").read_text())
    results["cases"][-1]["peers"][1] |= {"failure": "wrong output", "passes": {}}
    write(folder / "cpu_operator.json", results)
    steps = make_steps("50x4", Jumpstart=1.0)
    steps["variants"][1] |= {"failure": "wrong loss", "step": None}
    write(folder / "cpu_steps.json", {"machine": MACHINE, "networks": [steps]})
    assert verdicts(folder)["fp32 256x4, native"][1] is False
    rows = {row[1]: row[3:] for row in goals.rows(folder)}
    assert (
        rows["fp32 256x4"]
        == rows["step of 50 layers of 4 units, relative to the same without Jumpstart"]
        == ("failed", "missed")
    )


def test_goals_are_printed(folder, capsys):
    assert goals.main([str(folder), "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9 and all(line.startswith("CPU") for line in lines[1:])
    assert re.search(r"fp32 64x64x56x56 and 4096x4096 with a bias, .* ≤ 0\.60$", lines[2])
    assert re.search(r"fp32 1024x1024 +≤ 0\.85 +0\.85 +met$", lines[5])
    with pytest.raises(SystemExit):
        goals.main([str(folder / "nowhere")])


def test_tables(folder):
    found = tables.make_tables(folder)
    assert {"goals", "machine-cpu", "ratios-cpu", "operator-cpu", "memory-cpu", "steps-cpu"} == set(found)
    assert found["machine-cpu"] == "Made-up, AVX2, 2 threads, torch 2.13.0, Python 3.12.0; 0123456789."
    ratios = found["ratios-cpu"].splitlines()
    assert ratios[0] == "| input | `nn.ReLU` | Jumpstart native |"
    assert ratios[2:] == [
        "| 64×64×56×56 | 3.00 s | 0.95 |",
        "| 4096×4096 | 3.00 s | 1.10 |",
        "| 1024×1024 | 3.00 s | 0.85 |",
        "| 256×4 | 3.00 s | 1.95 |",
    ]
    assert "| 1.00 s / 2.00 s / 3.00 s | 0.80 / 0.90 / 0.95 |" in found["operator-cpu"]
    assert found["steps-cpu"].endswith("| 50x4 | eager | 256x30 float32 | 10.0 ms | Jumpstart 1.25 |  |")


def test_table_of_kernels(tmp_path):
    results = {"machine": MACHINE, "cases": [make_kernels(), make_kernels(BIAS)]}
    write(tmp_path / "cuda_kernels.json", results)
    rows = tables.make_tables(tmp_path)["kernels-cuda"].splitlines()
    assert rows[0] == "| input | dtype | layout | `nn.ReLU` | Jumpstart native |"
    parts = "4 | forward 2 + bias gradient 2 + penalty 2 |"
    assert rows[2:] == [
        f"| 256×4 | float32 | contiguous | {parts}",
        f"| 256×4, with a bias | float32 | contiguous | {parts}",
    ]


def test_every_kernel_has_its_part_in_the_table():
    kernels = set()
    for folder, pattern, definition in (
        ("csrc/cuda", "*.cuh", r"__global__[^{;]*?\b(\w+_kernel)\("),
        ("jumpstart_kernels/ops/triton", "*.py", r"^def (\w+_kernel)\("),
    ):
        for file in (ROOT / folder).glob(pattern):
            kernels |= {*re.findall(definition, file.read_text(), re.MULTILINE)}
    parts = {kernel: tables.kernel_part(kernel) for kernel in kernels if not kernel.startswith("linked_")}
    assert len(parts) >= 9 and "PyTorch's" not in parts.values()
    of_bias = [part for kernel, part in parts.items() if "bias" in kernel]  # CUDA's and Triton's
    assert of_bias == ["bias gradient"] * 2


def test_insertion_replaces_what_is_between_markers(tmp_path):
    document = tmp_path / "page.md"
    document.write_text("before\n<!-- begin goals -->\nold\n<!-- end goals -->\nafter\n")
    for table in ("new", r"new \1"):
        assert insert(document, {"goals": table, "other": "unused"}) == ["goals"]
        expected = f"before\n<!-- begin goals -->\n{table}\n<!-- end goals -->\nafter\n"
        assert document.read_text() == expected
    document.write_text("<!-- begin goals -->\nold")
    with pytest.raises(ValueError, match="has no '<!-- end goals -->'"):
        insert(document, {"goals": "new"})


def test_every_marker_of_the_docs_has_its_table(folder):
    text = "".join((ROOT / document).read_text() for document in report.DOCUMENTS)
    begins, ends = (re.findall(rf"<!-- {word} (\S+) -->", text) for word in ("begin", "end"))
    assert begins == ends
    with_bias = make_case((4096, 4096), fields=BIAS, native=(1, 1, 1))
    write(folder / "cpu_bias.json", {"machine": MACHINE, "cases": [with_bias]})
    write(folder / "cpu_linked.json", make_linked())
    for name in ("operator", "sweep", "steps", "bias", "linked"):
        shutil.copy(folder / f"cpu_{name}.json", folder / f"cuda_{name}.json")
    write(folder / "cuda_kernels.json", {"machine": MACHINE, "cases": [make_kernels()]})
    known = {f"figure-{name}" for name in figures.CAPTIONS} | set(tables.make_tables(folder))
    assert set(begins) == known


def test_one_command_draws_and_writes_everything(folder, tmp_path_factory, capsys):
    root = tmp_path_factory.mktemp("root")
    (root / "docs").mkdir()
    for document in report.DOCUMENTS:
        shutil.copy(ROOT / document, root / document)
    arguments = ["--results", str(folder), "--root", str(root)]
    assert report.main(arguments) == 0
    pictures = sorted((root / "docs" / "figures").iterdir())
    assert [path.stem for path in pictures] == sorted(figures.CAPTIONS)
    first = [path.read_bytes() for path in pictures]
    assert all(data.startswith(b"\x89PNG") and len(data) > 10_000 for data in first)
    page = (root / "docs" / "benchmarks.md").read_text()
    assert "(figures/memory.png)" in page and "| 0.80 / 0.90 / 0.95 |" in page
    assert "| 4096×4096 | 3.00 s | 1.10 |" in (root / "README.md").read_text()
    assert "missed" in capsys.readouterr().out
    assert report.main(arguments) == 0  # the same results, the same bytes
    assert [path.read_bytes() for path in pictures] == first
    assert (root / "docs" / "benchmarks.md").read_text() == page


def test_without_results_there_is_nothing_to_draw(tmp_path):
    assert figures.draw(tmp_path, tmp_path) == [] and not list(tmp_path.iterdir())
    assert load("cuda", tmp_path).machine() is None
    assert list(tables.make_tables(tmp_path)) == ["goals"]
