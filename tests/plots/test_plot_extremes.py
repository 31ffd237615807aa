"""Plots of unusual inputs: nothing, NaN, huge values, long names, thousands of units."""

import math

import pytest
import torch

pytest.importorskip("matplotlib", reason="the plots are drawn with matplotlib")

from pictures import DEAD, WHITE, X, cells_of, extrema, make_model, row_names, save, status, texts

import jumpstart_kernels as jk
from jumpstart_kernels.nn.activation import LayerExtrema
from jumpstart_kernels.usage.report import usage_ratios


def test_the_default_device_is_not_where_pictures_are_made():
    """As under ``torch.set_default_device("cuda")``; the meta device shows if anything was created on it."""
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


def test_a_batch_of_nothing_is_left_white():
    """Its extrema are infinite, which makes no unit dead."""
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
    """Not the number of tokens of the one layer that treats them as points."""
    batch = {
        name: extrema([1.0], [-1.0], [1.0] * n, [-1.0] * n) for name, n in {"a": 4, "b": 4, "c": 28}.items()
    }
    metric = jk.UnitUsage()
    metric.update(batch)
    assert "In a batch of 4<" in jk.plots.usage_page(metric.report(), batch)


def test_none_is_left_out_as_nan_is():
    records = [{"epoch": 0, "loss": None}, {"epoch": 1, "loss": 2.0}, {"epoch": None, "loss": 1.0}]
    (line,) = jk.plots.learning_curves(records, y="loss").lines
    assert line.get_xydata().tolist() == [[1, 2]]


def test_extrema_that_are_nothing_draw_nothing():
    for values in ([math.nan], [], [math.inf]):
        ax = jk.plots.extrema_strips({"a": extrema(values, values)}, margin=0.0)
        assert save(ax.figure)


def test_far_values_are_on_a_logarithmic_scale():
    ax = jk.plots.extrema_strips({"a": extrema([1e4, 0.5, math.inf], [-1.0, -0.5, -math.inf])})
    found = sorted(float(path.vertices[0][0]) for path in ax.collections[0].get_paths())
    assert found == pytest.approx([0.5, 5, 5])  # four decades beyond the margin; infinity at the edge
    assert "10000" in [label.get_text() for label in ax.get_xticklabels()]
    assert ax.get_xlim()[1] < 6


@pytest.mark.parametrize("layers, shown", [(50, 50), (60, 60), (61, 31), (200, 50)])
def test_as_many_names_as_there_is_room_for(layers, shown):
    ax = jk.plots.unit_status_map({f"layer{i}": status(1) for i in range(layers)})
    assert len(row_names(ax)) == shown
    assert len(texts(ax)) == 2 * shown + 2


@pytest.mark.parametrize("layers, units", [(50, 4), (49, 2048)])
def test_nothing_overlaps(layers, units):
    """Names, counts, legends and titles do not overlap, for the thinnest and the widest network."""
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
