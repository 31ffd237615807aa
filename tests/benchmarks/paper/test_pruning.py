"""``benchmarks/paper/pruning.py``: the peers' scores, both protocols, the command, the report."""

import json

import pytest
import torch
import torch.nn.functional as F
from inline_pool import InlinePool

from benchmarks.paper import pruning, sweep
from benchmarks.paper.networks import Rectangle, Shape
from benchmarks.paper.pruning_networks import TRAININGS, Schedule, accuracy, train_network
from benchmarks.paper.pruning_peers import PEERS, RANKINGS, Passes, normalized_scores
from benchmarks.paper.pruning_search import by_one_ranking, by_same_search, largest, rank
from benchmarks.paper.report import __main__ as report
from benchmarks.paper.report import pruning as tables
from benchmarks.paper.sweep import runs_of
from jumpstart_kernels.demo.data import Data
from jumpstart_kernels.pruning.reduction import Reduction

WORDS = ["--small", "--seeds", "1"]
CELLS = 2 * 3  # shapes, trainings; the data are of one set, with one seed
WAYS = 3 + 2 * len(RANKINGS)  # tolerances; protocols of each ranking


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Rectangle(Shape(2, 6, 4, 3), "plain").eval()


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(300, 4, generator=generator), torch.randint(3, (300,), generator=generator)


def score(name, model, rows, layer=0):
    return RANKINGS[name].score(Passes(model, *rows, seed=0), layer)


def test_scores_of_weights_are_their_definitions(model, rows):
    weight = model.layers[0].weight.detach()
    by_hand = {
        "magnitude": [float((row**2).sum() ** 0.5) for row in weight],
        "l1": [float(row.abs().sum()) for row in weight],
        "fpgm": [sum(float((row - other).norm()) for other in weight) for row in weight],
    }
    for name, expected in by_hand.items():
        assert score(name, model, rows).tolist() == pytest.approx(expected)


def test_activation_is_the_mean_output(model, rows):
    hidden = torch.relu(model.layers[0](rows[0]))
    assert torch.allclose(score("activation", model, rows), hidden.mean(0))
    assert torch.allclose(score("activation", model, rows, 1), torch.relu(model.layers[1](hidden)).mean(0))


def test_taylor_is_what_the_loss_of_each_row_changes_by_at_first_order(model, rows):
    """By differences of the loss for outputs that are scaled a little, in float64."""
    model, x = model.double(), rows[0].double()
    hidden, step = torch.relu(model.layers[0](x)).detach(), 1e-6
    expected = []
    for unit in range(6):
        losses = []
        for factor in (1 + step, 1 - step):
            scaled = hidden.clone()
            scaled[:, unit] *= factor
            logits = model.classifier(torch.relu(model.layers[1](scaled)))
            losses.append(F.cross_entropy(logits, rows[1], reduction="none"))
        expected.append(((losses[0] - losses[1]) / (2 * step)).abs().mean().item())
    assert score("taylor", model, (x, rows[1])).tolist() == pytest.approx(expected, rel=1e-5)


def test_chance_is_of_the_seed_and_the_layer(model, rows):
    first, again = score("random", model, rows), score("random", model, rows)
    assert torch.equal(first, again) and not torch.equal(first, score("random", model, rows, 1))


def test_data_free_goes_from_one_unit_to_the_next(model, rows):
    """Three units by hand: 1 is close to 0, and has the smaller outgoing weights."""
    with torch.no_grad():
        model.layers[0].weight.zero_()
        model.layers[0].bias.copy_(torch.tensor([0.0, 1.0, 4.0, 100.0, 200.0, 400.0]))
        model.layers[1].weight.copy_(torch.tensor([2.0, 1.0, 3.0, 100.0, 100.0, 100.0]).expand(6, 6))
    found = score("data_free", model, rows)
    assert found[1] == 1 * 1  # in favor of 0
    assert found[0] == 4 * 16  # 1 is gone: in favor of 2
    assert found[2] == 9 * 96**2  # 0 and 1 are gone: in favor of 3
    assert found.argsort().tolist()[:3] == [1, 0, 2] and found.isfinite().all()


def test_units_that_others_explain_are_not_missed(model, rows):
    with torch.no_grad():
        model.layers[0].weight[3] = 2 * model.layers[0].weight[2]
        model.layers[0].bias[3] = 2 * model.layers[0].bias[2]
        model.layers[0].bias[5] = -100.0
    found = score("missed", model, rows)
    assert set(found.argsort()[:3].tolist()) == {2, 3, 5}
    assert found[[2, 3, 5]].max() < 1e-3 * found[[0, 1, 4]].min()


@pytest.mark.parametrize("name", list(RANKINGS))
def test_rankings_keep_the_best_of_each_layer(name, model, rows):
    passes = Passes(model, *rows, seed=0)
    ranking = rank(RANKINGS[name], passes)
    assert len(set(ranking)) == len(ranking) == 2 * 5
    values = [normalized_scores(RANKINGS[name], passes, layer) for layer in (0, 1)]
    assert [float(values[layer][unit]) for layer, unit in ranking] == sorted(
        float(values[layer][unit]) for layer, unit in ranking
    )
    assert all((layer, int(values[layer].argmax())) not in ranking for layer in (0, 1))


@pytest.mark.parametrize("most", [0, 1, 2, 7, 8, 100])
def test_the_largest_number_is_found(most):
    for limit in range(most + 1):
        assert largest(lambda k, limit=limit: k <= limit, most) == limit


def test_small_numbers_that_do_not_hold_do_not_hide_larger_ones():
    assert largest(lambda k: 20 <= k <= 40, 100) == 40


@pytest.fixture
def redundant(model):
    """In each layer unit 3 is twice unit 2, and unit 5 is dead."""
    with torch.no_grad():
        for layer in model.layers:
            layer.weight[3], layer.bias[3] = 2 * layer.weight[2], 2 * layer.bias[2]
            layer.bias[5] = -100.0
    return model


@pytest.mark.parametrize("search", [by_one_ranking, by_same_search])
def test_what_is_redundant_goes_and_no_decision_changes(search, redundant, rows):
    data = pruning.order_by_gap(redundant, *rows, 300)
    reduction = Reduction(redundant, data.batches)
    count = search(reduction, RANKINGS["missed"], data, 0)
    with torch.no_grad():
        check = reduction.decisions.check(reduction.network.model)
    left = [len(reduction.network.left[units]) for units in reduction.structure.sets[:2]]
    assert check.flips == 0 and count == 12 - sum(left)
    assert count >= 4 and min(left) >= 1


@pytest.mark.parametrize("name", list(PEERS))
def test_the_same_search_tells_every_peer_what_is_dead(name, redundant, rows):
    data = pruning.order_by_gap(redundant, *rows, 300)
    reduction = Reduction(redundant, data.batches)
    by_same_search(reduction, PEERS[name], data, 0)
    assert all(5 not in reduction.network.left[units] for units in reduction.structure.sets[:2])


def test_all_but_one_unit_can_go(rows):
    """Of layers whose units are all dead."""
    model = Rectangle(Shape(2, 6, 4, 3), "plain").eval()
    with torch.no_grad():
        for layer in model.layers:
            layer.bias.fill_(-100.0)
        model.classifier.bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
    data = pruning.order_by_gap(model, *rows, 300)
    for search in (by_one_ranking, by_same_search):
        for flushed in (False, True):  # as in the processes of a sweep
            torch.set_flush_denormal(flushed)
            try:
                assert search(Reduction(model, data.batches), PEERS["magnitude"], data, 0) == 10
            finally:
                torch.set_flush_denormal(False)


def test_the_closest_decisions_are_in_the_first_batch(model, rows):
    data = pruning.order_by_gap(model, *rows, 200)
    assert [len(batch) for batch in data.batches] == [128, 72]
    with torch.no_grad():
        top = [model(batch).topk(2, 1).values for batch in data.batches]
    gaps = [values[:, 0] - values[:, 1] for values in top]
    assert gaps[0].max() <= gaps[1].min()
    x = torch.cat(list(data.batches))
    for row, label in zip(x, data.labels, strict=True):
        assert rows[1][(rows[0] == row).all(1)].tolist() == [label]


@pytest.mark.parametrize("name", list(TRAININGS))
def test_networks_learn(name):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 2, generator=generator)
    y = (x[:, 0] * x[:, 1] > 0).long()
    data = Data("made up", x[:300], y[:300], x[300:], y[300:])
    first, again = (train_network(TRAININGS[name], data, 3, 16, Schedule(300, 64)) for _ in range(2))
    assert accuracy(first, data.x_test, data.y_test) > 0.85 and not first.training
    assert torch.equal(first(x), again(x))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "ProcessPoolExecutor", InlinePool)
        assert pruning.main([*WORDS, "--output", str(folder / "paper_pruning.json")]) == 0
    return folder


def read(path):
    return json.loads(path.read_text())


def test_every_method_prunes_every_network_without_a_flip(results):
    record = read(results / "paper_pruning.json")
    assert len(record["tasks"]) == CELLS and record["remaining"] == 0
    for task in record["tasks"].values():
        assert len({(run["method"], run["protocol"]) for run in task["runs"]}) == WAYS
    for run in runs_of(record):
        assert run["flips"] == 0 and 0 <= run["removed"] <= run["removable"]
        assert (run["calibration"], run["unseen"]) == (200, 190)
        changed = abs(run["accuracy"] - run["accuracy_before"]) * run["unseen"]
        assert changed <= run["unseen_flips"] + 1e-9
        if run["method"] == pruning.OURS:
            assert run["dead"] + run["merged"] + run["with_layers"] == run["removed"]
    assert any(run["removed"] for run in runs_of(record))


def test_what_was_stopped_goes_on(results, tmp_path, monkeypatch):
    path = tmp_path / "paper_pruning.json"
    part = read(results / "paper_pruning.json")
    missing = part["tasks"].pop("breast_cancer/shallow/plain/0")
    path.write_text(json.dumps({**part, "remaining": 1}))
    monkeypatch.setattr(sweep, "ProcessPoolExecutor", InlinePool)
    assert pruning.main([*WORDS, "--output", str(path)]) == 0
    assert read(path)["tasks"]["breast_cancer/shallow/plain/0"]["runs"] == missing["runs"]


def test_mistakes_are_named(tmp_path, capsys):
    assert pruning.main(["--data", "nowhere", "--output", str(tmp_path / "x.json")]) == 2
    assert "nowhere" in capsys.readouterr().err and not (tmp_path / "x.json").exists()


def test_the_report_has_tables_and_a_picture(results, tmp_path):
    (tmp_path / "docs").mkdir()
    page, other = (tmp_path / document for document in report.DOCUMENTS)
    names = [*tables.TABLES, "figure-paper_pruning"]
    page.write_text("".join(f"<!-- begin {name} -->\n<!-- end {name} -->\n" for name in names))
    other.touch()
    assert report.main(["--results", str(results), "--root", str(tmp_path)]) == 0
    text = page.read_text()
    assert f"changed in none of {CELLS * WAYS} runs." in text and f"Of {CELLS} cells, ours" in text
    assert text.count("| Breast Cancer | 2 × 8 | weight decay |") == 4  # of each table by cells
    assert "| all, best peer of each cell | " in text and "| order of ours | " in text
    picture = tmp_path / "docs" / "figures" / "paper_pruning.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
