"""``benchmarks/paper/tickets.py``: the ways that are compared, the command, the report."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from inline_pool import InlinePool

from benchmarks.paper import sweep, tickets, tickets_images
from benchmarks.paper.cifar_images import Images
from benchmarks.paper.networks import Shape
from benchmarks.paper.report import __main__ as report
from benchmarks.paper.report import tickets as tickets_report
from benchmarks.paper.stack_training import Run, make_network
from benchmarks.paper.sweep import runs_of
from benchmarks.paper.tickets_arms import (
    ARMS,
    CHOICE,
    NO_REWINDING,
    ROUNDS,
    SPARSITIES,
    choose_lam,
    compare,
    trainings_of,
)
from benchmarks.paper.tickets_networks import ResNet20
from jumpstart_kernels.pruning import Ticket

RUN = Run("plain", 3, 0.01, initialization="he")
WORDS = ["--seeds", "2", "--steps", "4", "--shape", "2x6", "--sparsity", "0.5", "--sparsity", "0.9"]
IMAGES = ["--network", "resnet20", "--data", "images.npz", "--device", "cpu", "--epochs", "1", "--seeds", "1"]
IMAGES += [
    "--batch-size",
    "16",
    "--arm",
    "rescaled",
    "--arm",
    "iterative",
    "--sparsity",
    "0.5",
    "--lam",
    "0.1",
]


def build(run, other):
    return make_network(Shape(3, 8, 5, 4), replace(run, seed=run.seed + 1000 * other))


def first_weights(run, other):
    return {f"layers.{depth}": layer.weight for depth, layer in enumerate(build(run, other).layers)}


class Trainer:
    """Shifts all parameters; keeps what the networks were before."""

    def __init__(self):
        self.seen = []

    def train(self, members):
        for member in members:
            self.seen.append(
                (member, copy.deepcopy(weights_of(member)), member.ticket and member.ticket.masks)
            )
            with torch.no_grad():
                for parameter in member.network.parameters():
                    parameter.add_(torch.randn_like(parameter))
            if member.ticket:
                member.ticket.rewind(member.network.state_dict())
        return [{"accuracy": 0.5}] * len(members)

    def of(self, arm):
        return [(member, weights, masks) for member, weights, masks in self.seen if member.arm == arm]


def weights_of(member):
    layers = {f"layers.{depth}": layer for depth, layer in enumerate(member.network.layers)}
    return {name: layer.weight for name, layer in layers.items()}


@pytest.fixture
def seen():
    torch.manual_seed(0)
    trainer = Trainer()
    runs = [RUN, replace(RUN, seed=4)]
    records = compare(runs, build, trainer.train, sparsities=(0.5, 0.9))
    return trainer, records


def test_every_way_begins_with_the_weights_that_it_says(seen):
    trainer, _ = seen
    for index, run in enumerate((RUN, replace(RUN, seed=4))):
        start, fresh = (
            {f"layers.{i}": build(run, other).layers[i].weight for i in range(3)} for other in (0, 1)
        )
        dense = trainer.of("dense")[index][0]
        trained = weights_of(dense)
        for arm in (name for name in ARMS if name != "iterative"):
            of_run = [each for each in trainer.of(arm) if each[0].run == run]
            assert [member.sparsity for member, _, _ in of_run] == [0.5, 0.9]
            for member, weights, masks in of_run:
                best = Ticket(copy.deepcopy(dense.network), member.sparsity, skip=["classifier"]).masks
                assert set(masks) == set(best) == set(weights)
                same = all(torch.equal(mask, best[name]) for name, mask in masks.items())
                assert same == (arm != "random")
                origin = {"rewound": start, "kept": trained, "random": start}.get(arm, fresh)
                for name, mask in masks.items():
                    wanted = origin[name] * mask
                    if arm == "rescaled":
                        wanted = wanted * (mask.shape[1] / mask.sum(1, keepdim=True).clamp(min=1)).sqrt()
                    torch.testing.assert_close(weights[name], wanted)


def test_iterations_prune_what_they_have_trained_and_begin_again(seen):
    trainer, records = seen
    rounds = [each for each in trainer.of("iterative") if each[0].run == RUN]
    assert [member.sparsity for member, _, _ in rounds] == [value for value in ROUNDS if value <= 0.9]
    start = first_weights(RUN, False)
    for (_, _, wider), (member, weights, masks) in zip(rounds, rounds[1:], strict=False):
        assert all((mask <= wider[name]).all() for name, mask in masks.items())
        total = torch.cat([mask.flatten() for mask in masks.values()])
        assert (~total).sum() == round(member.sparsity * len(total))
        assert all(torch.equal(weights[name], start[name] * mask) for name, mask in masks.items())
    one_shot = [each[2] for each in trainer.of("rewound") if each[0].run == RUN][1]
    assert not all(torch.equal(mask, one_shot[name]) for name, mask in rounds[-1][2].items())
    stored = [record["sparsity"] for record in records if record["arm"] == "iterative"]
    assert stored == [0.5, 0.5, 0.9, 0.9]


def test_costs_count_every_training_up_to_a_result(seen):
    trainer, records = seen
    costs = {(record["arm"], record["sparsity"]): record["trainings"] for record in records}
    assert costs["dense", 0.0] == costs["random", 0.9] == 1 and costs["kept", 0.9] == 2
    assert costs["iterative", 0.5] == 1 + 2 and costs["iterative", 0.9] == 1 + 6
    assert trainings_of("iterative", 0.993) == 1 + len(ROUNDS) == 13
    assert set(SPARSITIES) <= set(ROUNDS) and list(ROUNDS) == sorted(ROUNDS)
    iterations = {member.ticket for member, _, _ in trainer.of("iterative")}
    assert len(iterations) == 2 and len(trainer.of("iterative")) == 2 * 6


def test_lam_is_chosen_by_the_mean_of_validation_accuracies():
    runs = [replace(RUN, seed=seed, lam=lam) for seed in (0, 1) for lam in (0.1, 1.0, 10.0)]

    def train(members):
        worth = {0.1: (0.9, 0.1), 1.0: (0.6, 0.7), 10.0: (0.5, 0.5)}
        return [{"validation_accuracy": worth[one.run.lam][one.run.seed]} for one in members]

    lam, records = choose_lam(runs, build, train)
    assert lam == 1.0 and len(records) == 6 * 3 and {record["arm"] for record in records} == {CHOICE}
    assert choose_lam(runs[::3], build, train) == (0.1, [])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder, threads = tmp_path_factory.mktemp("results"), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "ProcessPoolExecutor", InlinePool)
        assert tickets.main([*WORDS, "--output", str(folder / "paper_tickets.json")]) == 0
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
    return folder


def read(path):
    return json.loads(path.read_text())


def test_every_way_is_trained_with_every_seed_and_weight(results):
    record = read(results / "paper_tickets.json")
    assert set(record["tasks"]) == {f"breast_cancer/2/6/{name}" for name in ("plain", "jumpstart")}
    of_one = 1 + 2 * len(ARMS)
    tries = [run for run in runs_of(record) if run["arm"] == CHOICE]
    runs = [run for run in runs_of(record) if run["arm"] != CHOICE]
    assert len(runs) == 2 * 2 * of_one and len(tries) == 2 * 2 * 3
    keys = ("technique", "lam", "seed", "arm", "sparsity")
    assert len({tuple(run[key] for key in keys) for run in runs}) == len(runs)
    means = {
        lam: sum(run["validation_accuracy"] for run in tries if run["lam"] == lam) for lam in tickets.LAMS
    }
    (lam,) = {run["lam"] for run in runs if run["technique"] == "jumpstart"}
    assert means[lam] == max(means.values())
    assert all(run["initialization"] == "he" and run["weight_decay"] == 0 for run in runs)
    assert all(run["steps"] == 4 and run["step_seconds"] > 0 for run in runs)
    assert record["settings"]["data_sets"]["breast_cancer"]["rows"] == 569


def test_what_was_stopped_goes_on(results, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "ProcessPoolExecutor", InlinePool)
    path = tmp_path / "paper_tickets.json"
    whole = read(results / "paper_tickets.json")
    part = copy.deepcopy(whole)
    del part["tasks"]["breast_cancer/2/6/plain"]
    part["tasks"]["breast_cancer/2/6/jumpstart"]["runs"][0]["accuracy"] = -1.0  # it is not done again
    path.write_text(json.dumps({**part, "remaining": 1}))
    assert tickets.main([*WORDS, "--output", str(path)]) == 0
    again = read(path)
    assert again["tasks"]["breast_cancer/2/6/jumpstart"]["runs"][0]["accuracy"] == -1.0
    of_plain = [record["tasks"]["breast_cancer/2/6/plain"]["runs"] for record in (whole, again)]
    assert [run["accuracy"] for run in of_plain[0]] == [run["accuracy"] for run in of_plain[1]]
    assert tickets.main([*WORDS, "--lam", "0.5", "--output", str(path)]) == 2
    assert "has results for other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--only", "optdigits"], "--only optdigits: must be one of breast_cancer"),
        (["--data", "nowhere"], "nowhere"),
        (["--lam", "nan"], "--lam must be 0 or more, got nan"),
        (["--network", "resnet20"], "--network resnet20 needs --data FILE.npz"),
        (["--network", "resnet20", "--device", "abacus"], "--device abacus"),
        (["--network", "resnet20", "--data", "nowhere.npz"], "nowhere.npz"),
    ],
)
def test_mistakes_are_named(words, text, tmp_path, capsys):
    assert tickets.main([*words, "--output", str(tmp_path / "x.json")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and text in error
    assert not (tmp_path / "x.json").exists()


def test_shapes_and_sparsities_are_known(capsys):
    for words, text in (
        (["--shape", "6"], "must be a positive integer, got ''"),
        (["--sparsity", "0.7"], "invalid choice: 0.7"),
        (["--arm", "luck"], "invalid choice: 'luck'"),
    ):
        with pytest.raises(SystemExit):
            tickets.main([*words, "--output", "x.json"])
        assert text in capsys.readouterr().err


def test_resnet20_is_that_of_the_paper():
    network = ResNet20(10)
    assert sum(parameter.numel() for parameter in network.parameters()) == 269_722
    assert sum(isinstance(module, torch.nn.Conv2d) for module in network.modules()) == 19
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_images_are_trained_and_told_of(tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % 2
    x = (torch.randint(100, (80, 3, 16, 16), generator=generator) + 150 * labels.view(-1, 1, 1, 1)).byte()
    images = Images(x[:60], labels[:60], x[60:], labels[60:], 2)
    monkeypatch.setattr(tickets_images, "load_images", lambda *_: images)
    monkeypatch.setattr(sweep, "ProcessPoolExecutor", InlinePool)
    threads, path = torch.get_num_threads(), tmp_path / "paper_tickets_resnet20.json"
    tickets_images.load.cache_clear()
    assert tickets.main([*IMAGES, "--output", str(path)]) == 0
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
    tickets_images.load.cache_clear()
    record = read(path)
    assert set(record["tasks"]) == {"resnet20/jumpstart/0.1/0", "resnet20/plain/0/0"}
    for task in record["tasks"].values():
        assert [run["arm"] for run in task["runs"]] == ["dense", "rescaled", "iterative"]
        assert all(0 <= run["accuracy"] <= 1 and run["steps"] == 4 for run in task["runs"])
    assert "ResNet-20 on 60 images of CIFAR-10" in tickets_report.conditions(record)
    assert "| 20 × 16 | iterative, rewound | Jumpstart | " in tickets_report.accuracy_table(record)
    assert tickets_report.claim_table(record).count("\n") == 1  # of other sparsities
    assert len(tickets_report.draw_accuracies(record).axes) == 2


def made_up(shot, peer, validation=None):
    """A record of one seed at 0.9, with these accuracies of one shot with Jumpstart and of iterations."""
    runs = []
    for technique, lam in (("plain", 0.0), ("jumpstart", 0.1), ("jumpstart", 1.0)):
        for arm in ("iterative", *NO_REWINDING):
            accuracy = peer if arm == "iterative" else shot if technique == "jumpstart" else 0.1
            place = {"data_set": "made up", "depth": 2, "width": 3, "technique": technique, "lam": lam}
            run = {"arm": arm, "sparsity": 0.9, "seed": 0, "accuracy": accuracy, "trainings": 2}
            run["validation_accuracy"] = (validation or {}).get((technique, lam, arm), 0.5)
            runs.append(place | run)
    settings = {"arms": list(ARMS), "sparsities": [0.9]}
    return {"settings": settings, "tasks": {"all": {"runs": runs}}}


@pytest.mark.parametrize(
    ("shot", "peer", "text"),
    [
        (0.90, 0.905, "It **holds here**: at 0.9 in 1 of 1 cases (differences of −0.5 to −0.5 points"),
        (0.90, 0.915, "It **does not hold here**: at 0.9 in 0 of 1 cases (differences of −1.5 to −1.5"),
        (0.92, 0.90, "It **holds here**: at 0.9 in 1 of 1 cases (differences of +2.0 to +2.0 points, +2.0"),
    ],
)
def test_the_claim_is_said_to_hold_or_not(shot, peer, text):
    assert text in tickets_report.claim(made_up(shot, peer))


def test_validation_rows_choose_and_test_rows_do_not():
    validation = {("jumpstart", 1.0, "rescaled"): 0.6, ("jumpstart", 0.1, "iterative"): 0.7}
    record = made_up(0.9, 0.9, validation)
    for run in runs_of(record):
        if (run["technique"], run["lam"], run["arm"]) == ("jumpstart", 1.0, "rescaled"):
            run["accuracy"] = 0.2  # the worst in the test
    (verdict,) = tickets_report.verdicts(record)
    assert (verdict.shot[0]["arm"], verdict.shot[0]["lam"]) == ("rescaled", 1.0)
    assert (verdict.peer[0]["technique"], verdict.peer[0]["lam"]) == ("jumpstart", 0.1)
    assert not verdict.holds
    *_, row = tickets_report.claim_table(record).splitlines()
    assert row.startswith(
        "| made up | 2 × 3 | 0.9 | 90.0 (Jumpstart) | 2 | 20.0 (new weights, rescaled; λ = 1) "
    )
    assert row.endswith(" | 2 | −70.0 | no |")


def test_the_report_has_tables_and_a_picture(results, tmp_path):
    (tmp_path / "docs").mkdir()
    page, other = (tmp_path / document for document in report.DOCUMENTS)
    names = [*report.TABLES["paper_tickets"], "figure-paper_tickets"]
    page.write_text("".join(f"<!-- begin {name} -->\n<!-- end {name} -->\n" for name in names))
    other.touch()
    assert report.main(["--results", str(results), "--root", str(tmp_path)]) == 0
    text = page.read_text()
    assert "The claim is that one shot without rewinding" in text and "at 0.9 in" in text
    assert "Networks of 2 layers of 6 units" in text and "at most 128, 4 steps a training" in text
    assert "| network | way | activation | 0 | 0.5 | 0.9 |" in text
    assert "| 2 × 6 | iterative, rewound | 7 | 28 | " in text and "| 2 × 6 | random | 1 | 4 | " in text
    picture = tmp_path / "docs" / "figures" / "paper_tickets.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
