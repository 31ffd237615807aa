"""The command line, in this process and as a program of its own."""

import base64
import html
import importlib.util
import os
import re
import subprocess
import sys
import types
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import nn

import jumpstart_kernels
from jumpstart_kernels import backends, cli
from jumpstart_kernels.kernels import native
from jumpstart_kernels.usage import unit_usage

MODELS = """
from __future__ import annotations

import dataclasses
from jumpstart_kernels import JumpstartReLU
from neighbour import WIDTH
from torch import nn

@dataclasses.dataclass
class Options:
    width: int = WIDTH

def plain():
    width = Options().width
    return nn.Sequential(nn.Linear(width, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU())

def double():
    return plain().double()

def margins():
    return nn.Sequential(JumpstartReLU(margin=0.5), JumpstartReLU(margin=2.0))

def number():
    return 3

def no_relu():
    return nn.Linear(WIDTH, 2)

def broken():
    raise KeyError("width")
"""


@pytest.fixture
def models(tmp_path, monkeypatch) -> str:
    """A file of models, in the working directory."""
    (tmp_path / "neighbour.py").write_text("WIDTH = 13")
    (tmp_path / "models.py").write_text(MODELS)
    (tmp_path / "failing.py").write_text("import nothing_of_this_name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "neighbour", raising=False)
    torch.manual_seed(0)
    return "models.py"


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit status, output and errors of the command line."""
    try:
        status = cli.main(arguments)
    except SystemExit as exit:
        status = exit.code
    return status, *capsys.readouterr()


def program(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    root = str(Path(jumpstart_kernels.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-m", "jumpstart_kernels", *arguments],
        env={**os.environ, "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_the_program_prints_its_version():
    result = program("--version")
    assert (result.returncode, result.stdout) == (0, f"jumpstart_kernels {jumpstart_kernels.__version__}\n")


def test_the_program_ends_with_status_2_and_one_line_on_a_mistake(tmp_path):
    result = program("usage", "--model", "missing.py:f", "--data", "wine")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: --model: there is no file missing.py\n"


def test_no_command_is_a_mistake(capsys):
    status, out, err = run(capsys)
    assert (status, out) == (2, "")
    assert "the following arguments are required: command" in err


def test_info_says_what_is_here(capsys):
    status, out, err = run(capsys, "info")
    assert (status, err) == (0, "")
    assert f"jumpstart_kernels  {jumpstart_kernels.__version__}\n" in out
    assert f"torch              {torch.__version__}, with" in out
    for backend in backends.BACKENDS:
        reason = backends.unavailable(backend, "cpu")
        state = f"unavailable: {reason}" if reason else "available"
        assert re.search(rf"^{backend} +cpu +{re.escape(state)}", out, re.MULTILINE)
        assert re.search(rf"^{backend} +cuda +(un)?available", out, re.MULTILINE)
    assert len(re.findall(r"^\w+ +cpu +available, in use$", out, re.MULTILINE)) == 1
    assert re.search(r"^torchmetrics +\d", out, re.MULTILINE)


def test_info_says_how_to_get_what_is_missing(capsys, monkeypatch):
    def nothing(package: str) -> str:
        raise cli.importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(cli.importlib.metadata, "version", nothing)
    monkeypatch.setattr(cli.shutil, "which", lambda name: None)
    monkeypatch.setattr(native, "_extension", None)
    monkeypatch.setattr(backends, "_resolved", {})
    status, out, _ = run(capsys, "info")
    assert status == 0
    assert "native extension   not built" in out
    assert "not found: install g++ or clang++" in out
    assert re.search(r"^native +cpu +unavailable: .*install a C\+\+ compiler", out, re.MULTILINE)
    assert re.search(r"^rich +not installed: pip install rich", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("cuda_version", "openmp", "expected"),
    [
        ("12.8", True, "threaded by OpenMP, with CUDA 12.8"),
        (None, False, "without OpenMP: one thread, without CUDA"),
    ],
)
def test_info_says_how_the_extension_is_built(capsys, monkeypatch, cuda_version, openmp, expected):
    extension = types.SimpleNamespace(cuda_version=cuda_version, openmp=openmp)
    monkeypatch.setattr(native, "_extension", extension)
    assert f"native extension   {expected}\n" in run(capsys, "info")[1]


def test_info_runs_where_the_backend_asked_for_is_not_there(capsys, monkeypatch):
    monkeypatch.setattr(native, "_extension", None)
    monkeypatch.setattr(backends, "_chosen", "native")
    monkeypatch.setattr(backends, "_resolved", {})
    monkeypatch.setenv("JUMPSTART_BACKEND", "native")
    status, out, _ = run(capsys, "info")
    assert status == 0
    assert "JUMPSTART_BACKEND  native\n" in out
    assert "in use" not in out


def test_usage_prints_the_report(models, capsys, tmp_path):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(13, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU())
    x = torch.randn(20, 13)
    torch.save(model.state_dict(), "weights.pt")
    torch.save(x, "x.pt")
    arguments = ["--model", f"{models}:plain", "--weights", "weights.pt", "--data", "x.pt", "--device", "cpu"]
    status, out, err = run(capsys, "usage", *arguments, "--batch-size", "7")
    assert (status, err) == (0, "")
    assert out == f"{unit_usage(model, [x])}\n"


def test_usage_imports_a_module_by_name(models, capsys):
    torch.save(torch.randn(5, 13), "x.pt")
    status, out, _ = run(capsys, "usage", "--model", "models:plain", "--data", "x.pt")
    sys.modules.pop("models")
    assert status == 0
    assert "total" in out


@pytest.mark.parametrize("function", ["plain", "double"])
def test_usage_reads_every_kind_of_file_alike(models, capsys, function):
    numpy = pytest.importorskip("numpy", reason="numpy reads these files")
    x = numpy.random.default_rng(0).normal(size=(9, 13))
    numpy.save("x.npy", x)
    numpy.savez("one.npz", data=x)
    numpy.savez("named.npz", x=x, y=x[:, 0])
    numpy.savetxt("plain.csv", x, delimiter=",")
    numpy.savetxt("header.csv", x, delimiter=",", header=",".join("abcdefghijklm"), comments="")
    torch.save([torch.from_numpy(x), torch.zeros(9)], "pair.pt")
    outputs = set()
    for name in ("x.npy", "one.npz", "named.npz", "plain.csv", "header.csv", "pair.pt"):
        torch.manual_seed(0)
        status, out, err = run(capsys, "usage", "--model", f"{models}:{function}", "--data", name)
        assert (status, err) == (0, ""), name
        outputs.add(out)
    assert len(outputs) == 1


def test_usage_reads_data_sets_of_scikit_learn(models, capsys):
    pytest.importorskip("sklearn", reason="scikit-learn brings the data sets")
    status, out, err = run(capsys, "usage", "--model", f"{models}:plain", "--data", "wine")
    assert (status, err) == (0, "")
    assert re.search(r"^1 +4 .* 178 ", out, re.MULTILINE)


def test_mistakes_of_usage_take_one_line(models, capsys):
    torch.save(torch.randn(5, 13), "x.pt")
    torch.save(torch.randn(5, 12), "narrow.pt")
    torch.save(torch.tensor(1.0), "scalar.pt")
    torch.save(nn.Linear(2, 2).state_dict(), "other.pt")
    Path("broken.pt").write_text("no archive")
    Path("words.csv").write_text("a,b\nc,d\n")
    mistakes = {
        ("models.py", "x.pt"): "--model must be FILE.py:FUNCTION or package.module:FUNCTION, got 'models.py'",
        ("models.py:other", "x.pt"): "--model: models.py has no function 'other'",
        ("models.py:number", "x.pt"): "--model: models.py:number must return an nn.Module, got int",
        ("models.py:broken", "x.pt"): "--model models.py:broken: KeyError: 'width' (models.py, line ",
        (
            "failing.py:plain",
            "x.pt",
        ): "--model failing.py: ModuleNotFoundError: No module named 'nothing_of_this",
        ("no.such:plain", "x.pt"): "--model no.such: ModuleNotFoundError: No module named 'no'",
        (
            "models.py:no_relu",
            "x.pt",
        ): "models.py:no_relu on data of shape [5, 13]: ValueError: model has no Jump",
        (
            "models.py:plain",
            "narrow.pt",
        ): "models.py:plain on data of shape [5, 12]: RuntimeError: mat1 and mat2",
        (
            "models.py:plain",
            "scalar.pt",
        ): "--data: scalar.pt must hold an array of at least one sample, [N, ...], ",
        (
            "models.py:plain",
            "other.pt",
        ): "--data: other.pt must hold an array of at least one sample, [N, ...], ",
        ("models.py:plain", "broken.pt"): "cannot read broken.pt: ",
        ("models.py:plain", "words.csv"): "cannot read words.csv: ",
        ("models.py:plain", "missing.npy"): "there is no file missing.npy",
        (
            "models.py:plain",
            "iris",
        ): "--data must be wine, breast_cancer, digits, or a file of .npy, .npz, .csv",
    }
    for (model, data), message in mistakes.items():
        status, out, err = run(capsys, "usage", "--model", model, "--data", data)
        assert (status, out, err.count("\n")) == (2, "", 1), (model, data)
        assert err.startswith(f"error: {message}")
    options = {
        ("--weights", "other.pt"): "error: --weights: other.pt does not fit the model: Error(s) in loading",
        ("--weights", "x.pt"): "error: --weights: x.pt must hold a state dict, got Tensor",
        ("--weights", "broken.pt"): "error: cannot read broken.pt",
        ("--device", "nowhere"): "error: --device nowhere: ",
        (
            "--unit-dim",
            "4",
        ): "error: models.py:plain on data of shape [5, 13]: ValueError: layer '1': unit_dim must",
    }
    for option, message in options.items():
        status, out, err = run(capsys, "usage", "--model", "models.py:plain", "--data", "x.pt", *option)
        assert (status, out, err.count("\n")) == (2, "", 1), option
        assert err.startswith(message)
    status, _, err = run(capsys, "usage", "--model", "models.py:plain", "--data", "x.pt", "--batch-size", "0")
    assert status == 2
    assert "argument --batch-size: must be a positive integer, got '0'" in err


class Page(HTMLParser):
    """Tags that are open, what the page refers to, its pictures and the text of its cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.references, self.pictures, self.cells = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.references += [v for name, v in attrs if name in ("src", "href") and not v.startswith("data:")]
        if tag == "img":
            kind, _, content = values["src"].partition(";base64,")
            assert kind == "data:image/png" and values["alt"]
            self.pictures.append(base64.b64decode(content))
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


def test_usage_writes_a_page_that_needs_nothing_else(models, capsys):
    pytest.importorskip("matplotlib", reason="the page has pictures of matplotlib")
    torch.save(torch.randn(20, 13), "x<&.pt")
    torch.manual_seed(0)
    arguments = ["usage", "--model", f"{models}:plain", "--data", "x<&.pt", "--output", "page.html"]
    status, out, err = run(capsys, *arguments, "--batch-size", "7")
    assert (status, err) == (0, "")
    assert out.endswith("\n\nwritten to page.html\n")
    text = Path("page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and page.references == [] and "url(" not in text and "@import" not in text
    assert "x&lt;&amp;.pt, 20 × 13" in text and "In a batch of 7" in text
    assert len(page.pictures) == 5 and all(image.startswith(b"\x89PNG") for image in page.pictures)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(13, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU())
    report = unit_usage(model, [torch.load("x<&.pt")])
    assert page.cells[:2] == ["unit_dead_ratio", f"{report['unit_dead_ratio']:.1%}"]
    rows = [[name, *map(str, layer)] for name, layer in report.layers.items()]
    assert page.cells[-18:] == [cell for row in rows for cell in row]


@pytest.mark.parametrize(("name", "start"), [("units.png", b"\x89PNG"), ("units.svg", b"<?xml")])
def test_usage_writes_a_picture(models, capsys, name, start):
    pytest.importorskip("matplotlib", reason="the picture is drawn with matplotlib")
    torch.save(torch.randn(5, 13), "x.pt")
    arguments = ["usage", "--model", f"{models}:double", "--data", "x.pt", "--output", name]
    assert run(capsys, *arguments)[0] == 0
    assert Path(name).read_bytes().startswith(start)


def test_usage_says_that_margins_differ(models, capsys):
    pytest.importorskip("matplotlib", reason="the pictures are drawn with matplotlib")
    torch.save(torch.randn(5, 13), "x.pt")
    note = "the layers' margins are 0.5, 2: their extrema and penalty are shown for 1"
    for function, said in (("margins", True), ("plain", False)):
        arguments = ["usage", "--model", f"{models}:{function}", "--data", "x.pt", "--output", "page.html"]
        status, out, err = run(capsys, *arguments)
        assert (status, err) == (0, "")
        page = Path("page.html").read_text(encoding="utf-8")
        assert (note in out) is said and (html.escape(note) in page) is said


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("page.txt", "--output must be a file of .html, .png, .svg, .pdf, got 'page.txt'"),
        ("nowhere/page.html", "--output: there is no folder nowhere"),
    ],
)
def test_output_is_checked_before_the_model_is_loaded(models, capsys, output, message):
    arguments = ["usage", "--model", f"{models}:broken", "--data", "x.pt", "--output", output]
    assert run(capsys, *arguments) == (2, "", f"error: {message}\n")


def test_output_without_matplotlib_says_what_to_install(models, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    arguments = ["usage", "--model", f"{models}:broken", "--data", "x.pt", "--output", "page.html"]
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert err == "error: --output: plots need matplotlib: pip install jumpstart_kernels[plots]\n"


@pytest.fixture
def demo_calls(monkeypatch) -> list[dict]:
    """What the demo is called with, in place of the demo."""
    calls: list[dict] = []
    module = types.ModuleType("jumpstart_kernels.demo")
    module.run = lambda **options: calls.append(options) or 0
    monkeypatch.setitem(sys.modules, "jumpstart_kernels.demo", module)
    return calls


def test_demo_runs_with_its_options(demo_calls, capsys, tmp_path):
    output = tmp_path / "figure.png"
    assert run(capsys, "demo")[0] == 0
    arguments = [
        "--data",
        "wine,digits",
        "--data",
        "wine",
        "--epochs",
        "3",
        "--seed",
        "7",
        "--output",
        str(output),
    ]
    assert run(capsys, "demo", *arguments)[0] == 0
    assert demo_calls == [
        {
            "datasets": ["wine", "breast_cancer", "digits"],
            "epochs": None,
            "seed": 0,
            "output": Path("demo.png"),
        },
        {"datasets": ["wine", "digits"], "epochs": 3, "seed": 7, "output": output},
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "wine,iris"], "argument --data: must be of wine, breast_cancer, digits, got 'iris'"),
        (["--epochs", "-1"], "argument --epochs"),
        (["--output", "nowhere/demo.png"], "error: --output: there is no folder nowhere"),
    ],
)
def test_mistakes_of_demo(demo_calls, capsys, arguments, message):
    status, _, err = run(capsys, "demo", *arguments)
    assert status == 2
    assert message in err
    assert demo_calls == []


def test_demo_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jumpstart_kernels.demo", None)
    status, _, err = run(capsys, "demo")
    assert status == 2
    assert err.endswith("pip install jumpstart_kernels[demo]\n")
