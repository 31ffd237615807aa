"""The command and its report, on networks of a few steps and on made-up results."""

import json

import pytest

from benchmarks.paper.sweep import runs_of
from benchmarks.plasticity import __main__ as plasticity
from benchmarks.plasticity import report, tables
from benchmarks.plasticity.jobs import best_base
from benchmarks.plasticity.selection import of, ranked, summary
from benchmarks.plasticity.settings import SETTINGS
from benchmarks.plasticity.techniques import COMBINED, TECHNIQUES

PARTS = ("conditions", "summary", "goal", "rates", "course", *SETTINGS)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of a quick run of one problem with one optimizer."""
    path = tmp_path_factory.mktemp("results") / "plasticity.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plasticity, "SETTINGS", {"permuted_digits": SETTINGS["permuted_digits"]})
        patch.setattr(plasticity, "OPTIMIZERS", {"adam": None})
        words = ["--quick", "--seeds", "2", "--jobs", "1", "--output", str(path)]
        assert plasticity.main(words) == 0
        before = path.read_text()
        assert plasticity.main(words) == 0  # resumes: there is nothing left to do
        assert json.loads(path.read_text()) == json.loads(before)
    return path


def test_a_run_tunes_every_technique_and_tests_the_best_setting_on_other_seeds(results):
    record = json.loads(results.read_text())
    runs = runs_of(record)
    for name in (*TECHNIQUES, COMBINED):
        tuned = of(runs, "permuted_digits", "adam", name, tuning=True)
        tested = of(runs, "permuted_digits", "adam", name, tuning=False)
        (setting, _), *_ = ranked(tuned, regression=False)
        assert [run["seed"] for run in tested] == [0, 1]
        assert all((run["rate"], run["strength"], run["lam"]) == setting for run in tested)
        assert all(len(run["scores"]) == 10 and run["measured"] == [0, 4, 9] for run in tested)
        assert "scores" not in tuned[0] and {run["seed"] for run in tuned} == {100, 101}
    base = tested[0]["base"]
    assert base == best_base(runs, "permuted_digits", "adam")[0] != "jumpstart"
    assert record["remaining"] == 0


def test_other_settings_are_an_error_of_one_line(results, capsys):
    assert plasticity.main(["--quick", "--seeds", "3", "--output", str(results)]) == 2
    assert "other settings" in capsys.readouterr().err


def test_summaries_and_ranks():
    scores = [0.0, 1.0, *[0.5] * 16, 1.0, 0.5]
    assert summary({"scores": scores}, False) == {"mean": 0.525, "first": 0.5, "last": 0.75}
    assert summary({"scores": [None, *scores[1:]]}, True)["first"] is None
    settings = [(0.1, 1.0), (0.1, 3.0), (0.2, 1.5), (0.2, 1.0), (0.3, None), (0.3, 0.0)]
    runs = [{"rate": rate, "strength": 0.0, "lam": 0.0, "mean": mean} for rate, mean in settings]
    assert [setting[0] for setting, _ in ranked(runs, True)] == [0.2, 0.1, 0.3]
    assert [setting[0] for setting, _ in ranked(runs, False)] == [0.1, 0.2, 0.3]


def made_up():
    """A record of two problems, on one of which continual backpropagation diverges."""
    titles = {"permuted_digits": "online accuracy", "slowly_changing_regression": "online squared error"}
    problems = {
        name: {
            "title": name.replace("_", " "),
            "score": score,
            "tasks": 20,
            "steps": 5,
            "batch_size": 4,
            "width": 8,
            "tuned": 10,
            "rates": {"sgd": [0.1, 0.2, 0.3], "adam": [0.01, 0.02, 0.03]},
        }
        for name, score in titles.items()
    }
    runs = []
    for problem in problems:
        for optimizer in tables.OPTIMIZERS:
            for place, name in enumerate((*TECHNIQUES, COMBINED)):
                for seed in (100, 101, 0, 1):
                    score = 0.9 - 0.01 * place if "regression" in problem else 0.5 + 0.01 * place
                    rate = problems[problem]["rates"][optimizer][place % 2]
                    run = {"problem": problem, "optimizer": optimizer, "technique": name, "seed": seed}
                    run |= {"tuning": seed >= 100, "base": "l2" if name == COMBINED else None}
                    run |= {"rate": rate, "strength": 0.0, "lam": 0.1 * (name == "jumpstart")}
                    run |= {"mean": score, "first": score, "last": score + 0.002 * seed}
                    inside = ("dead", "linear", "dormant", "rank", "magnitude", "scale")
                    if run["tuning"]:
                        run |= {measure: 0.004 for measure in inside}
                    else:
                        run |= {"scores": [score] * 20, "measured": [0, 9, 19]}
                        run |= {measure: [0.1, 0.05, 0.004] for measure in inside}
                    if name == "continual_backprop" and "regression" in problem and seed == 1:
                        run |= {"mean": None, "last": None, "scores": [score] * 10 + [None] * 10}
                    runs.append(run)
    for problem in problems:  # the other learning rates
        for optimizer, rates in ((name, problems[problem]["rates"][name]) for name in tables.OPTIMIZERS):
            tuned = [run for run in runs if run["tuning"] and run["problem"] == problem]
            tuned = [run for run in tuned if run["optimizer"] == optimizer]
            runs += [run | {"rate": rate} for run in tuned for rate in rates if rate != run["rate"]]
    machine = {"cpu": "a CPU", "jobs": 2, "command": "python -m benchmarks.plasticity"}
    settings = {"problems": problems, "depth": 5, "tuning_seeds": [100, 101], "seeds": 2}
    return {"machine": machine, "settings": settings, "tasks": {"all": {"seconds": 60, "runs": runs}}}


def test_the_report_of_made_up_results(tmp_path, capsys):
    results, document = tmp_path / "plasticity.json", tmp_path / "docs" / "plasticity.md"
    results.write_text(json.dumps(made_up()))
    document.parent.mkdir()
    names = [f"plasticity-{part}" for part in PARTS] + ["figure-plasticity"]
    document.write_text("".join(f"<!-- begin {name} -->\n<!-- end {name} -->\n" for name in names))
    assert report.main(["--results", str(tmp_path), "--root", str(tmp_path)]) == 0
    text = document.read_text()
    assert (tmp_path / "docs" / "figures" / "plasticity.png").stat().st_size > 10_000
    assert "| Jumpstart | 0.581" in text and "| Jumpstart + best | **0.601** ± 0.001" in text
    assert "diverged for 1 of 2 seeds" in text
    goal = tables.goal_table(made_up()).splitlines()[2]
    assert goal == "| permuted digits, SGD | Jumpstart | +0.030 (2 of 2) | +0.060 (2 of 2) | 0.40 % | yes |"
    assert "| Jumpstart + best (L2) | SGD | 0.1* |" in text and "| Jumpstart | SGD | 0.1*, λ 0.1 |" in text
    assert "| permuted digits, SGD | Jumpstart | 0.580; 0.1; 0.1 | 0.580; 0.1; 0.1 |" in text
    assert text.count("plasticity-random_labels") == 2  # nothing of what is not in the results


def test_incomplete_results_change_nothing(tmp_path, capsys):
    results = tmp_path / "plasticity.json"
    results.write_text(json.dumps(made_up() | {"remaining": 3}))
    assert report.main(["--results", str(tmp_path), "--root", str(tmp_path)]) == 0
    assert "is not complete" in capsys.readouterr().out and list(tmp_path.iterdir()) == [results]
