"""``demo``: the arguments that the command passes on."""

import sys
import types
from pathlib import Path

import pytest
from cli_runs import run


@pytest.fixture
def demo_calls(monkeypatch) -> list[dict]:
    """Replaces the demo by a function that captures its arguments."""
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
        (["--data", "wine,iris"], "argument --data: must be one of wine, breast_cancer, digits, got 'iris'"),
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
