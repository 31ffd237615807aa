"""``usage --output``: pages and images."""

import base64
import html
import importlib.util
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from cli_runs import run
from torch import nn

from jumpstart_kernels.usage.loader import unit_usage


class Page(HTMLParser):
    """Collects open tags, references, images and the text of cells."""

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


def test_usage_prints_and_writes_cosines(models, capsys):
    pytest.importorskip("matplotlib", reason="the page has pictures of matplotlib")
    torch.save(torch.randn(20, 13), "x.pt")
    torch.manual_seed(0)
    arguments = ["usage", "--model", f"{models}:plain", "--data", "x.pt", "--output", "page.html"]
    status, out, err = run(capsys, *arguments, "--cosines", "--dormancy", "--effective-rank")
    assert (status, err) == (0, "")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(13, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU())
    report = unit_usage(model, [torch.load("x.pt")], cosines=True, dormancy=True, effective_rank=True)
    assert out.startswith(f"{report}\n") and "dormant  rank   cosine" in str(report)
    cells = Page(Path("page.html").read_text(encoding="utf-8")).cells
    assert cells[-13::12] == [f"{cosine:.3f}" for cosine in report.cosines.values()]
    assert cells[-14::12] == [f"{rank:.1f}" for rank in report.effective_ranks.values()]
    assert cells[-15::12] == [str(int(mask.sum())) for mask in report.dormant().values()]


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
        ("page.txt", "--output must end in .html, .png, .svg, .pdf, got 'page.txt'"),
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
