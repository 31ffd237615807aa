"""Trainings in three processes: one result in every parallel mode, and wherever they were interrupted."""

import json
import shutil

import pytest
import torch
from imagenet_trainings import CLASSES, STEPS, VAL, full, gradients, make_options, run, unsynchronized
from torch import nn
from torch.nn import functional as F

import jumpstart_kernels as jk
from benchmarks.imagenet.data import Images, find_images, normalize
from benchmarks.imagenet.files import read_checkpoint, write_checkpoint
from benchmarks.imagenet.processes import Termination
from benchmarks.imagenet.smoke import differences
from benchmarks.imagenet.trainer import Trainer, train
from benchmarks.models import build_resnet50
from jumpstart_kernels.cli.errors import CommandError

WHOLE = {"finished": True, "began": 0, "ended": 2 * STEPS}
MODES = {"ddp": "", "fsdp": "--parallel=fsdp --checkpointing --memory-format=contiguous"}
INTERRUPTED = {  # words, and the last step
    "ddp": ("", STEPS + 1),
    # Images large enough for what oneDNN can do in bfloat16: test_convolutions.py.
    "ddp-bf16": ("--precision=bf16 --checkpointing --image-size=32", STEPS),
    "ddp-fp16": ("--precision=fp16 --penalty-schedule=linear", 1),
    "fsdp": (MODES["fsdp"], 1),
    "fsdp-fp16": ("--parallel=fsdp --precision=fp16 --local-penalty", STEPS + 1),
}


@pytest.fixture(scope="module")
def whole(three, data, tmp_path_factory):
    """The checkpoint of an unbroken training of a variant."""
    stored = {}

    def checkpoint(words):
        if words not in stored:
            output = tmp_path_factory.mktemp("whole")
            assert three(run, data, output, words) == [WHOLE] * 3
            stored[words] = output / "checkpoint.pt"
        return stored[words]

    return checkpoint


def close(first, second, tolerance=1e-4):
    """Where the weights and the history of two checkpoints differ by more than rounding."""
    parts = ("model", "optimizer", "history")
    first, second = ({part: read_checkpoint(path)[part] for part in parts} for path in (first, second))
    return differences(first, second, tolerance)


@pytest.mark.parametrize("words,step", INTERRUPTED.values(), ids=INTERRUPTED.keys())
def test_interrupted_and_resumed_it_ends_as_if_it_had_not_been(three, data, whole, tmp_path, words, step):
    stopped = {"finished": False, "began": 0, "ended": step}
    assert three(run, data, tmp_path, words, step) == [stopped] * 3
    stored = read_checkpoint(tmp_path / "checkpoint.pt")
    assert (stored["epoch"], stored["step"]) == {1: (0, 1), STEPS: (0, STEPS), STEPS + 1: (1, 1)}[step]
    assert three(run, data, tmp_path, words) == [{**WHOLE, "began": step}] * 3
    resumed, unbroken = read_checkpoint(tmp_path / "checkpoint.pt"), read_checkpoint(whole(words))
    assert differences(resumed, unbroken) == []
    assert bool(resumed["scaler"]) is ("fp16" in words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "history.json"]
    assert json.loads((tmp_path / "history.json").read_text()) == unbroken["history"]


def test_something_is_trained(whole, process, data, tmp_path):
    fresh = Trainer(make_options(data, tmp_path), process).network.state_dict()
    stored = read_checkpoint(whole(""))
    assert all(not torch.equal(stored["model"][name], weight) for name, weight in fresh.items())
    assert (stored["epoch"], stored["step"]) == (2, 0)
    for epoch, record in enumerate(stored["history"], start=1):
        assert (record["epoch"], record["step"]) == (epoch, epoch * STEPS)
        assert record["train_loss"] > 0 and record["train_penalty"] > 0
    assert stored["penalty_schedule"]["last_step"] == stored["learning_rate"]["last_epoch"] == 2 * STEPS
    momentum = stored["optimizer"]["state"]
    assert momentum.keys() == fresh.keys()
    assert all(state["momentum_buffer"].any() for state in momentum.values())


def test_modes_and_numbers_of_processes_agree(three, process, data, whole, tmp_path):
    fsdp = whole(MODES["fsdp"])
    assert close(whole(""), fsdp) == []
    assert run(data, tmp_path) == WHOLE  # this process alone
    assert close(whole(""), tmp_path / "checkpoint.pt") == []


def test_gradients_are_those_of_the_whole_batch(three, process, data, tmp_path):
    expected = gradients(data, tmp_path)
    for mode in MODES.values():
        for of_process in three(gradients, data, tmp_path, mode):
            for gradient, of_batch in zip(of_process, expected, strict=True):
                torch.testing.assert_close(gradient, of_batch, rtol=1e-4, atol=1e-6)
    local = three(gradients, data, tmp_path, "--local-penalty")[0]
    pairs = zip(local, expected, strict=True)
    assert any((gradient - of_batch).norm() > 1e-2 * of_batch.norm() for gradient, of_batch in pairs)


def test_parts_of_a_batch_are_exchanged_at_its_end(three, data, tmp_path):
    first, *others = three(unsynchronized, data, tmp_path)
    assert not any(torch.equal(first[0], gradients[0]) for gradients in others)  # each has its own
    for of_process in three(unsynchronized, data, tmp_path, "--parallel=fsdp"):
        assert all(gradient is None for gradient in of_process)  # nothing came to the shards


@pytest.mark.parametrize("words,processes", (("--parallel=fsdp", 3), ("", 1), ("--parallel=fsdp", 1)))
def test_another_mode_or_number_of_processes_goes_on(three, process, data, whole, tmp_path, words, processes):
    assert three(run, data, tmp_path, "", STEPS + 1)[0]["ended"] == STEPS + 1
    if processes == 3:
        ended = three(run, data, tmp_path, words)[0]
    else:
        ended = run(data, tmp_path, words)
    assert ended == {**WHOLE, "began": STEPS + 1}
    assert close(whole(""), tmp_path / "checkpoint.pt") == []


def test_a_restored_network_is_the_stored_one(three, process, data, tmp_path):
    three(run, data, tmp_path, "", STEPS + 1)
    stored = read_checkpoint(tmp_path / "checkpoint.pt")
    for words in ("", "--parallel=fsdp", "--memory-format=contiguous"):
        trainer = Trainer(make_options(data, tmp_path, words), process)
        weights = trainer.network.state_dict()
        assert (
            differences({name: full(weight) for name, weight in weights.items()}, dict(stored["model"])) == []
        )
        parameters = dict(trainer.network.named_parameters())
        for name, state in stored["optimizer"]["state"].items():
            momentum = trainer.optimizer.state[parameters[name]]["momentum_buffer"]
            assert momentum.stride() == parameters[name].stride()
            assert torch.equal(full(momentum), state["momentum_buffer"])
        plain = build_resnet50(batch_norm=False, skips=False, classes=CLASSES, width=4, blocks=(1, 1, 1, 1))
        plain.load_state_dict(stored["model"])  # with no Jumpstart about it


def test_validation_counts_every_image(three, process, data, whole):
    stored = read_checkpoint(whole(""))
    network = build_resnet50(batch_norm=False, skips=False, classes=CLASSES, width=4, blocks=(1, 1, 1, 1))
    network.load_state_dict(stored["model"])
    network.eval()
    images = Images(find_images(data / "val"), 16)
    pixels, labels = zip(*(images[0, index] for index in range(len(images))), strict=True)
    pixels, labels = torch.stack(pixels), torch.tensor(labels)
    with torch.no_grad():
        logits = network(normalize(pixels))
    record = stored["history"][-1]
    assert record["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert record["top1"] == (logits.argmax(1) == labels).float().mean().item()
    assert record["top5"] == 1.0  # of four classes
    usage = jk.unit_usage(network, [normalize(pixels)])
    assert record["usage"] == pytest.approx(usage.ratios)
    assert record["layers"] == {name: layer._asdict() for name, layer in usage.layers.items()}


def test_sigterm_in_the_validation_has_it_begin_anew(process, data, tmp_path, monkeypatch):
    class Late(Trainer):
        def _validate(self, termination, log):
            termination._receive(15, None)
            return super()._validate(termination, log)

    words = "--checkpoint-every=0"
    with Termination() as termination:
        late = Late(make_options(data, tmp_path, words), process)
        assert not train(late, termination, quiet=True)
    stored = read_checkpoint(tmp_path / "checkpoint.pt")
    assert (stored["epoch"], stored["step"], stored["history"]) == (0, STEPS, [])
    assert run(data, tmp_path, words) == {**WHOLE, "began": STEPS}
    assert run(data, tmp_path / "whole", words) == WHOLE
    checkpoints = [read_checkpoint(path / "checkpoint.pt") for path in (tmp_path, tmp_path / "whole")]
    assert differences(*checkpoints) == []


def test_a_finished_training_stays_as_it_is(process, data, tmp_path):
    assert run(data, tmp_path) == WHOLE
    before = (tmp_path / "checkpoint.pt").read_bytes()
    (tmp_path / "history.json").unlink()
    assert run(data, tmp_path) == {**WHOLE, "began": 2 * STEPS}
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert len(json.loads((tmp_path / "history.json").read_text())) == 2


def test_checkpoints_within_an_epoch_change_nothing(process, data, tmp_path):
    assert run(data, tmp_path / "often", "--checkpoint-every=1") == WHOLE
    assert run(data, tmp_path / "seldom") == WHOLE
    checkpoints = [read_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("often", "seldom")]
    assert differences(*checkpoints) == []


def test_accumulation_and_checkpointing_change_no_gradient(process, data, tmp_path):
    def compare(first, second):
        pairs = zip(gradients(data, tmp_path, first), gradients(data, tmp_path, second), strict=True)
        for gradient, expected in pairs:
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)

    compare("--accumulate=3 --penalty-weight=0", "--accumulate=1 --penalty-weight=0")
    compare("--accumulate=1 --checkpointing", "--accumulate=1")


def test_compiled_and_checkpointed_blocks_train_alike(process, data, tmp_path):
    words = "--compile --checkpointing --width=2 --epochs=2"
    torch._dynamo.reset()
    assert run(data, tmp_path / "compiled", words) == WHOLE
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert compiled >= 4 and not torch._dynamo.utils.counters["graph_break"]
    torch._dynamo.reset()
    assert run(data, tmp_path / "eager", "--width=2 --epochs=2") == WHOLE
    assert close(tmp_path / "compiled" / "checkpoint.pt", tmp_path / "eager" / "checkpoint.pt", 1e-3) == []


def test_without_a_penalty_the_network_is_plain(process, data, tmp_path):
    trainer = Trainer(make_options(data, tmp_path, "--penalty-weight=0"), process)
    kinds = {type(module) for module in trainer.network.modules()}
    assert nn.ReLU in kinds and jk.JumpstartReLU not in kinds
    assert run(data, tmp_path, "--penalty-weight=0") == WHOLE
    history = read_checkpoint(tmp_path / "checkpoint.pt")["history"]
    assert history[-1]["train_penalty"] == 0 and history[-1]["usage"]["unit_dead_ratio"] >= 0


@pytest.mark.parametrize("images,points", ((None, CLASSES * VAL), (7, 10), (12, 15), (0, None)))
def test_usage_of_a_part_of_the_images(process, data, tmp_path, images, points):
    words = "--epochs=2" if images is None else f"--usage-images={images}"
    run(data, tmp_path, words)
    record = read_checkpoint(tmp_path / "checkpoint.pt")["history"][-1]
    found = {layer["points"] for layer in record["layers"].values()} if "layers" in record else None
    assert found == (None if points is None else {points})


def test_random_states_are_kept_by_process(three, data, tmp_path):
    three(run, data, tmp_path, "", 1)
    states = [process["random"] for process in read_checkpoint(tmp_path / "checkpoint.pt")["processes"]]
    assert len(states) == 3 and len({tuple(state["cpu"].tolist()) for state in states}) == 3
    assert all(state.keys() == {"cpu", "python", "numpy"} for state in states)


def test_a_loss_that_is_no_number_ends_it_and_keeps_the_checkpoint(three, data, tmp_path):
    three(run, data, tmp_path, "", 1)
    path = tmp_path / "checkpoint.pt"
    stored = read_checkpoint(path)
    stored["model"]["0.bias"].fill_(torch.nan)
    stored.pop("format")
    write_checkpoint(path, stored)
    before = path.read_bytes()
    with pytest.raises(AssertionError, match="the loss is no longer finite") as error:
        three(run, data, tmp_path)
    assert str(error.value).count("CommandError: the loss is no longer finite") == 3  # in all processes
    assert path.read_bytes() == before


def test_a_checkpoint_of_other_settings_is_left_alone(process, data, tmp_path):
    run(data, tmp_path, interrupted=1)
    with pytest.raises(CommandError, match="momentum was 0.9, is 0.8; seed was 0, is 1. Resume it"):
        Trainer(make_options(data, tmp_path, "--seed=1 --momentum=0.8"), process)
    other = tmp_path / "other"
    shutil.copytree(data, other)
    next((other / "train" / "red").iterdir()).unlink()
    with pytest.raises(CommandError, match="images was 28, is 27"):
        Trainer(make_options(other, tmp_path), process)
    shutil.copy(next((other / "train" / "blue").iterdir()), other / "train" / "red" / "new.png")
    with pytest.raises(CommandError, match="settings: checksum of image names was"):
        Trainer(make_options(other, tmp_path), process)


@pytest.mark.parametrize(
    "message,words",
    (
        (
            "--batch-size must be a multiple of 5, --accumulate × 1 processes",
            "--batch-size=12 --accumulate=5",
        ),
        (
            "--batch-size must be at most 28, the number of training images, got 29",
            "--batch-size=29 --accumulate=1",
        ),
    ),
)
def test_batches_that_cannot_be(process, data, tmp_path, message, words):
    options = make_options(data, tmp_path)
    for word in words.split():
        name, _, number = word.removeprefix("--").replace("-", "_").partition("=")
        setattr(options, name, int(number))
    with pytest.raises(CommandError, match=message):
        Trainer(options, process)
