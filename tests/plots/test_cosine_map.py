"""The map of the mean cosine between samples over layers and training."""

import math

import pytest
import torch

pytest.importorskip("matplotlib", reason="the map is drawn with matplotlib")

from matplotlib.figure import Figure
from pictures import X, make_model, row_names, save

import jumpstart_kernels as jk


def record(step, **cosines):
    return {"step": step, "cosines": cosines}


def cells(ax) -> list[list[float]]:
    """[layers, records]; NaN where white."""
    return ax.collections[0].get_array().filled(math.nan).tolist()


def edges(ax) -> tuple[list[float], list[float]]:
    corners = ax.collections[0].get_coordinates()
    return corners[0, :, 0].tolist(), corners[:, 0, 1].tolist()


def same(found, expected) -> bool:
    return torch.equal(torch.tensor(found).nan_to_num(9), torch.tensor(expected).nan_to_num(9))


def test_a_row_a_layer_and_a_column_a_record():
    ax = jk.plots.sample_cosine_map(
        [record(0, a=0.25, b=1.0), record(10, a=0.5, b=0.0), record(40, a=0, b=1)]
    )
    assert cells(ax) == [[0.25, 0.5, 0.0], [1.0, 0.0, 1.0]]
    assert edges(ax) == ([0, 5, 25, 40], [-0.5, 0.5, 1.5])
    assert row_names(ax) == ["a", "b"] and ax.yaxis_inverted() and ax.get_xlabel() == "step"
    (bar,) = (other for other in ax.figure.axes if other is not ax)
    assert bar.get_ylabel() == "mean cosine between samples"
    assert save(ax.figure)


def test_layers_come_in_order_and_where_missing_stay_white():
    nan = math.nan
    records = [record(0, a=0.5, b=nan), {"step": 1, "loss": 3.0}, record(2, b=0.5, c=torch.tensor(0.25))]
    records += [{"step": 3, "cosines": None}, {"step": None, "cosines": {"a": 1.0}}, record(4)]
    ax = jk.plots.sample_cosine_map(records)
    assert row_names(ax) == ["a", "b", "c"]
    assert same(cells(ax), [[0.5, nan, nan], [nan, 0.5, nan], [nan, 0.25, nan]])
    colours = ax.collections[0].to_rgba(ax.collections[0].get_array())
    assert (colours[1, 0] == 1).all() and (colours[2, 1] != 1).any()


@pytest.mark.parametrize(
    "lowest, limits, arrow", [(0.5, (0, 1), "neither"), (-0.05, (0, 1), "min"), (-0.5, (-1, 1), "neither")]
)
def test_colours_run_from_0_or_minus_1_to_1(lowest, limits, arrow):
    ax = jk.plots.sample_cosine_map([record(0, a=lowest, b=0.6)])
    assert ax.collections[0].get_clim() == limits
    assert ax.collections[0].colorbar.extend == arrow


def test_brighter_is_closer_to_one_direction():
    """Also for who sees no colours: the lightness grows with the cosine."""
    values = [i / 20 for i in range(21)]
    mesh = jk.plots.sample_cosine_map([record(i, a=v) for i, v in enumerate(values)]).collections[0]
    colours = torch.tensor(mesh.to_rgba(mesh.get_array())[0, :, :3])
    lightness = colours @ torch.tensor([0.2126, 0.7152, 0.0722], dtype=colours.dtype)
    assert (lightness.diff() > 0).all()


def test_one_record_is_one_column_at_its_step():
    ax = jk.plots.sample_cosine_map([record(700, a=0.5)])
    assert edges(ax)[0] == [699.5, 700.5]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["700"]


def test_other_names_axes_and_no_colour_bar():
    model = make_model()
    records = [{"epoch": i, "probe": jk.sample_cosines(model, X + i)} for i in range(3)]
    figure = Figure()
    ax = figure.subplots()
    assert jk.plots.sample_cosine_map(records, x="epoch", y="probe", ax=ax, legend=False) is ax
    assert figure.axes == [ax] and ax.get_xlabel() == "epoch" and row_names(ax) == ["1", "3", "5"]
    assert same(cells(ax), [[each["probe"][name] for each in records] for name in "135"])


@pytest.mark.parametrize(
    "error, message, records",
    [
        (TypeError, "records must be a list of records, got dict", record(0, a=1.0)),
        (TypeError, "records must be a list of mappings, got one of float", [1.0]),
        (ValueError, "no record has both 'step' and 'cosines'; they have nothing", []),
        (ValueError, "they have cosines, epoch", [{"epoch": 0, "cosines": {"a": 1.0}}]),
        (
            TypeError,
            "records must have cosines by layer in 'cosines', got float",
            [{"step": 0, "cosines": 1.0}],
        ),
        (ValueError, "records must have a layer in 'cosines', got none", [record(0)]),
        (TypeError, "records must have a number as 'step', got str", [record("first", a=1.0)]),
        (ValueError, "records must have a finite 'step', got nan", [record(math.nan, a=1.0)]),
        (TypeError, "records must have a number for layer 'a', got list", [record(0, a=[1.0])]),
        (TypeError, "records must have a number for layer 'a', got Tensor", [record(0, a=torch.ones(1))]),
        (TypeError, "records must have a number for layer 'a', got bool", [record(0, a=True)]),
        (ValueError, r"cosines in \[-1, 1\], got 1.5 for layer 'a'", [record(0, a=1.5)]),
        (ValueError, r"cosines in \[-1, 1\], got -inf for layer 'a'", [record(0, a=-math.inf)]),
        (ValueError, "chronological order, got step 2 after 3", [record(3, a=1.0), record(2, a=1.0)]),
        (ValueError, "chronological order, got step 3 after 3", [record(3, a=1.0), record(3, a=1.0)]),
    ],
)
def test_wrong_records(error, message, records):
    with pytest.raises(error, match=message):
        jk.plots.sample_cosine_map(records)
