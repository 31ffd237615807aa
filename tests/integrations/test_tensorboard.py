"""Reads back what the writer stores for TensorBoard."""

import subprocess
import sys

import pytest
import torch
from torch import nn

pytest.importorskip("tensorboard", reason="tensorboard is not installed")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

import jumpstart_kernels as jk
from jumpstart_kernels.integrations.tensorboard import UsageWriter

X = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return jk.replace_relu(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU()))


def read(folder) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0, "images": 0})
    return events.Reload()


def scalars(events) -> dict[str, list[tuple[int, float]]]:
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_usage_by_name_and_layer(tmp_path):
    report = jk.unit_usage(make_model(), [X])
    with UsageWriter(tmp_path) as writer:
        writer.add_usage(report, 3)
        writer.add_usage(report, 4, by_layer=False)
    found = scalars(read(tmp_path))
    for name, ratio in report.items():
        assert found.pop(f"jumpstart/{name}") == [(3, pytest.approx(ratio)), (4, pytest.approx(ratio))]
    for name, layer in report.layers.items():
        assert found.pop(f"jumpstart/unit_dead_ratio/{name}") == [(3, layer.dead / layer.units)]
        assert found.pop(f"jumpstart/unit_linear_ratio/{name}") == [(3, layer.linear / layer.units)]
    assert not found


def test_dormancy_and_rank_by_layer_if_the_report_has_them(tmp_path):
    report = jk.unit_usage(make_model(), [X], dormancy=True, effective_rank=True)
    with UsageWriter(tmp_path) as writer:
        writer.add_usage(report, 3)
    written = scalars(read(tmp_path))
    assert written["jumpstart/unit_dormant_ratio"] == [(3, pytest.approx(report.dormant_ratio()))]
    for name, mask in report.dormant().items():
        expected = mask.double().mean().item()
        assert written[f"jumpstart/unit_dormant_ratio/{name}"] == [(3, pytest.approx(expected))]
        rank = report.effective_ranks[name]
        assert written[f"jumpstart/effective_rank/{name}"] == [(3, pytest.approx(rank))]


def test_cosines_by_layer_if_the_report_has_them(tmp_path):
    report = jk.unit_usage(make_model(), [X], cosines=True)
    with UsageWriter(tmp_path) as writer:
        writer.add_usage(report, 3)
        writer.add_usage(report, 4, by_layer=False)
    found = {name: values for name, values in scalars(read(tmp_path)).items() if "cosine" in name}
    assert found == {
        f"jumpstart/cosine/{name}": [(3, pytest.approx(cosine))] for name, cosine in report.cosines.items()
    }


def test_figures(tmp_path):
    pytest.importorskip("matplotlib", reason="the maps are drawn with matplotlib")
    with UsageWriter(tmp_path) as writer:
        writer.add_usage(jk.unit_usage(make_model(), [X]), 3, figures=True)
    events = read(tmp_path)
    assert events.Tags()["images"] == ["jumpstart/units", "jumpstart/points"]
    assert events.Images("jumpstart/units")[0].encoded_image_string.startswith(b"\x89PNG")


def test_extrema(tmp_path):
    extrema = jk.layer_extrema(make_model(), X)
    extrema["1"].unit_max[0] = torch.inf
    extrema["3"].point_min[:] = torch.nan
    with UsageWriter(tmp_path, prefix="mine") as writer:
        writer.add_extrema(extrema, 2)
    events = read(tmp_path)
    sides = ("unit_max", "unit_min", "point_max", "point_min")
    names = {f"mine/{side}/{layer}" for side in sides for layer in "13"} - {"mine/point_min/3"}
    assert set(events.Tags()["histograms"]) == names
    finite = extrema["1"].unit_max[1:]
    histogram = events.Histograms("mine/unit_max/1")[0].histogram_value
    assert (histogram.num, histogram.max) == (len(finite), pytest.approx(finite.max().item()))


def test_penalty(tmp_path):
    model = make_model()
    model(X)
    parts = jk.penalty_by_layer(model)
    whole = jk.penalty(model).item()
    inner = SummaryWriter(str(tmp_path))
    writer = UsageWriter(inner)
    writer.add_penalty(parts, 5, weight=0.25)
    writer.close()
    found = {name: values[0][1] for name, values in scalars(read(tmp_path)).items()}
    assert found["jumpstart/penalty"] == pytest.approx(whole, rel=1e-5)
    assert found["jumpstart/weight"] == 0.25
    for kind in ("penalty_by_layer", "penalty_by_term"):
        assert sum(v for name, v in found.items() if f"/{kind}/" in name) == pytest.approx(whole, rel=1e-5)
    assert writer.writer is inner


def test_wrong_arguments(tmp_path):
    with pytest.raises(TypeError, match="target must be a SummaryWriter or a folder, got int"):
        UsageWriter(3)
    with UsageWriter(tmp_path) as writer, pytest.raises(TypeError, match="usage must be a UsageReport"):
        writer.add_usage({}, 0)
    extrema = jk.layer_extrema(make_model(), X)
    with UsageWriter(tmp_path) as writer:
        with pytest.raises(TypeError, match="extrema must be LayerExtrema by layer, got Sequential"):
            writer.add_extrema(make_model(), 0)
        with pytest.raises(TypeError, match="extrema must be LayerExtrema by layer, got PenaltyTerms"):
            writer.add_extrema(jk.penalty_by_layer(extrema), 0)
        with pytest.raises(TypeError, match="parts must be PenaltyTerms by layer, got LayerExtrema"):
            writer.add_penalty(extrema, 0)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_a_layer_without_units_has_no_shares(tmp_path):
    model = nn.Sequential(nn.Linear(5, 0), nn.ReLU(), nn.Linear(0, 3), nn.ReLU())
    with UsageWriter(tmp_path) as writer:
        writer.add_usage(jk.unit_usage(model, [X]), 0)
    found = scalars(read(tmp_path))
    assert "jumpstart/unit_dead_ratio/3" in found and "jumpstart/unit_dead_ratio/1" not in found


def test_without_tensorboard_it_says_what_to_install():
    code = (
        "import sys; sys.modules['tensorboard'] = None\n"
        "try: import jumpstart_kernels.integrations.tensorboard\n"
        "except ImportError as error: assert 'jumpstart_kernels[tensorboard]' in str(error), error\n"
        "else: raise AssertionError"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
