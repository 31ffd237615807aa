"""The pictures: what they show of the numbers, on whose axes, and that they leave matplotlib as it was."""

import importlib
import io
import math
import subprocess
import sys

import pytest
import torch
from torch import nn

pytest.importorskip("matplotlib", reason="the plots are drawn with matplotlib")

import matplotlib
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import jumpstart_kernels as jk
from jumpstart_kernels.modules import LayerExtrema
from jumpstart_kernels.penalty_by_layer import PenaltyTerms
from jumpstart_kernels.plots import style
from jumpstart_kernels.usage_report import usage_ratios

DEAD, LINEAR, NONLINEAR, WHITE = -1, 0, 1, 2


def status(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int8)


def extrema(unit_max, unit_min, point_max=(1.0,), point_min=(-1.0,)) -> LayerExtrema:
    return LayerExtrema(*(torch.tensor(values) for values in (unit_max, unit_min, point_max, point_min)))


def make_model(depth: int = 3, width: int = 4) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(5, width), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers)


X = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))


def save(figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=50)
    return file.getvalue()


def cells_of(ax) -> torch.Tensor:
    """What each cell of a map shows: −1 dead, 0 linear, 1 nonlinear, 2 white; [layers, columns]."""
    image = torch.from_numpy(ax.images[0].get_array().data[..., :3])
    cells = torch.full(image.shape[:2], 7)
    colours = {value: colour for value, (_, colour) in style.STATUS.items()} | {WHITE: "#FFFFFF"}
    for value, colour in colours.items():
        cells[((image - torch.tensor(to_rgb(colour))).abs() < 1e-3).all(-1)] = value
    return cells


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def row_names(ax) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def drawings():
    """Every plot, on the axes or figure that it is given."""
    model = jk.replace_relu(make_model())
    report, batch = jk.unit_usage(model, [X]), jk.layer_extrema(model, X)
    parts = jk.penalty_by_layer(batch)
    records = [{"epoch": i, "loss": 1 / (i + 1)} for i in range(3)]
    return {
        "unit_status_map": lambda **own: jk.plots.unit_status_map(report, **own),
        "point_status_map": lambda **own: jk.plots.point_status_map(report, **own),
        "units": lambda **own: jk.plots.extrema_strips(report, **own),
        "points": lambda **own: jk.plots.extrema_strips(batch, of="points", **own),
        "penalty_bars": lambda **own: jk.plots.penalty_bars(parts, **own),
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


def test_the_default_device_is_not_where_pictures_are_made():
    """As under ``torch.set_default_device("cuda")``; the meta device says whether anything was put there."""
    model = jk.replace_relu(make_model())
    model(X)
    jk.penalty(model).backward()
    report, own = jk.unit_usage(model, [X]), status(-1, 0, 1)
    with torch.device("meta"):
        batch = jk.layer_extrema(model, X)
        assert usage_ratios(torch.cat(list(report.unit_status.values())), report.point_status) == dict(report)
        figures = [jk.plots.overview(report, batch), jk.plots.unit_status_map({"a": own}).figure]
        model(X)
        recorded, watched = jk.penalty_by_layer(model), jk.penalty_by_layer(batch)
    assert sum(map(sum, recorded.values())) == pytest.approx(sum(map(sum, watched.values())))
    assert all(map(save, figures))


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
    """A report, a metric and a batch's extrema of the same data give the same cells."""
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


def test_a_batch_of_nothing_is_left_white():
    """Its extrema are infinite: no unit is dead of it."""
    batch = {"a": extrema([-math.inf] * 2, [math.inf] * 2, [], [])}
    for draw in (jk.plots.unit_status_map, jk.plots.point_status_map):
        ax = draw(batch)
        assert (cells_of(ax) == WHITE).all() and texts(ax)[1::2] == ["–", "–"]
        assert save(ax.figure)
    assert save(jk.plots.overview(batch, batch))
    assert save(jk.plots.unit_status_map({"a": status()}).figure)


def test_points_are_those_of_most_layers_as_in_the_report():
    """The first number of them among those as frequent, as a UnitUsage has it."""
    batch = {name: extrema([1.0], [-1.0], [-1.0] * n, [-2.0] * n) for name, n in {"a": 17, "b": 8}.items()}
    metric = jk.UnitUsage()
    metric.update(batch)
    for source in (metric, batch):
        cells = cells_of(jk.plots.point_status_map(source))
        assert (cells[0] == DEAD).all() and (cells[1] == WHITE).all()


def test_nearly_all_are_not_all():
    wide = torch.full((4096,), -1, dtype=torch.int8)
    wide[7] = 1
    assert texts(jk.plots.unit_status_map({"a": wide}))[:2] == ["dead", ">99.9 %"]


def test_nan_is_told():
    """A unit that saw one counts as nonlinear, and the penalty of a layer with one is not zero."""
    model = jk.replace_relu(make_model(2))
    x = X.clone()
    x[0] = math.nan
    report, batch = jk.unit_usage(model, [x]), jk.layer_extrema(model, x)
    for source in (report, batch):
        assert jk.plots.unit_status_map(source).get_xlabel() == "units\n8 saw a NaN, shown as nonlinear"
    assert "NaN" not in jk.plots.unit_status_map(jk.layer_extrema(model, X)).get_xlabel()
    assert jk.plots.penalty_bars(jk.penalty_by_layer(batch)).get_xlabel().endswith("in all without NaN and ∞")
    whole = jk.plots.penalty_bars(jk.penalty_by_layer(jk.layer_extrema(model, X)))
    assert whole.get_xlabel().endswith("in all")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["unit_status_map", "extrema_strips", "penalty_bars"])
def test_long_names_leave_room(name):
    batch = {"encoder.layers.0.blocks.0.bottleneck.convolution.activation" * 2: extrema([1.0], [-1.0])}
    source = jk.penalty_by_layer(batch) if name == "penalty_bars" else batch
    ax = getattr(jk.plots, name)(source)
    save(ax.figure)
    short = getattr(jk.plots, name)(dict(zip("a", source.values(), strict=True)))
    save(short.figure)
    inches = [one.get_window_extent().width / one.figure.dpi for one in (ax, short)]
    assert inches[0] > 0.8 * inches[1]


def test_the_numbers_of_a_huge_range_keep_apart():
    ax = jk.plots.extrema_strips({"a": extrema([1e30], [-1e30])})
    save(ax.figure)
    labels = [label.get_window_extent() for label in ax.get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in zip(labels, labels[1:], strict=False))


def test_many_curves_are_all_different():
    runs = {f"run {i}": [{"epoch": 0, "loss": i}, {"epoch": 1, "loss": i}] for i in range(30)}
    lines = jk.plots.learning_curves(runs, y="loss").lines
    looks = {(line.get_color(), str(line._unscaled_dash_pattern), line.get_marker()) for line in lines}
    assert len(looks) == 30


def test_overview_names_the_rows_of_other_layers():
    model = jk.replace_relu(make_model())
    report, batch = jk.unit_usage(model, [X]), jk.layer_extrema(model, X, layers=["3", "5"])
    named = [ax.yaxis.get_tick_params()["labelleft"] for ax in jk.plots.overview(report, batch).axes]
    assert named == [True, False, True, True, True]
    batch = jk.layer_extrema(model, X)
    named = [ax.yaxis.get_tick_params()["labelleft"] for ax in jk.plots.overview(report, batch).axes]
    assert named == [True, False, False, False, False]


def test_a_page_says_how_large_the_batch_is():
    """Not how many tokens the one layer has that takes them for points."""
    batch = {
        name: extrema([1.0], [-1.0], [1.0] * n, [-1.0] * n) for name, n in {"a": 4, "b": 4, "c": 28}.items()
    }
    metric = jk.UnitUsage()
    metric.update(batch)
    assert "In a batch of 4<" in jk.plots.usage_page(metric.report(), batch)


def test_positions_count_as_their_sample():
    batch = {"a": extrema([1.0], [-1.0], [[-1.0, 2.0], [-1.0, -1.0]], [[-2.0, -2.0], [-2.0, -2.0]])}
    assert cells_of(jk.plots.point_status_map(batch)).tolist() == [[NONLINEAR, DEAD]]


@pytest.mark.parametrize("layers, shown", [(50, 50), (60, 60), (61, 31), (200, 50)])
def test_as_many_names_as_there_is_room_for(layers, shown):
    ax = jk.plots.unit_status_map({f"layer{i}": status(1) for i in range(layers)})
    assert len(row_names(ax)) == shown
    assert len(texts(ax)) == 2 * shown + 2


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


def test_far_values_are_on_a_logarithmic_scale():
    ax = jk.plots.extrema_strips({"a": extrema([1e4, 0.5, math.inf], [-1.0, -0.5, -math.inf])})
    found = sorted(float(path.vertices[0][0]) for path in ax.collections[0].get_paths())
    assert found == pytest.approx([0.5, 5, 5])  # four decades beyond the margin; infinity at the edge
    assert "10000" in [label.get_text() for label in ax.get_xticklabels()]
    assert ax.get_xlim()[1] < 6


def test_extrema_that_are_nothing_draw_nothing():
    for values in ([math.nan], [], [math.inf]):
        ax = jk.plots.extrema_strips({"a": extrema(values, values)}, margin=0.0)
        assert save(ax.figure)


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


def test_none_is_left_out_as_nan_is():
    records = [{"epoch": 0, "loss": None}, {"epoch": 1, "loss": 2.0}, {"epoch": None, "loss": 1.0}]
    (line,) = jk.plots.learning_curves(records, y="loss").lines
    assert line.get_xydata().tolist() == [[1, 2]]


def test_overview_has_all_of_it():
    model = jk.replace_relu(make_model())
    report, batch = jk.unit_usage(model, [X]), jk.layer_extrema(model, X)
    assert len(jk.plots.overview(report).axes) == 2
    figure = jk.plots.overview(report, batch, figure=(own := Figure()))
    assert figure is own and len(figure.axes) == 5
    assert all(ax.get_ylim() == (2.5, -0.5) for ax in figure.axes)
    assert save(figure)


@pytest.mark.parametrize("layers, units", [(50, 4), (49, 2048)])
def test_nothing_overlaps(layers, units):
    """Names, counts, legends and titles of the thinnest and of the widest network keep apart."""
    generator = torch.Generator().manual_seed(0)
    batch = {}
    for i in range(layers):
        sides = [torch.randn(n, generator=generator) for n in (units, units, 128, 128)]
        name = f"layer{i // 12}.{i % 12}.relu"
        batch[name] = LayerExtrema(*(side + shift for side, shift in zip(sides, (3, -3, 3, -3), strict=True)))
    figure = jk.plots.overview(batch, batch)
    figure.set_dpi(100)
    figure.draw_without_rendering()
    boxes = []
    for ax in figure.axes:
        shown = [text for text in ax.texts if text.get_text()]
        shown += [label for label in ax.get_yticklabels() if label.get_visible() and ax is figure.axes[0]]
        shown += [ax.get_legend(), ax._left_title, ax.xaxis.label]
        boxes += [(artist, artist.get_window_extent()) for artist in shown]
    page = figure.bbox
    for i, (artist, box) in enumerate(boxes):
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, artist
        for other, rival in boxes[:i]:
            apart = min(box.x1, rival.x1) - max(box.x0, rival.x0) < 1
            apart = apart or min(box.y1, rival.y1) - max(box.y0, rival.y0) < 1
            assert apart, (artist, other)


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
    (ValueError, "y must be the name of a number", lambda: jk.plots.learning_curves([{"epoch": 1}], y=[])),
    (TypeError, "runs must be lists of records", lambda: jk.plots.learning_curves({"a": 1.0}, y="loss")),
]


@pytest.mark.parametrize("error, message, call", MISTAKES)
def test_wrong_arguments(error, message, call):
    with pytest.raises(error, match=message):
        call()
