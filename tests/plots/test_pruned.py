"""The picture of what permutation pruning has removed."""

import pytest

pytest.importorskip("matplotlib", reason="the plots are drawn with matplotlib")

from matplotlib.colors import to_rgb
from pictures import pruned_report, row_names

import jumpstart_kernels as jk
from jumpstart_kernels.plots import style


def test_every_unit_is_in_its_bar():
    ax = jk.plots.pruned_units(pruned_report())
    assert row_names(ax) == ["first", "second + 1", "third", "last"]
    widths = {}
    for bar in ax.patches:
        row = round(bar.get_y() + bar.get_height() / 2)
        if bar.get_width():
            widths.setdefault(row, {})[to_rgb(bar.get_facecolor())] = (bar.get_x(), bar.get_width())
    kept, dead, merged, gone = (to_rgb(colour) for _, colour in style.PRUNED.values())
    assert widths[0] == {kept: (0, 4), dead: (4, 3), merged: (7, 2)}
    assert widths[1] == {kept: (0, 6)}
    assert widths[2] == {gone: (0, 6)}
    assert widths[3] == {kept: (0, 3)}
    assert ax.get_xlabel() == "units, 11 of 24 removed"


def test_the_legend_names_all_kinds_or_is_left_out():
    legend = jk.plots.pruned_units(pruned_report()).get_legend()
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == ["kept", "dead", "merged", "gone with their layer"]
    assert jk.plots.pruned_units(pruned_report(), legend=False).get_legend() is None


def test_anything_else_than_a_report_is_refused():
    with pytest.raises(TypeError, match="report must be a PruneReport"):
        jk.plots.pruned_units([1, 2])
