"""Commands in the pages, in blocks of ``sh`` and within lines: they, and all of their options, exist."""

import argparse
import io
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stderr
from importlib.util import find_spec
from itertools import dropwhile, groupby

import pytest

for name in ("markdown_it", "matplotlib", "PIL", "rich", "sklearn"):
    pytest.importorskip(name, reason="the pages, and the programs in them, are read with it")

from pages import PAGES, ROOT, name_of, tokens  # noqa: E402

PROGRAM = re.compile(r"([A-Z_]+=\S+ )*(\S*python3?|make|pip|torchrun|benchmarks/gpu\.sh) ")  # within a line
OURS = ("jumpstart_kernels", "benchmarks", "fuzz")


class Parsed(BaseException):
    """The arguments are right, and what they ask for is not wanted; no ``except Exception`` stops it."""


@pytest.mark.filterwarnings("ignore:.* found in sys.modules after import of package:RuntimeWarning")
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_exist(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for token in tokens(page):
        if token.type == "fence" and token.info == "sh":
            for line in token.content.replace("\\\n", " ").splitlines():
                check(line, monkeypatch)
        elif token.type == "code_inline" and PROGRAM.match(token.content):
            with monkeypatch.context() as patched:
                patched.setattr(argparse.ArgumentParser, "parse_known_args", parse_part)
                check(token.content, patched)


def parse_part(parser, *arguments, parse=argparse.ArgumentParser.parse_known_args):
    """A command within a line may leave out what it needs."""
    for action in parser._actions:
        action.required = False
    return parse(parser, *arguments)


def check(line, monkeypatch):
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    for separates, command in groupby(words, lambda word: word in ("&&", "||", ";")):
        command = list(dropwhile(lambda word: re.match(r"[A-Z_]+=", word), command))
        if command and not separates:
            check_program(*command, monkeypatch=monkeypatch)


def check_program(program, *words, monkeypatch):
    match re.sub(r"(.*/)?(python|pip)3?$", r"\2", program):
        case "python" if words[0] == "-m" and words[1].partition(".")[0] in OURS:
            assert find_spec(words[1]) is not None, f"there is no module {words[1]}"
            parse(lambda: runpy.run_module(words[1], run_name="__main__"), words[1:], monkeypatch)
        case "torchrun":
            words = list(dropwhile(lambda word: not word.endswith(".py"), words))
            if words:
                parse(lambda: runpy.run_path(words[0], run_name="__main__"), words, monkeypatch)
        case "make":
            check_make(words, monkeypatch)
        case "pip":
            check_extras(words)
        case "benchmarks/gpu.sh":
            script = (ROOT / program).read_text()  # options, stages, runs, devices
            known = re.findall(r"--\w+|^  \w+(?= +\d+ )|(?<=\[)\w+(?=\]=\d+)|cuda|cpu", script, re.MULTILINE)
            assert {word for word in words if not word.isdigit()} <= {*map(str.strip, known)}
        case "cd":
            assert (ROOT / words[0]).is_dir()
        case "source" | "export" | "python":
            pass
        case _:
            assert shutil.which(program), f"there is no program {program}"


def parse(run, words, monkeypatch):
    """Run a program until it has parsed its arguments."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, *arguments):
        parse_args(parser, *arguments)
        raise Parsed

    errors = io.StringIO()
    with (
        monkeypatch.context() as patched,
        redirect_stderr(errors),
        pytest.raises((Parsed, SystemExit)) as end,
    ):
        patched.setattr(sys, "argv", list(words))
        patched.setattr(sys, "path", list(sys.path))
        patched.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        run()
    assert end.type is Parsed, errors.getvalue()


def check_make(words, monkeypatch):
    makefile = (ROOT / "Makefile").read_text()
    for variable in re.findall(r"^(\w+)=", "\n".join(words), re.MULTILINE):
        assert f"$({variable})" in makefile, f"the Makefile has no variable {variable}"
    planned = subprocess.run(["make", "--dry-run", *words], capture_output=True, text=True)
    assert planned.returncode == 0, planned.stderr
    for module in OURS:
        for command in re.findall(rf"python -m {module}\b.*", planned.stdout):
            check(command, monkeypatch)


def check_extras(words):
    extras = re.findall(r"(?:^\.|jumpstart_kernels)\[([\w,]+)\]", "\n".join(words), re.MULTILINE)
    project = (ROOT / "pyproject.toml").read_text()
    for extra in ",".join(extras).split(",") if extras else ():
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), f"there is no extra {extra}"
