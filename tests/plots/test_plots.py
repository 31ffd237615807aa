"""The plots: their content, their axes, and that they leave matplotlib unchanged."""

import importlib
import math
import subprocess
import sys

import pytest
import torch

pytest.importorskip("matplotlib", reason="the plots are drawn with matplotlib")

import matplotlib
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from pictures import (
    DEAD,
    LINEAR,
    NONLINEAR,
    WHITE,
    X,
    cells_of,
    extrema,
    make_model,
    pruned_report,
    row_names,
    save,
    status,
    texts,
)

import jumpstart_kernels as jk
from jumpstart_kernels.penalties.by_layer import PenaltyTerms
from jumpstart_kernels.plots import style


def drawings():
    """Every plot, drawn on given axes or figures."""
    model = jk.replace_relu(make_model())
    report, batch = jk.unit_usage(model, [X]), jk.layer_extrema(model, X)
    parts = jk.penalty_by_layer(batch)
    records = [{"epoch": i, "loss": 1 / (i + 1)} for i in range(3)]
    cosines = [{"step": i, "cosines": jk.sample_cosines(model, X)} for i in range(3)]
    return {
        "unit_status_map": lambda **own: jk.plots.unit_status_map(report, **own),
        "point_status_map": lambda **own: jk.plots.point_status_map(report, **own),
        "units": lambda **own: jk.plots.extrema_strips(report, **own),
        "points": lambda **own: jk.plots.extrema_strips(batch, of="points", **own),
        "penalty_bars": lambda **own: jk.plots.penalty_bars(parts, **own),
        "pruned_units": lambda **own: jk.plots.pruned_units(pruned_report(), **own),
        "sample_cosine_map": lambda **own: jk.plots.sample_cosine_map(cosines, **own),
        "learning_curves": lambda **own: jk.plots.learning_curves(records, y="loss", **own),
    }


@pytest.mark.parametrize("name", list(drawings()))
def test_a_plot_takes_axes_or_makes_them(name):
    draw = drawings()[name]
    alone = draw()
    assert isinstance(alone.figure, Figure)
    figure = Figure(layout="constrained")
    given = figure.subplots()
    assert draw(ax=given) is given
    assert save(figure) and save(alone.figure)


def test_matplotlib_is_left_as_it_was():
    """Neither its settings nor pyplot's figures change, and nothing is shown."""
    import matplotlib.pyplot as plt

    before, open_figures = dict(matplotlib.rcParams), plt.get_fignums()
    for draw in drawings().values():
        save(draw().figure)
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == open_figures


def test_matplotlib_is_imported_when_something_is_drawn():
    code = (
        "import sys, jumpstart_kernels as jk; jk.plots.unit_status_map; "
        "assert 'matplotlib' not in sys.modules; import torch; "
        "jk.plots.unit_status_map({'a': torch.zeros(2, dtype=torch.int8)}); "
        "assert 'matplotlib.figure' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for draw in drawings().values():
        with pytest.raises(ImportError, match=r"pip install jumpstart_kernels\[plots\]"):
            draw()


def test_unit_map_has_a_cell_a_unit():
    ax = jk.plots.unit_status_map({"first": status(-1, 0, 1), "second": status(1, 1, -1)})
    assert cells_of(ax).tolist() == [[DEAD, LINEAR, NONLINEAR], [NONLINEAR, NONLINEAR, DEAD]]
    assert row_names(ax) == ["first", "second"] and ax.yaxis_inverted()
    assert texts(ax) == ["dead", "33.3 %", "33.3 %", "linear", "33.3 %", "0"]


def test_layers_of_other_widths_fill_their_rows():
    cells = cells_of(jk.plots.unit_status_map({"a": status(-1, 1), "b": status(1, 1, 1, 0)}))
    width = cells.shape[1]
    assert cells[0].tolist() == [DEAD] * (width // 2) + [NONLINEAR] * (width // 2)
    assert cells[1].tolist() == [NONLINEAR] * (width * 3 // 4) + [LINEAR] * (width // 4)


def test_many_units_are_ordered_by_status():
    wide = torch.ones(2048, dtype=torch.int8)
    wide[1000:1256], wide[5] = -1, 0
    ax = jk.plots.unit_status_map({"wide": wide})
    dead = cells_of(ax)[0] == DEAD
    assert dead[: dead.sum()].all() and dead.float().mean() == pytest.approx(1 / 8, abs=0.002)
    assert texts(ax) == ["dead", "12.5 %", "linear", "<0.1 %"]
    unsorted = cells_of(jk.plots.unit_status_map({"wide": wide}, sort=False))[0] == DEAD
    assert not unsorted[0] and unsorted.float().mean() == pytest.approx(1 / 8, abs=0.002)


def test_points_are_in_one_order():
    """Those that most layers are dead for come first, in every row."""
    ax = jk.plots.point_status_map({"a": status(1, -1, 0, 1), "b": status(1, -1, 1, -1)}, sort=True)
    expected = [[DEAD, NONLINEAR, LINEAR, NONLINEAR], [DEAD, DEAD, NONLINEAR, NONLINEAR]]
    assert cells_of(ax).tolist() == expected


def test_maps_agree_on_every_source():
    """A report, a metric and a batch's extrema of the same data yield the same cells."""
    model = make_model()
    metric = jk.UnitUsage()
    with metric.watch(model):
        model(X)
    sources = [metric, metric.report(), jk.layer_extrema(model, X)]
    for draw in (jk.plots.unit_status_map, jk.plots.point_status_map):
        first, *others = (cells_of(draw(source)) for source in sources)
        assert len(first.unique()) > 1 and all(torch.equal(first, other) for other in others)
    expected = torch.stack(list(sources[1].unit_status.values()))
    assert torch.equal(cells_of(jk.plots.unit_status_map(metric)), expected)


def test_a_layer_with_other_points_is_left_white():
    batch = {
        "a": extrema([1.0], [-1.0], [1.0, -1.0], [-1.0, -2.0]),
        "b": extrema([1.0], [-1.0], [1.0] * 2, [-1.0] * 2),
        "tokens": extrema([1.0], [-1.0], [1.0] * 6, [-1.0] * 6),
    }
    ax = jk.plots.point_status_map(batch)
    assert (cells_of(ax)[2] == WHITE).all()
    assert texts(ax)[1:4] == ["50 %", "0", "–"]


def test_positions_count_as_their_sample():
    batch = {"a": extrema([1.0], [-1.0], [[-1.0, 2.0], [-1.0, -1.0]], [[-2.0, -2.0], [-2.0, -2.0]])}
    assert cells_of(jk.plots.point_status_map(batch)).tolist() == [[NONLINEAR, DEAD]]


def test_strips_mark_every_extremum():
    ax = jk.plots.extrema_strips({"a": extrema([2.0, 0.5], [-3.0, math.nan]), "b": extrema([0.0], [-1.0])})
    marks = {}
    for lines in ax.collections:
        colour = tuple(lines.get_color()[0][:3])
        marks.setdefault(colour, []).extend(
            (float(path.vertices[0][0]), round(float(path.vertices[:, 1].mean())))
            for path in lines.get_paths()
        )
    assert sorted(marks[to_rgb(style.MAXIMUM)]) == [(0.0, 1), (0.5, 0), (2.0, 0)]
    assert sorted(marks[to_rgb(style.MINIMUM)]) == [(-3.0, 0), (-1.0, 1)]  # NaN is left out
    assert sorted(line.get_xdata()[0] for line in ax.lines) == [-1, 0, 1]


def test_distributions_peak_where_the_values_are():
    values = torch.cat([torch.full((90,), 3.0), torch.linspace(-4, 4, 10)]).tolist()
    ax = jk.plots.extrema_strips({"a": extrema(values, [-5.0] * 100)})
    upper = torch.cat([torch.from_numpy(path.vertices) for path in ax.collections[0].get_paths()])
    peak = upper[upper[:, 1].argmin()].tolist()
    assert peak[0] == pytest.approx(3, abs=0.1) and peak[1] == pytest.approx(-0.44, abs=0.01)
    assert upper[:, 0].min() >= -5.5 and upper[:, 0].max() <= 4.5


def test_bars_are_the_penalty():
    parts = {"a": PenaltyTerms(0.1, 0.2, 0.3, 0.4), "b": PenaltyTerms(0.5, math.nan, 0.0, 0.1)}
    ax = jk.plots.penalty_bars(parts)
    ends = [[bar.get_x() + bar.get_width() for bar in bars] for bars in ax.containers]
    assert [row for row in ends[-1]] == pytest.approx([1.0, 0.6])
    assert [bars[0].get_width() for bars in ax.containers] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert len({bars[0].get_facecolor() for bars in ax.containers}) == 4
    assert "1.6 in all" in ax.get_xlabel()


def test_curves_of_runs_and_numbers():
    runs = {
        "plain": [{"epoch": 0, "loss": 2.0}, {"epoch": 1, "loss": math.nan}, {"epoch": 2, "loss": 1.0}],
        "Jumpstart": [{"epoch": 0, "loss": 2.0, "accuracy": 0.5}, {"epoch": 1, "accuracy": 0.7}],
    }
    ax = jk.plots.learning_curves(runs, y=["loss", "accuracy"])
    lines = {line.get_label(): list(map(tuple, line.get_xydata().tolist())) for line in ax.lines}
    assert lines == {
        "plain loss": [(0, 2), (2, 1)],
        "plain accuracy": [],
        "Jumpstart loss": [(0, 2)],
        "Jumpstart accuracy": [(0, 0.5), (1, 0.7)],
    }
    styles = {(line.get_color(), line.get_linestyle()) for line in ax.lines}
    assert len(styles) == 4
    single = jk.plots.learning_curves(runs["plain"], y="loss")
    assert single.get_ylabel() == "loss" and single.get_legend() is None


def test_overview_has_all_of_it():
    model = jk.replace_relu(make_model())
    report, batch = jk.unit_usage(model, [X]), jk.layer_extrema(model, X)
    assert len(jk.plots.overview(report).axes) == 2
    figure = jk.plots.overview(report, batch, figure=(own := Figure()))
    assert figure is own and len(figure.axes) == 5
    assert all(ax.get_ylim() == (2.5, -0.5) for ax in figure.axes)
    assert save(figure)


REPORT = jk.unit_usage(make_model(), [X])
MISTAKES = [
    (TypeError, "usage must be a UsageReport", lambda: jk.plots.unit_status_map(3)),
    (ValueError, "got no layer", lambda: jk.plots.point_status_map({})),
    (TypeError, "'a' must be int8", lambda: jk.plots.unit_status_map({"a": torch.zeros(3)})),
    (TypeError, "'a' must be int8", lambda: jk.plots.unit_status_map({"a": torch.ones(3) > 0})),
    (
        ValueError,
        "the same points in every layer, got {'a': 2, 'b': 1}",
        lambda: jk.plots.point_status_map({"a": status(1, 1), "b": status(1)}),
    ),
    (ValueError, "status of layer 'a' must be −1", lambda: jk.plots.unit_status_map({"a": status(5)})),
    (ValueError, "of must be one of 'units', 'points'", lambda: jk.plots.extrema_strips({}, of="layers")),
    (TypeError, "source must be .*, got Tensor for layer", lambda: jk.plots.extrema_strips({"a": status(1)})),
    (ValueError, "margin must be finite", lambda: jk.plots.extrema_strips({}, margin=-1)),
    (ValueError, "of must be 'units' for a Usage", lambda: jk.plots.extrema_strips(REPORT, of="points")),
    (TypeError, "parts must be PenaltyTerms by layer", lambda: jk.plots.penalty_bars({"a": 1.0})),
    (ValueError, "parts must have a layer", lambda: jk.plots.penalty_bars({})),
    (ValueError, "extrema must have a layer, got none", lambda: jk.plots.overview(REPORT, {})),
    (ValueError, "extrema must have a layer, got none", lambda: jk.plots.usage_page(REPORT, {})),
    (TypeError, "extrema must be extrema by layer, got int", lambda: jk.plots.usage_page(REPORT, 3)),
    (
        ValueError,
        "no record has 'b'; they have a",
        lambda: jk.plots.learning_curves([{"a": 1}], x="a", y="b"),
    ),
    (TypeError, "runs must be lists of mappings", lambda: jk.plots.learning_curves([1.0], y="loss")),
    (ValueError, "y must name at least one metric", lambda: jk.plots.learning_curves([{"epoch": 1}], y=[])),
    (TypeError, "runs must be lists of records", lambda: jk.plots.learning_curves({"a": 1.0}, y="loss")),
]


@pytest.mark.parametrize("error, message, call", MISTAKES)
def test_wrong_arguments(error, message, call):
    with pytest.raises(error, match=message):
        call()
