"""``python -m jumpstart_kernels bench``: output, results and errors; timings are not checked."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

pytest.importorskip("rich", reason="the benchmark prints with rich")

import jumpstart_kernels as jk
from jumpstart_kernels import cli
from jumpstart_kernels.bench import heading, timing
from jumpstart_kernels.bench.cases import PASSES, Case
from jumpstart_kernels.bench.machine import describe
from jumpstart_kernels.bench.peers import cannot_compile
from jumpstart_kernels.bench.report import bytes_text, seconds_text
from jumpstart_kernels.ops import backends, native

CPU = torch.device("cpu")
MACHINE = {
    "device": "CPU",
    "device_type": "cpu",
    "instruction_set": "avx2",
    "threads": 2,
    "torch": "2",
    "cpu_cores": 2,
    "load_average": 0.1,
}
BACKEND = "native" if backends.unavailable("native", "cpu") is None else "reference"


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    try:
        status = cli.main(["bench", *arguments])
    except SystemExit as error:  # argparse's own
        status = error.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_table_and_results(capsys, tmp_path, authors):
    output = tmp_path / "results.json"
    options = "--device cpu --shape 16x8 --shape 4x8x3x5 --dtype float32 --rounds 3 --peer jumpstart"
    options += f" --peer composite --peer batch_norm --peer authors --backend {BACKEND}"
    status, out, err = run(capsys, *options.split(), "--authors", str(authors), "--output", str(output))
    assert (status, err) == (0, "")
    names = ["nn.ReLU", f"JumpstartReLU {BACKEND}", "plain PyTorch", "BatchNorm + nn.ReLU", "authors' code"]
    for word in (*names, "16x8 float32 contiguous", "4x8x3x5 float32 channels_last", "3 rounds", *PASSES):
        assert word in out
    assert "loading" not in out and "hooks" not in out

    results = json.loads(output.read_text())
    assert results["schema"] == 1
    machine = results["machine"]
    assert machine["torch"] == torch.__version__ and machine["threads"] == torch.get_num_threads()
    assert machine["command"].startswith("python -m jumpstart_kernels bench --device cpu")
    assert str(tmp_path) not in machine["command"]
    cases = results["cases"]
    assert [(tuple(case["shape"]), case["layout"]) for case in cases] == [
        ((16, 8), "contiguous"),
        ((4, 8, 3, 5), "contiguous"),
        ((4, 8, 3, 5), "channels_last"),
    ]
    for case in cases:
        assert case["rounds"] == 3 and case["copy"]["median"] > 0 and case["bias"] is False
        assert [peer["name"] for peer in case["peers"]] == names
        relu, jumpstart, *_ = case["peers"]
        for peer in case["peers"]:
            assert peer["failure"] is None and list(peer["passes"]) == list(PASSES)
            assert peer["saved_bytes"] > 0 and peer["peak_bytes"] is None
            for name, figures in peer["passes"].items():
                lower, upper = figures["quartiles"]
                assert 0 < lower <= figures["median"] <= upper and figures["iterations"] >= 1
                assert figures["ratio"] == figures["median"] / relu["passes"][name]["median"]
        elements = torch.Size(case["shape"]).numel()
        for peer, moved in ((relu, (8, 12, 20, 20)), (jumpstart, (8.125, 8.125, 16.25, 16.25))):
            for name, each in zip(PASSES, moved, strict=True):
                figures = peer["passes"][name]
                expected = elements * each / figures["median"] / 1e9
                assert figures["gigabytes_per_second"] == pytest.approx(expected)


def test_passes_and_unhealthy_units_can_be_chosen(capsys, tmp_path):
    output = tmp_path / "results.json"
    options = f"--device cpu --shape 16x8 --dtype bfloat16 --rounds 1 --peer jumpstart --backend {BACKEND}"
    options += " --pass backward --unhealthy 0.25"
    status, out, _ = run(capsys, *options.split(), "--output", str(output))
    assert status == 0 and "25% of the units dead" in out and "forward" not in out
    (case,) = json.loads(output.read_text())["cases"]
    assert (case["dtype"], case["health"], case["dead"], case["linear"]) == (
        "bfloat16",
        "unhealthy",
        0.25,
        0.25,
    )
    assert all(list(peer["passes"]) == ["backward"] for peer in case["peers"])


def test_healths_are_repeated(capsys, tmp_path):
    output = tmp_path / "results.json"
    options = f"--device cpu --shape 16x8 --dtype float32 --rounds 1 --peer jumpstart --backend {BACKEND}"
    options += " --health healthy --health dead --health unhealthy --unhealthy 0.25 --health dead"
    status, out, _ = run(capsys, *options.split(), "--output", str(output))
    assert status == 0 and "all units dead" in out and "25% of the units dead and 25% linear" in out
    cases = json.loads(output.read_text())["cases"]
    assert [(case["health"], case["dead"], case["linear"]) for case in cases] == [
        ("healthy", 0, 0),
        ("dead", 1, 0),
        ("unhealthy", 0.1, 0.1),
        ("unhealthy", 0.25, 0.25),
    ]


def test_with_a_bias_ratios_are_to_bias_and_relu(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # which compiles fast
    output = tmp_path / "results.json"
    options = "--device cpu --bias --shape 4x8x3x5 --layout channels_last --dtype float32 --rounds 1"
    options += f" --backend {BACKEND} --output {output}"
    status, out, _ = run(capsys, *options.split())
    assert status == 0 and "4x8x3x5 float32 channels_last, bias" in out
    assert "ratio to bias + nn.ReLU" in out
    (case,) = json.loads(output.read_text())["cases"]
    assert case["bias"] is True
    names = ["bias + nn.ReLU", f"JumpstartReLU {BACKEND}", "plain PyTorch"]
    compiled = ["plain PyTorch, compiled", "bias + nn.ReLU, compiled"]
    assert [peer["name"] for peer in case["peers"]] == names + compiled * (cannot_compile("cpu") is None)
    plain, jumpstart, *_ = case["peers"]
    for peer, moved in ((plain, (16, 16, 32, 32)), (jumpstart, (8.125, 8.125, 16.25, 16.25))):
        for name, each in zip(PASSES, moved, strict=True):
            figures = peer["passes"][name]
            assert figures["ratio"] == figures["median"] / plain["passes"][name]["median"]
            expected = 480 * each / figures["median"] / 1e9
            assert figures["gigabytes_per_second"] == pytest.approx(expected)


def test_a_wrong_kernel_has_no_figure(capsys, tmp_path, monkeypatch):
    right = jk.penalty
    monkeypatch.setattr(jk, "penalty", lambda model: right(model) * 1.001)
    output = tmp_path / "results.json"
    options = f"--device cpu --shape 16x8 --dtype float32 --rounds 1 --backend {BACKEND}"
    options += " --peer jumpstart --peer composite"
    status, out, _ = run(capsys, *options.split(), "--output", str(output))
    assert status == 1
    (row,) = re.findall(rf"JumpstartReLU {BACKEND} *│(.*)", out)
    assert "no figure" in row and not re.search(r"\d", row)
    assert f"JumpstartReLU {BACKEND}: wrong penalty: " in out
    (case,) = json.loads(output.read_text())["cases"]
    relu, wrong, plain = case["peers"]
    assert wrong["passes"] == {} and wrong["saved_bytes"] is None and "wrong penalty" in wrong["failure"]
    assert len(relu["passes"]) == len(plain["passes"]) == len(PASSES)


def test_words_for_figures():
    words = {0.0328: "32.8 ms", 1.5: "1.50 s", 4.3e-6: "4.30 µs", 583e-6: "583 µs", 0.9999e-3: "1.00 ms"}
    assert {seconds: seconds_text(seconds) for seconds in words} == words
    words = {450: "450 B", 63500: "63.5 kB", 51_380_224: "51.4 MB", 2 * 10**9: "2.00 GB", None: ""}
    assert {count: bytes_text(count) for count in words} == words


def test_machine_names_the_commit_of_the_package_and_no_folder(tmp_path):
    words = ["python", "--output", str(tmp_path / "a.json"), "results/b.json", "../elsewhere/c"]
    machine = describe(CPU, words)
    assert machine["command"] == "python --output a.json results/b.json c"
    assert machine["device"] and machine["jumpstart_kernels"] == jk.__version__
    git = ["git", "-C", str(Path(jk.__file__).parent), "ls-files", "__init__.py"]
    tracked = subprocess.run(git, capture_output=True, text=True, check=False)
    if tracked.stdout:
        assert re.fullmatch(r"[0-9a-f]{40}", machine["git"]) and machine["git_dirty"] in (True, False)
    else:  # an installed package
        assert machine["git"] is None


def test_a_busy_machine_is_warned_of():
    assert "warning" not in heading(MACHINE)
    assert "load average 1.5" in heading(MACHINE | {"load_average": 1.5})
    assert "warning" not in heading(MACHINE | {"load_average": None})


def test_the_heading_names_the_instruction_set_of_the_native_kernels(capsys):
    assert heading(MACHINE) == "CPU, 2 threads, native kernels for avx2, torch 2"
    for other in ({"instruction_set": None}, {"device_type": "cuda"}):  # not built, or not used
        assert heading(MACHINE | other) == "CPU, 2 threads, torch 2"
    options = "--device cpu --shape 16x8 --dtype float32 --rounds 1 --peer composite"
    _, out, _ = run(capsys, *options.split())
    names = f"native kernels for {native.instruction_set()}"
    assert (names in out) == (native.instruction_set() is not None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(capsys, tmp_path):
    output = tmp_path / "results.json"
    options = ["--device", "cuda", "--shape", "256x4", "--shape", "16x64x56x56", "--rounds", "2", "--graphs"]
    status, out, _ = run(capsys, *options, "--output", str(output))
    results = json.loads(output.read_text())
    assert status == 0, out
    assert results["machine"]["device"] == torch.cuda.get_device_name()
    assert [case["graphs"] for case in results["cases"]].count(True) == 2  # float32 and bfloat16
    for case in results["cases"]:
        expected = {"forward", "forward+backward"} if case["graphs"] else set(PASSES)
        for peer in case["peers"]:
            assert set(peer["passes"]) == expected and peer["peak_bytes"] > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_inputs_do_not_stay_in_the_cache():
    case = Case((1024, 1024))
    pairs = timing.Buffers(case, torch.device("cuda")).pairs
    assert len(pairs) * case.bytes >= 2 * torch.cuda.get_device_properties(0).L2_cache_size
    assert len({x.data_ptr() for x, _ in pairs}) == len(pairs)
    assert len(timing.Buffers(Case((256, 4)), torch.device("cuda")).pairs) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--shape", "64"], "argument --shape: must be 2 to 5 positive sizes joined by x"),
        (["--shape", "4x0"], "argument --shape: must be 2 to 5 positive sizes joined by x"),
        (["--shape", "1x8"], "argument --shape: must have more than one value for each unit, got '1x8'"),
        (["--dtype", "int8"], "argument --dtype: invalid choice: 'int8'"),
        (["--health", "sick"], "argument --health: invalid choice: 'sick'"),
        (["--pass", "sideways"], "argument --pass: invalid choice: 'sideways'"),
        (["--rounds", "0"], "argument --rounds: must be a positive integer, got '0'"),
        (["--seconds", "-1"], "argument --seconds: must be a positive number of seconds, got '-1'"),
        (["--unhealthy", "0.7"], "argument --unhealthy: must be a fraction from 0 to 0.5, got '0.7'"),
        (["--quick", "--all"], "error: --quick and --all exclude each other"),
        (["--device", "nowhere"], "error: --device nowhere: "),
        (["--device", "meta"], "error: --device must be a cpu or cuda device, got 'meta'"),
        (["--device", "cpu", "--graphs"], "error: --graphs needs a CUDA device, got cpu"),
        (
            ["--layout", "channels_last", "--shape", "4x4"],
            "error: --layout channels_last needs a 4-D or 5-D --shape",
        ),
        (
            ["--peer", "authors"],
            "error: --peer authors needs --authors PATH, a checkout of blauigris/jumpstart",
        ),
        (["--bias", "--peer", "batch_norm"], "error: --peer batch_norm has no --bias"),
        (["--peer", "compiled_plain"], "error: --peer compiled_plain needs --bias"),
        (
            ["--activation", "leaky_relu", "--peer", "batch_norm"],
            "error: --peer batch_norm is of relu, and not of --activation leaky_relu",
        ),
        (["--authors", "nowhere"], "error: --authors must be a checkout of blauigris/jumpstart, with a file"),
        (["--output", "nowhere/x.json"], "error: --output: there is no folder nowhere"),
    ],
)
def test_mistakes_are_named_before_any_work(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(
    "text, message", [("1 / 0", "does not run: ZeroDivisionError"), ("x = 1", "has no class")]
)
def test_a_folder_that_is_not_the_authors(text, message, authors, capsys):
    (authors / "jumpstart" / "jumpstart.py").write_text(text)
    status, out, err = run(capsys, "--authors", str(authors))
    assert (status, out) == (2, "") and message in err


def test_backends_that_cannot_run_are_named(capsys, monkeypatch):
    monkeypatch.setattr(backends, "unavailable", lambda backend, device: "not here")
    status, _, err = run(capsys, "--device", "cpu", "--backend", "native")
    assert status == 2 and "--backend native cannot run on cpu: not here" in err


def test_without_a_compiler_there_is_nothing_compiled(capsys, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "C++ compiler" in cannot_compile("cpu")
    status, _, err = run(capsys, "--device", "cpu", "--peer", "compiled")
    assert status == 2 and "--peer compiled: torch.compile needs a C++ compiler" in err


def test_without_rich_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    status, _, err = run(capsys, "--device", "cpu")
    assert status == 2 and err.endswith("pip install jumpstart_kernels[bench]\n")
