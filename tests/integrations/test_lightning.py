"""The callback in real Lightning training runs."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import jumpstart_kernels as jk
from jumpstart_kernels.schedules import ConstantPenalty, LinearPenalty, StopWhenHealthy

try:
    from lightning import pytorch as lightning
except ImportError:
    lightning = pytest.importorskip("pytorch_lightning", reason="neither lightning nor pytorch_lightning")

from jumpstart_kernels.integrations.lightning import JumpstartCallback

GENERATOR = torch.Generator().manual_seed(0)
DATA = TensorDataset(torch.randn(24, 5, generator=GENERATOR), torch.arange(24) % 3)


class Classifier(lightning.LightningModule):
    """Its own forward is never called: a training step calls the inner model."""

    def __init__(self, schedule) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)]
        self.model = jk.replace_relu(nn.Sequential(*layers))
        self.schedule = schedule
        self.weights = []

    def training_step(self, batch, _):
        x, y = batch
        self.weights.append(self.schedule.weight)
        return cross_entropy(self.model(x), y) + self.schedule.weight * jk.penalty(self)

    def validation_step(self, batch, _):
        x, y = batch
        self.log("loss", cross_entropy(self.model(x), y))

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module, callback, tmp_path, checkpoint=None, **options):
    options = {"max_epochs": 2, "accelerator": "cpu", "logger": False, **options}
    trainer = lightning.Trainer(
        callbacks=[callback],
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
        **options,
    )
    loaders = DataLoader(DATA, 8), DataLoader(DATA, 8)
    trainer.fit(module, *loaders, ckpt_path=checkpoint)
    return trainer


def test_it_trains_as_the_loop_written_out(tmp_path):
    schedule = LinearPenalty(0.6, total_steps=6)
    module = Classifier(schedule)
    twin = copy.deepcopy(module.model)
    fit(module, JumpstartCallback(schedule), tmp_path)
    assert module.weights == pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for i, weight in enumerate(module.weights):
        x, y = DATA[8 * (i % 3) : 8 * (i % 3) + 8]
        optimizer.zero_grad()
        (cross_entropy(twin(x), y) + weight * jk.penalty(twin)).backward()
        optimizer.step()
    for own, other in zip(module.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other)


def test_validation_gives_the_usage(tmp_path):
    schedule = ConstantPenalty(0.5)
    module, callback = Classifier(schedule), JumpstartCallback(schedule)
    trainer = fit(module, callback, tmp_path)
    expected = jk.unit_usage(module.model, [DATA.tensors[0]])
    assert {name: ratio for name, ratio in callback.report.items()} == dict(expected)
    assert list(callback.report.layers) == ["model.1", "model.3"]
    logged = trainer.callback_metrics
    assert logged["jumpstart/weight"] == 0.5
    for name, ratio in expected.items():
        assert logged[f"jumpstart/{name}"] == pytest.approx(ratio)
    layers = [layer for layer in module.modules() if isinstance(layer, jk.JumpstartReLU)]
    assert len(layers) == 2 and not any(layer._watchers for layer in layers)


def test_validation_logs_the_cosines_if_asked_to(tmp_path):
    schedule = ConstantPenalty(0.5)
    module, callback = Classifier(schedule), JumpstartCallback(schedule, cosines=True)
    trainer = fit(module, callback, tmp_path)
    expected = jk.unit_usage(module.model, DataLoader(DATA, 8), cosines=True).cosines
    found = {
        name.removeprefix("jumpstart/cosine/model."): value.item()
        for name, value in trainer.callback_metrics.items()
        if "cosine" in name
    }
    assert found == pytest.approx(expected, abs=1e-6) and list(expected) == ["1", "3"]


def test_training_is_watched_if_asked_to(tmp_path):
    schedule = ConstantPenalty(0.5)
    module, callback = (
        Classifier(schedule),
        JumpstartCallback(schedule, watch_every=2, watch_options={"samples": 0}, dormancy=True),
    )
    plain = Classifier(ConstantPenalty(0.5))
    fit(plain, JumpstartCallback(plain.schedule), tmp_path)
    trainer = fit(module, callback, tmp_path, max_epochs=7)  # of 3 batches, 21 in all
    assert callback.training_watch.forwards == {"training": 21, "evaluation": 0}
    (record,) = callback.training_watch.history
    assert record["forward"] in (19, 20)
    logged = trainer.callback_metrics
    assert logged["jumpstart/train_unit_dead_ratio"] == pytest.approx(record["unit_dead_ratio"])
    assert logged["jumpstart/train_unit_dormant_ratio"] == pytest.approx(record["unit_dormant_ratio"])
    assert logged["jumpstart/unit_dormant_ratio"] == pytest.approx(callback.report.dormant_ratio())
    assert list(callback.training_watch.report().layers) == ["model.1", "model.3"]
    layers = [layer for layer in module.modules() if isinstance(layer, jk.JumpstartReLU)]
    assert not any(layer._watchers or layer._forward_hooks for layer in layers)
    again = Classifier(ConstantPenalty(0.5))
    fit(again, JumpstartCallback(again.schedule, watch_every=1), tmp_path)
    for mine, other in zip(again.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, other)
    with pytest.raises(ValueError, match="watch_every must be at least 1"):
        JumpstartCallback(watch_every=0)


def test_accumulated_batches_are_one_step(tmp_path):
    schedule = LinearPenalty(0.6, total_steps=6)
    module = Classifier(schedule)
    fit(module, JumpstartCallback(schedule), tmp_path, accumulate_grad_batches=3)
    assert module.weights == pytest.approx([0.6] * 3 + [0.5] * 3)


def test_it_steps_by_epoch(tmp_path):
    schedule = LinearPenalty(0.6, total_steps=6)
    module = Classifier(schedule)
    fit(module, JumpstartCallback(schedule, interval="epoch", usage=False), tmp_path)
    assert module.weights == pytest.approx([0.6] * 3 + [0.5] * 3)


def test_a_schedule_stops_when_validation_is_healthy(tmp_path):
    schedule = StopWhenHealthy(ConstantPenalty(0.5), max_dead_ratio=1, max_linear_ratio=1, patience=2)
    module, callback = Classifier(schedule), JumpstartCallback(schedule)
    trainer = fit(module, callback, tmp_path, max_epochs=3)
    assert module.weights == [0.5] * 6 + [0.0] * 3
    trainer.validate(module, DataLoader(DATA, 8), verbose=False)
    assert schedule.healthy == 3  # a validation outside of training is none of the observations


def test_it_goes_on_from_a_checkpoint(tmp_path):
    schedule = StopWhenHealthy(LinearPenalty(0.6, total_steps=6), max_dead_ratio=1, max_linear_ratio=1)
    trainer = fit(Classifier(schedule), JumpstartCallback(schedule), tmp_path)
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    resumed = StopWhenHealthy(LinearPenalty(0.6, total_steps=12), max_dead_ratio=1, max_linear_ratio=1)
    module = Classifier(resumed)
    fit(module, JumpstartCallback(resumed), tmp_path, tmp_path / "saved.ckpt", max_epochs=4)
    assert module.weights == pytest.approx([0.3, 0.25, 0.2, 0, 0, 0])


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize(
    "saved", [{"every_n_train_steps": 1}, {"monitor": "loss"}, {"save_on_train_epoch_end": False}], ids=str
)
def test_it_goes_on_from_every_checkpoint(tmp_path, interval, saved):
    """Including the last batch of an epoch, before the epoch ends."""

    def train(schedule, checkpoint=None):
        module = Classifier(schedule)
        saver = lightning.callbacks.ModelCheckpoint(
            tmp_path / ("first" if checkpoint is None else "second"), "{step}", save_top_k=-1, **saved
        )
        options = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        trainer = lightning.Trainer(
            max_epochs=3,
            limit_train_batches=2,
            accelerator="cpu",
            callbacks=[JumpstartCallback(schedule, interval=interval), saver],
            **options,
        )
        trainer.fit(module, DataLoader(DATA, 8), DataLoader(DATA, 8), ckpt_path=checkpoint)
        return module.weights

    schedule = LinearPenalty(0.6, total_steps=6)
    whole = train(schedule)
    assert schedule.last_step == (6 if interval == "step" else 3)
    checkpoints = sorted((tmp_path / "first").glob("*.ckpt"))
    assert len(checkpoints) >= 3
    for checkpoint in checkpoints:
        resumed = LinearPenalty(0.6, total_steps=6)
        weights = train(resumed, checkpoint)
        assert weights == whole[len(whole) - len(weights) :]
        assert resumed.last_step == schedule.last_step


def test_a_second_training_steps_its_epochs_too(tmp_path):
    schedule = LinearPenalty(0.6, total_steps=6)
    callback = JumpstartCallback(schedule, interval="epoch", usage=False)
    for steps in (1, 2):
        fit(Classifier(schedule), callback, tmp_path, max_epochs=1)
        assert schedule.last_step == steps


def test_without_a_weight_none_is_logged(tmp_path):
    module = Classifier(ConstantPenalty(0.5))
    callback = JumpstartCallback()
    trainer = fit(module, callback, tmp_path)
    assert "jumpstart/weight" not in trainer.callback_metrics
    assert "jumpstart/unit_dead_ratio" in trainer.callback_metrics
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    fit(module, callback, tmp_path, tmp_path / "saved.ckpt", max_epochs=3)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="interval must be one of 'step', 'epoch', got 'batch'"):
        JumpstartCallback(0.1, interval="batch")
    with pytest.raises(TypeError, match="peak must be a number, got str"):
        JumpstartCallback("0.1")


def test_without_lightning_it_says_what_to_install():
    code = (
        "import sys; sys.modules.update({'lightning': None, 'pytorch_lightning': None})\n"
        "try: import jumpstart_kernels.integrations.lightning\n"
        "except ImportError as error: assert 'jumpstart_kernels[lightning]' in str(error), error\n"
        "else: raise AssertionError"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_two_callbacks_of_one_trainer_keep_their_states_apart(tmp_path):
    schedules = [LinearPenalty(1.0, total_steps=10), ConstantPenalty(0.5)]
    callbacks = [
        JumpstartCallback(schedule, prefix=prefix, usage=False)
        for schedule, prefix in zip(schedules, ("first/", "second/"), strict=True)
    ]
    trainer = lightning.Trainer(
        callbacks=callbacks,
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(schedules[0]), DataLoader(DATA, 8))
    path = tmp_path / "both.ckpt"
    trainer.save_checkpoint(path)
    states = torch.load(path, weights_only=True)["callbacks"]
    assert len(states) == 2 and {state["schedule"]["last_step"] for state in states.values()} == {3}
    assert {callback.state_key for callback in callbacks} == set(states)
