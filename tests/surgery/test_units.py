"""``unit_dim="auto"``: the unit dimension inferred from the layer before a ReLU."""

import logging

import pytest
import torch
from surgery.models import quietly_replace
from surgery.unit_models import CASES
from torch import nn

import jumpstart_kernels as jk


@pytest.mark.parametrize("name", CASES)
def test_units_are_found(name, caplog):
    model, size, expected = CASES[name]
    assert [site.unit_dim for site in jk.find_relu(model)] == expected
    x = torch.randn(6, *size)
    output = model.eval()(x)
    with caplog.at_level(logging.WARNING, "jumpstart_kernels"):
        quietly_replace(model.train())
    try:
        layers = [layer for layer in model.modules() if isinstance(layer, jk.JumpstartReLU)]
        assert [layer.unit_dim for layer in layers] == [
            1 if unit_dim is None else unit_dim for unit_dim in expected
        ]
        said = [message for message in caplog.messages if "cannot infer the unit dimension" in message]
        assert len(said) == (None in expected)
        assert torch.equal(model.eval()(x), output)
        model.train()(x)
        assert jk.penalty(model).isfinite()
    finally:
        jk.restore_relu(model)


@pytest.mark.parametrize("name", ["conv1d", "conv2d", "conv3d", "residual"])
def test_without_a_batch_it_is_a_batch_of_one(name):
    model, size, _ = CASES[name]
    x = torch.randn(size)
    values = []
    quietly_replace(model)
    try:
        for sample in (x, x[None]):
            output = model(sample)
            assert output.shape[-len(size) + 1 :] == model(sample).shape[-len(size) + 1 :]
            jk.clear_records(model)
            model(sample)
            values.append(jk.penalty(model))
        assert torch.equal(*values)
    finally:
        jk.restore_relu(model)


def test_a_guess_that_the_input_refutes_is_1():
    class Pooled(nn.Module):
        """After its convolutions there is a call without a rule, in an untraceable forward."""

        def __init__(self):
            super().__init__()
            self.conv, self.relu = nn.Conv2d(1, 3, 3), nn.ReLU()

        def forward(self, x):
            return self.relu(torch.std(self.conv(x), (2, 3)) if len(x) else x)

    model, x = Pooled(), torch.randn(6, 1, 5, 5)
    expected = model(x)
    quietly_replace(model)
    assert torch.equal(model(x), expected)
    (record,) = jk.nn.records.unwind(model.relu._records)
    assert (record.units, record.points) == (3, 6)
    with pytest.raises(ValueError, match=r"unit_dim must be in \[-2, 1\]"):
        jk.JumpstartReLU(unit_dim=-3)(torch.randn(6, 3))


def test_calls_of_one_forward_have_their_own():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 3, 3), nn.Linear(3 * 9, 4)

        def forward(self, x, again=False):
            x = torch.relu(self.fc(torch.relu(self.conv(x)).flatten(1)))
            return torch.relu(x - 1) if again else x

    model = quietly_replace(Both())
    model(torch.randn(6, 1, 5, 5), again=True)  # another trace
    assert [layer.unit_dim for layer in model.children() if isinstance(layer, jk.JumpstartReLU)] == [
        -3,
        -1,
        -1,
    ]
    assert model.jumpstart_relu_2._name == "jumpstart_relu_2"


def test_an_explicit_number_stays(caplog):
    model = quietly_replace(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), unit_dim=2)
    assert model[1].unit_dim == 2 and not caplog.messages
    with pytest.raises(ValueError, match=r"unit_dim must be in \[-2, 1\] for a 2-D x, got 2"):
        model(torch.randn(5, 4))


@pytest.mark.parametrize(("unit_dim", "error"), [("last", ValueError), (True, TypeError), (None, TypeError)])
def test_errors(unit_dim, error):
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    for call in (jk.replace_relu, lambda m, **o: jk.unit_usage(m, [torch.ones(2, 4)], **o)):
        with pytest.raises(error, match="unit_dim must be an int or 'auto', got"):
            call(model, unit_dim=unit_dim)
    assert type(model[1]) is nn.ReLU


@pytest.mark.parametrize("replaced", (False, True), ids=("plain", "replaced"))
def test_usage_of_tokens_is_of_the_last_dimension(replaced):
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.copy_(torch.tensor([1.0, -1.0, 1.0]))
    usage = jk.unit_usage(quietly_replace(model) if replaced else model, [torch.randn(2, 7, 4)])
    assert usage.layers["1"].units == 3 and usage.layers["1"].dead == 1


def test_watched_layers_that_are_no_relu():
    model = nn.Sequential(nn.Linear(4, 3), nn.GELU())
    assert jk.unit_usage(model, [torch.randn(2, 7, 4)], layers=["1"]).layers["1"].units == 3
