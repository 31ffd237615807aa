"""Files of pruned models."""

import copy

import pytest
import torch
from pruning.planted import batches, build, plant, same, snapshot
from pruning.prune_models import CASES, mlp
from torch import nn

from jumpstart_kernels.pruning import load_pruned, permutation_prune


@pytest.mark.parametrize("tolerance", [0, 2])
@pytest.mark.parametrize("name", CASES)
def test_loads_into_the_code_of_the_given_model(name, tolerance, tmp_path):
    case = CASES[name]
    data = batches(case, sizes=(30, 10))
    result = permutation_prune(plant(case), data, tolerance=tolerance, max_flips=tolerance * 5)
    result.save(tmp_path / "pruned.pt")
    content = torch.load(tmp_path / "pruned.pt", weights_only=True)
    assert same(dict(content["state_dict"]), dict(result.model.state_dict()))
    fresh = build(case, seed=1)
    assert load_pruned(fresh, tmp_path / "pruned.pt") is fresh
    assert same(dict(fresh.state_dict()), dict(result.model.state_dict()))
    for training in (False, True):
        outputs = []
        for model in (copy.deepcopy(fresh), copy.deepcopy(result.model)):
            torch.manual_seed(0)
            outputs.append(model.train(training)(data[0]))
        if "fused" not in name or not training:  # there the bias is added elsewhere
            assert same(*outputs)
    assert [each.shape for each in fresh.parameters()] == [each.shape for each in result.model.parameters()]


def test_twice_into_the_same_model(tmp_path):
    case = CASES["mlp"]
    result = permutation_prune(plant(case), batches(case))
    result.save(str(tmp_path / "pruned.pt"))
    model = load_pruned(mlp(), str(tmp_path / "pruned.pt"))
    load_pruned(model, tmp_path / "pruned.pt")
    assert {each.dtype for each in model.parameters()} == {torch.float32}
    torch.testing.assert_close(model.double().state_dict(), result.model.state_dict(), rtol=1e-6, atol=1e-6)


def test_training_of_parameters_and_layout_are_kept(tmp_path):
    case = CASES["conv_net"]
    result = permutation_prune(plant(case).to(memory_format=torch.channels_last), batches(case))
    result.save(tmp_path / "pruned.pt")
    fresh = build(case)
    fresh[4].weight.requires_grad_(False)
    load_pruned(fresh, tmp_path / "pruned.pt")
    assert not fresh[4].weight.requires_grad and fresh[4].bias.requires_grad
    x = batches(case)[0]
    assert torch.equal(fresh.eval()(x), result.model.eval()(x))


def other(sizes=(4, 8, 7, 3), extra=None):
    layers = [nn.Linear(sizes[0], sizes[1]), nn.ReLU(), nn.Linear(sizes[1], sizes[2]), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[2], sizes[3]), *([] if extra is None else [extra]))


def with_convolution(kernel):
    return nn.Sequential(nn.Conv2d(2, 6, kernel), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 25, 3))


class Embedded(nn.Module):
    def __init__(self, words):
        super().__init__()
        self.embed, self.layers = nn.Embedding(words, 4), mlp()

    def forward(self, x):
        return self.layers(self.embed(x))


def refused(model, path, message):
    before = snapshot(model)
    with pytest.raises(ValueError, match=message):
        load_pruned(model, path)
    assert same(snapshot(model), before)


def test_other_models(tmp_path):
    path = tmp_path / "pruned.pt"
    case = CASES["mlp"]
    permutation_prune(plant(case), batches(case)).save(path)
    refused(other(extra=nn.Linear(3, 3)), path, "state dict differs")
    refused(nn.Sequential(nn.Linear(4, 8)), path, "no module '2'")
    refused(
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.Linear(7, 3)), path, "no widths"
    )
    torch.manual_seed(0)
    permutation_prune(with_convolution(1), [torch.randn(40, 2, 5, 5)]).save(path)
    refused(with_convolution(3), path, "0.weight has other dimensions")
    permutation_prune(Embedded(50), [torch.randint(50, (80,))]).save(path)
    refused(Embedded(40), path, "embed.weight has other dimensions")


def test_other_files(tmp_path):
    path = tmp_path / "file.pt"
    with pytest.raises(FileNotFoundError, match="no file"):
        load_pruned(mlp(), path)
    path.write_text("something else")
    refused(mlp(), path, "must be a file of PruneResult.save")
    torch.save(mlp().state_dict(), path)
    refused(mlp(), path, "in the format")
    torch.save(mlp(), path)
    refused(mlp(), path, "must be a file of PruneResult.save")
    with pytest.raises(TypeError, match="model"):
        load_pruned("model", path)
