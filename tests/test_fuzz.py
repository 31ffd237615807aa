"""A short campaign of ``python -m fuzz``, and that it detects planted bugs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzz import __main__ as command
from fuzz.campaign import Tally, plan, run_group
from fuzz.definition import LayerOptions, PenaltyOptions, jumpstart_activation, penalty
from fuzz.fragments import ARRANGEMENTS
from fuzz.models import FORMS, INPLACE_FORMS, OWN_FORM, OWN_INPLACE_FORM
from fuzz.modes import MODES, Implementation
from fuzz.plants import PLANTS, EveryRecordTwice, Planted

from jumpstart_kernels.demo.training import one_thread
from jumpstart_kernels.ops import backends

SEED = 0
GOLDEN = np.load(Path(__file__).parent / "golden" / "jumpstart_penalty.npz")
FAST = [mode for mode in MODES.values() if mode.compiler is None and mode.backend != "triton"]

# What random fragments have to come across for their agreement to mean something.
MUST_MEET = {
    *(OWN_FORM, OWN_INPLACE_FORM, *FORMS, *INPLACE_FORMS),
    *ARRANGEMENTS,
    *("dead units", "linear units", "dead points", "linear points", "zeros", "hinges at their kink"),
    *("tied units", "tied points", "ties single", "ties average", "ties random"),
    *("points sample", "points position", "shared ReLU", "fused bias", "batch of 0", "batch of 1"),
    *("Linear", "Convolution", "Pool", "Norm", "Flatten", "Dropout", "Residual", "Concat", "Checkpoint"),
    *(f"reduction {name}" for name in ("balanced", "mean", "sum", "norm", "squared")),
    *("style normal", "style grid", "style tied", "style extreme", "torch.float32", "torch.float64"),
}


@pytest.fixture(autouse=True)
def threads():
    with one_thread():
        yield


def run(groups, implementation=Implementation):
    total = Tally()
    for mode, index, cases in groups:
        total.add(run_group(mode, SEED, index, cases, implementation))
    return total


def explain(tally):
    return "\n".join(f"{f.mode}/{f.group} case {f.case}: {f.message}\n{f.details}" for f in tally.failures)


def test_eager_modes_agree_with_the_definition():
    tally = run(plan(320, FAST))
    assert not tally.failures, explain(tally)
    assert tally.values_only <= 40  # gradients are what this is about
    assert sum(tally.cases.values()) >= 310 and all(tally.cases[mode.name] >= 16 for mode in FAST)
    missed = {name for name in MUST_MEET if not tally.seen[name]}
    assert not missed, f"no case met {sorted(missed)}"


def test_compiled_modes_agree_with_the_definition():
    tally = run(
        [("compiled", 1, 8), ("compiled", 2, 8), ("compiled_autocast", 0, 8), ("compiled_checkpointed", 0, 6)]
    )
    assert not tally.failures, explain(tally)
    assert sum(tally.cases.values()) >= 26


def test_interpreted_triton_agrees_with_the_definition():
    reason = backends.unavailable("triton", "cpu")
    if reason is not None:
        pytest.skip(f"triton on cpu: {reason}")
    tally = run([("triton", index, 1) for index in range(3)])
    assert not tally.failures, explain(tally)
    assert tally.cases["triton"] == 3


def test_the_definition_in_the_place_of_the_package_is_right():
    tally = run(plan(60, [mode for mode in FAST if not mode.injected]), Planted)
    assert not tally.failures, explain(tally)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_what_is_wrong_is_found(plant):
    """Within 200 cases; most within ten."""
    mode = PLANTS[plant]
    found = any(run_group(mode, SEED, index, 4, plant).failures for index in range(50))
    assert found, f"200 cases of {mode} do not show {plant.__name__}"


@pytest.mark.parametrize("case", ("dense_small", "dense_three_layers", "conv_small"))
def test_the_definition_has_the_published_values(case):
    keys = [key for key in GOLDEN.files if key.startswith(f"{case}/") and key.endswith("/penalty")]
    assert len(keys) == 120
    layers = sum(key.startswith(f"{case}/x") for key in GOLDEN.files)
    inputs = [
        torch.from_numpy(GOLDEN[f"{case}/x{layer}"]).double().requires_grad_() for layer in range(layers)
    ]
    for key in keys:
        _, terms, reduction, balance, ties, _ = key.split("/")
        records = [jumpstart_activation(x, LayerOptions(tie_breaking=ties))[1] for x in inputs]
        value = penalty(records, PenaltyOptions(reduction, float(balance), terms))
        assert value.item() == pytest.approx(GOLDEN[key].item(), rel=1e-12), key
        for layer, gradient in enumerate(torch.autograd.grad(value, inputs)):
            expected = torch.from_numpy(GOLDEN[key.replace("penalty", f"grad{layer}")])
            torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-13, msg=f"{key} {layer}")


def test_the_command_writes_what_it_found(tmp_path, capsys):
    file = tmp_path / "fuzz.json"
    words = ["--cases", "9", "--seed", "3", "--only", "eager", "--only", "autocast", "--output", str(file)]
    assert command.main(words) == 0
    results = json.loads(file.read_text())
    assert results["cases"] == 9 and results["seed"] == 3 and results["failures"] == []
    assert (
        results["modes"].keys() == {"eager", "autocast"} and results["machine"]["torch"] == torch.__version__
    )
    assert str(tmp_path) not in file.read_text()
    assert "9 cases, 0 failures" in capsys.readouterr().out


def test_the_command_names_the_group_that_fails(monkeypatch, capsys):
    def wrong(mode, seed, index, cases):
        return run_group(mode, seed, index, cases, EveryRecordTwice)

    monkeypatch.setattr("fuzz.processes.run_group", wrong)
    assert command.main(["--cases", "40", "--seed", "7", "--only", "eager"]) == 1
    assert "python -m fuzz --seed 7 --group eager/" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--cases", "0"], "must be a positive integer, got '0'"),
        (["--group", "eager"], "must be MODE/INDEX, got 'eager'"),
        (["--group", "lazy/1"], "must be MODE/INDEX, got 'lazy/1'"),
        (["--only", "lazy"], "invalid choice: 'lazy'"),
    ],
)
def test_the_command_refuses(words, text, capsys):
    with pytest.raises(SystemExit):
        command.main(words)
    assert text in capsys.readouterr().err
