"""Every Python block of the pages runs, in their order, and prints what the page says.

A page has what its blocks need but do not show in ``<!-- invisible-code-block: python ... -->``, and in
``<!-- skip: next "why" -->`` what cannot run here. A block of ``text`` is what the block before it printed:
digits behind a decimal point may differ, as they do between processors, and ``...`` stands for anything.
"""

import io
import random
import re
import sys
import warnings
from contextlib import redirect_stdout
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy
import pytest
import torch

pytest.importorskip("sybil", reason="sybil finds and runs the blocks")
pytest.importorskip("markdown_it", reason="markdown-it-py reads the pages")

from pages import PAGES, name_of, tokens
from sybil import Document, Example
from sybil.evaluators.python import PythonEvaluator, pad
from sybil.evaluators.skip import Skipper
from sybil.parsers.markdown import CodeBlockParser, SkipParser

from jumpstart_kernels.ops import backends

UNREAD = {"", "bash", "console", "py", "python3", "shell"}  # python, sh and text are what the tests look at
EXTRAS = {"lightning", "matplotlib", "sklearn", "tensorboard", "transformers"}  # not among what is required


class Runner:
    """Runs the blocks of one page and remembers what the last one printed."""

    def __init__(self) -> None:
        self.printed: str | None = None

    def run(self, example: Example) -> None:
        output = io.StringIO()
        with redirect_stdout(output):
            PythonEvaluator()(example)
        self.printed = output.getvalue()

    def compare(self, example: Example) -> None:
        assert self.printed is not None, f"line {example.line}: no block before this one printed anything"
        shown, printed = _without_digits(example.parsed), _without_digits(self.printed)
        if not OutputChecker().check_output(shown, printed, ELLIPSIS | NORMALIZE_WHITESPACE):
            raise AssertionError(f"line {example.line} shows\n{example.parsed}\nprinted is\n{self.printed}")

    def parse(self, page: Path) -> Document:
        parsers = [CodeBlockParser("python", self.run), CodeBlockParser("text", self.compare), SkipParser()]
        return Document.parse(str(page), *parsers)


def _without_digits(text: str) -> str:
    """The text with every decimal number as 0.0 and every rule as short as the shortest."""
    return re.sub(r"-{3,}", "---", re.sub(r"\d+\.\d+(e[-+]?\d+)?", "0.0", text))


@pytest.fixture
def isolated(tmp_path, monkeypatch):
    """Files go to a folder of the test, and what a block sets for all is as before."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small networks: threads would wait for those of the other workers
    before, numbers = _global_state(), (random.getstate(), numpy.random.get_state())
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)
    random.setstate(numbers[0])
    numpy.random.set_state(numbers[1])
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
    after = _global_state()
    torch.set_default_dtype(before[0])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    assert after == before


def _global_state() -> tuple[Any, ...]:
    groups = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.get_default_dtype(), torch.is_grad_enabled(), backends.select(torch.empty(1)), groups


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_run(page, isolated):
    for example in Runner().parse(page).examples():
        evaluator = example.region.evaluator
        if isinstance(evaluator, Skipper):
            assert example.parsed[1] or example.parsed[0] == "end", f"line {example.line}: skipped, but why?"
        try:
            example.evaluate()
        except SkipTest:
            if example.region.lexemes["arguments"] == "python":
                compile(pad(example.parsed, example.line), str(page), "exec")
        except ModuleNotFoundError as error:
            if error.name not in EXTRAS:
                raise
            pytest.skip(f"line {example.line} needs {error.name}")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_name_their_language(page):
    assert not UNREAD & {token.info for token in tokens(page) if token.type == "fence"}
