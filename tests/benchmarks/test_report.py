"""Figures, tables and goals from made-up results, whose ratios are known."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the figures are drawn with matplotlib")

from benchmarks import goals
from benchmarks.report import __main__ as report
from benchmarks.report import figures, tables
from benchmarks.report.documents import ROOT, insert
from benchmarks.result_files import load
from jumpstart_kernels.bench.cases import PASSES

SECONDS = {"forward": 1.0, "backward": 2.0, "forward+backward": 3.0, "step": 4.0}  # of nn.ReLU
MACHINE = {
    "device": "Made-up",
    "device_type": "cpu",
    "cpu_capability": "AVX2",
    "threads": 2,
    "torch": "2.13.0",
    "triton": "3.7.1",
    "cuda": "13.0",
    "python": "3.12.0",
    "git": "0123456789abcdef",
    "git_dirty": False,
}


def make_peer(name, ratios, size, backend=None):
    passes = {
        pass_: {
            "median": SECONDS[pass_] * ratio,
            "quartiles": [SECONDS[pass_] * ratio] * 2,
            "iterations": 1,
            "ratio": ratio,
            "gigabytes_per_second": size / (SECONDS[pass_] * ratio) / 1e9,
        }
        for pass_, ratio in zip(
            PASSES, ratios, strict=False
        )  # files from before there was a step have no ratio of it
    }
    return {
        "name": name,
        "backend": backend,
        "failure": None,
        "saved_bytes": size // 8,
        "peak_bytes": None,
        "passes": passes,
    }


def make_case(shape, dtype="float32", layout="contiguous", graphs=False, fields=None, **ratios):
    """``fields`` that files from before they were introduced lack."""
    size = {"float32": 4, "bfloat16": 2}[dtype] * math.prod(shape)
    plain = "bias + nn.ReLU" if (fields or {}).get("bias") else "nn.ReLU"
    peers = [make_peer(plain, [1] * max(map(len, ratios.values())), size)]
    peers += [make_peer(f"JumpstartReLU {backend}", each, size, backend) for backend, each in ratios.items()]
    return {
        "shape": list(shape),
        "dtype": dtype,
        "layout": layout,
        "graphs": graphs,
        **(fields or {}),
        "bytes": size,
        "rounds": 7,
        "copy": {"median": 1.0, "quartiles": [1, 1], "iterations": 1, "gigabytes_per_second": size / 1e9},
        "peers": peers,
    }


def make_steps(network, samples=256, fields=None, **ratios):
    variants = [
        {
            "name": name,
            "failure": None,
            "peak_bytes": None,
            "step": {"median": 0.01 * ratio, "quartiles": [1, 1], "iterations": 1, "ratio": ratio},
        }
        for name, ratio in {"plain": 1.0, **ratios}.items()
    ]
    return {
        "network": network,
        "mode": "eager",
        **(fields or {}),
        "input": [samples, 30],
        "dtype": "float32",
        "rounds": 7,
        "variants": variants,
    }


def make_kernels(fields=None) -> dict:
    names = (
        "relu",
        "relu_backward",
        "void jumpstart_activation_forward_rows_kernel<float, 4>()",
        "void jumpstart_activation_bias_backward_kernel<float, 4>()",
        "penalty_kernel",
    )
    kernels = [{"kernel": name, "launches": 2.0, "median": 1e-6} for name in names]
    plain = "bias + nn.ReLU" if fields else "nn.ReLU"
    peers = [(plain, kernels[:2]), ("JumpstartReLU native", kernels[2:])]
    return {
        "shape": [256, 4],
        "dtype": "float32",
        "layout": "contiguous",
        **(fields or {}),
        "peers": [{"name": name, "kernels": of_peer} for name, of_peer in peers],
    }


@pytest.fixture
def folder(tmp_path) -> Path:
    """Results of a CPU: two goals met, two missed."""
    cases = [
        make_case((64, 64, 56, 56), native=(0.8, 0.9, 0.95)),
        make_case((64, 64, 56, 56), "bfloat16", native=(3, 3, 3)),
        make_case((4096, 4096), native=(1, 1, 1.1)),
        make_case((1024, 1024), native=(1, 1, 0.85)),
        make_case((256, 4), native=(1, 1, 1.95)),
    ]
    write(tmp_path / "cpu_operator.json", {"machine": MACHINE, "cases": cases})
    write(tmp_path / "cpu_sweep.json", {"machine": MACHINE, "cases": cases[-2:]})
    write(tmp_path / "cpu_steps.json", {"machine": MACHINE, "networks": [make_steps("50x4", Jumpstart=1.25)]})
    return tmp_path


def write(path: Path, results: dict) -> None:
    path.write_text(json.dumps({"schema": 1, **results}))


def verdicts(folder) -> dict[str, tuple[float | None, bool | None]]:
    return {f"{each.goal.text}, {each.backend}": (each.measured, each.met) for each in goals.verdicts(folder)}


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


BIAS = {"bias": True}


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
    assert len(lines) == 7 and all(line.startswith("CPU") for line in lines[1:])
    assert re.search(r"fp32 64x64x56x56 and 4096x4096 with a bias, .* ≤ 0\.60$", lines[2])
    assert re.search(r"fp32 1024x1024 +≤ 0\.85 +0\.85 +met$", lines[3])
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
    for name in ("operator", "sweep", "steps", "bias"):
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
