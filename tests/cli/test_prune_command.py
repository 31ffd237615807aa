"""``prune``: the report, the files that it writes, and what it refuses."""

import pytest
import torch
from cli_runs import run
from torch import nn

import jumpstart_kernels as jk


@pytest.fixture
def arguments(models) -> list[str]:
    """A classifier with a dead unit and one that another one doubles, and its data."""
    torch.manual_seed(0)
    model = classifier()
    with torch.no_grad():
        model[0].weight[1] = 2 * model[0].weight[0]
        model[0].bias[1] = 2 * model[0].bias[0]
        model[2].bias[3] = -1e4
    torch.save(model.state_dict(), "weights.pt")
    torch.save(torch.randn(300, 13), "x.pt")
    torch.save(torch.randn(50, 13), "other.pt")
    return ["--model", f"{models}:classifier", "--weights", "weights.pt", "--data", "x.pt", "--device", "cpu"]


def classifier() -> nn.Sequential:
    return nn.Sequential(nn.Linear(13, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def test_prune_prints_what_has_gone(arguments, capsys):
    status, out, err = run(capsys, "prune", *arguments, "--unseen", "other.pt")
    assert (status, err) == (0, "")
    rows = [line.split()[:6] for line in out.splitlines()]
    assert ["0", "6", "5", "0", "1", "0"] in rows
    assert ["2", "5", "4", "1", "0", "0"] in rows
    assert "0 of 300 decisions changed, of at most 0" in out
    assert "0 of 50 decisions on unseen data changed: below 5.82% at 95 %" in out


def test_prune_writes_a_model_and_a_picture(arguments, capsys, tmp_path):
    pytest.importorskip("matplotlib", reason="the picture is drawn with matplotlib")
    status, out, err = run(capsys, "prune", *arguments, "--output", "small.pt", "--plot", "units.png")
    assert (status, err) == (0, "")
    assert "written to small.pt, units.png" in out
    assert (tmp_path / "units.png").read_bytes().startswith(b"\x89PNG")
    small = jk.pruning.load_pruned(classifier(), tmp_path / "small.pt")
    assert [layer.out_features for layer in small[::2]] == [5, 4, 3]
    given = classifier()
    given.load_state_dict(torch.load("weights.pt", weights_only=True))
    x = torch.load("x.pt", weights_only=True)
    torch.testing.assert_close(small(x), given(x), rtol=1e-4, atol=1e-4)


def test_prune_tries_more_with_a_tolerance(arguments, capsys):
    totals = []
    for tolerance, flips in (("0", "0"), ("2", "300")):
        _, out, _ = run(capsys, "prune", *arguments, "--tolerance", tolerance, "--max-flips", flips)
        totals.append(next(line.split() for line in out.splitlines() if line.startswith("total")))
    assert int(totals[1][2]) < int(totals[0][2])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--tolerance", "3"], "argument --tolerance: must be a number from 0 to 2, got '3'"),
        (["--tolerance", "near"], "argument --tolerance: must be a number from 0 to 2, got 'near'"),
        (["--max-flips", "-1"], "argument --max-flips: must be an integer from 0, got '-1'"),
        (["--output", "small.zip"], "error: --output must end in .pt, got 'small.zip'"),
        (["--plot", "units.txt"], "error: --plot must end in .png, .svg, .pdf, got 'units.txt'"),
        (["--output", "nowhere/small.pt"], "error: --output: there is no folder nowhere"),
        (["--unseen", "x.txt"], "error: --unseen must be wine, breast_cancer, digits, or a file of"),
        (["--unseen", "missing.pt"], "error: there is no file missing.pt"),
    ],
)
def test_prune_refuses_wrong_arguments_before_it_starts(arguments, capsys, wrong, message):
    status, out, err = run(capsys, "prune", *arguments, *wrong)
    assert (status, out) == (2, "")
    assert message in err


def test_prune_names_what_a_model_lacks(models, capsys):
    torch.save(torch.randn(30, 13), "x.pt")
    status, out, err = run(capsys, "prune", "--model", f"{models}:no_relu", "--data", "x.pt")
    assert (status, out) == (2, "")
    assert "model must have a layer that can be cut: there is none" in err
    status, out, err = run(capsys, "prune", "--model", f"{models}:classifier", "--data", "wrong.pt")
    assert "there is no file wrong.pt" in err
