"""The trainer and the callback in real training runs of Hugging Face's transformers."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="Trainer needs accelerate")

from transformers import Trainer, TrainingArguments

import jumpstart_kernels as jk
from jumpstart_kernels.integrations.transformers import JumpstartCallback, JumpstartTrainer
from jumpstart_kernels.schedules import ConstantPenalty, LinearPenalty, StopWhenHealthy

# Asked for twice, by the log and by the evaluation's end: what was reported is not missing.
pytestmark = pytest.mark.filterwarnings("error:no watched layer was seen")
X = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3
DATA = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]


class Classifier(nn.Module):
    """A model as Trainer expects it, which computes its own loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x, labels=None):
        logits = self.layers(x)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


class Summing(Classifier):
    """Its loss is summed over the micro-batch and divided by the total items, as in language models."""

    def forward(self, x, labels=None, num_items_in_batch=None, **kwargs):
        logits = self.layers(x)
        if num_items_in_batch is None:
            return {"loss": cross_entropy(logits, labels), "logits": logits}
        return {"loss": cross_entropy(logits, labels, reduction="sum") / num_items_in_batch, "logits": logits}


def make_trainer(folder, callback, model=None, kind=JumpstartTrainer, **options):
    options = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "eval_strategy": "epoch",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "train_sampling_strategy": "sequential",
        **options,
    }
    if not hasattr(TrainingArguments, "train_sampling_strategy"):
        del options["train_sampling_strategy"]
    arguments = TrainingArguments(output_dir=str(folder), **options)
    model = jk.replace_relu(Classifier()) if model is None else model
    trainer = kind(model=model, args=arguments, train_dataset=DATA, eval_dataset=DATA, callbacks=[callback])
    # In the order of the data, whatever the release calls that option.
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(DATA)
    return trainer


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


@pytest.mark.parametrize("kind", [Classifier, Summing])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_it_trains_as_the_loop_written_out(tmp_path, kind, accumulate):
    """The penalty is the mean over the micro-batches, however the model scales its own loss."""
    model = jk.replace_relu(kind())
    twin = copy.deepcopy(model)
    callback = JumpstartCallback(LinearPenalty(0.6, total_steps=6), reduction="mean")
    trainer = make_trainer(tmp_path, callback, model, gradient_accumulation_steps=accumulate)
    trainer.train()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    schedule, penalties = LinearPenalty(0.6, total_steps=6), []
    for _ in range(2):
        for micro_batches in (torch.arange(24).split(8)[i : i + accumulate] for i in range(0, 3, accumulate)):
            optimizer.zero_grad()
            for batch in micro_batches:
                loss = cross_entropy(twin.layers(X[batch]), Y[batch])
                penalties.append(jk.penalty(twin, reduction="mean"))
                ((loss + schedule.weight * penalties[-1]) / accumulate).backward()
            optimizer.step()
            schedule.step()
    for own, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other)
    assert callback.schedule.last_step == schedule.last_step == 6 // accumulate
    means = [sum(penalties[i : i + accumulate]).item() / accumulate for i in range(0, 6, accumulate)]
    assert logged(trainer, "jumpstart_penalty") == pytest.approx(means, rel=1e-5)
    weights = [0.6, 0.5, 0.4, 0.3, 0.2, 0.1][: 6 // accumulate]
    assert logged(trainer, "jumpstart_weight") == pytest.approx(weights)


def check_usage(metrics, report, model, prefix="eval"):
    expected = jk.unit_usage(model.layers, [X])
    assert dict(report) == dict(expected)
    for name, ratio in expected.items():
        assert metrics[f"{prefix}_{name}"] == pytest.approx(ratio)


def test_evaluations_have_the_usage(tmp_path):
    callback = JumpstartCallback(0.5)
    trainer = make_trainer(tmp_path, callback)
    trainer.train()
    check_usage(trainer.state.log_history[-2], callback.report, trainer.model)
    assert len(logged(trainer, "eval_unit_dead_ratio")) == 2
    assert all("eval_unit_dead_ratio" not in entry for entry in trainer.state.log_history if "loss" in entry)
    with torch.no_grad():
        trainer.model.layers[0].bias.sub_(100)  # dead, all of it
    metrics = trainer.evaluate(metric_key_prefix="other")
    assert metrics["other_unit_dead_ratio"] >= 0.5
    check_usage(metrics, callback.report, trainer.model, "other")
    assert "test_unit_dead_ratio" in trainer.predict(DATA).metrics
    assert all(
        not layer._watchers for layer in trainer.model.modules() if isinstance(layer, jk.JumpstartReLU)
    )


def test_evaluations_have_the_cosines_if_asked_to(tmp_path):
    callback = JumpstartCallback(ConstantPenalty(0.5), cosines=True)
    trainer = make_trainer(tmp_path, callback)
    metrics = trainer.evaluate()
    expected = jk.unit_usage(trainer.model.layers, X.split(8), cosines=True).cosines
    found = {name.removeprefix("eval_cosine/layers."): v for name, v in metrics.items() if "cosine" in name}
    assert found == pytest.approx(expected, abs=1e-6) and list(expected) == ["1", "3"]
    assert logged(trainer, "eval_cosine/layers.1") == [found["1"]]


@pytest.mark.parametrize("options", [{}, {"torch_compile": True}, {"gradient_accumulation_steps": 3}])
def test_training_is_watched_if_asked_to(tmp_path, options):
    trained = []
    for watched in ({}, {"watch_every": 2, "watch_options": {"samples": 0}, "dormancy": True}):
        callback = JumpstartCallback(0.5, **watched)
        trainer = make_trainer(tmp_path, callback, num_train_epochs=7, **options)  # of 3 batches, 21 in all
        trainer.train()
        trained.append(list(trainer.model.parameters()))
    for mine, other in zip(*trained, strict=True):
        torch.testing.assert_close(mine, other)
    watch = callback.training_watch
    assert watch.forwards == {"training": 21, "evaluation": 21}
    assert list(watch.report().layers) == ["layers.1", "layers.3"]
    (record,) = watch.history
    assert logged(trainer, "train_unit_dead_ratio") == [record["unit_dead_ratio"]]
    assert logged(trainer, "train_unit_dormant_ratio") == [record["unit_dormant_ratio"]]
    assert len(logged(trainer, "eval_unit_dormant_ratio")) == 7
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in trainer.model.modules())
    with pytest.raises(TypeError, match="watch_every must be an int"):
        JumpstartCallback(0.5, watch_every=True)


def test_the_loss_of_an_evaluation_is_plain(tmp_path):
    trainer = make_trainer(tmp_path, JumpstartCallback(100.0), per_device_eval_batch_size=24)
    expected = cross_entropy(trainer.model.layers(X), Y).item()
    jk.clear_records(trainer.model)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_callback_alone(tmp_path):
    """With a custom loss."""
    callback = JumpstartCallback(LinearPenalty(0.6, total_steps=6))
    weights, metrics = [], []

    class Own(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            outputs = model(**inputs)
            if not model.training:
                return (outputs["loss"], outputs) if return_outputs else outputs["loss"]
            weights.append(callback.schedule.weight)
            return outputs["loss"] + callback.schedule.weight * jk.penalty(model)

        def evaluate(self, *args, **kwargs):
            metrics.append(super().evaluate(*args, **kwargs))
            return metrics[-1]

    trainer = make_trainer(tmp_path, callback, kind=Own)
    trainer.train()
    assert weights == pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    check_usage(metrics[-1], callback.report, trainer.model)


def test_a_schedule_stops_and_steps_by_epoch(tmp_path):
    inner = LinearPenalty(0.6, total_steps=6)
    schedule = StopWhenHealthy(inner, max_dead_ratio=1, max_linear_ratio=1, patience=2)
    trainer = make_trainer(tmp_path, JumpstartCallback(schedule, interval="epoch"), num_train_epochs=3)
    trainer.train()
    expected = [0.6] * 3 + [0.5] * 3 + [0.0] * 3
    assert logged(trainer, "jumpstart_weight") == pytest.approx(expected)
    trainer.evaluate()
    assert schedule.healthy == 3  # an evaluation outside of training is none of the observations


@pytest.mark.parametrize("restore", [False, True])
def test_it_goes_on_from_a_checkpoint(tmp_path, restore):
    schedule = StopWhenHealthy(LinearPenalty(0.6, total_steps=6), max_dead_ratio=1, max_linear_ratio=1)
    options = {"save_strategy": "epoch", "restore_callback_states_from_checkpoint": restore}
    make_trainer(tmp_path, JumpstartCallback(schedule), **options).train()
    resumed = StopWhenHealthy(LinearPenalty(0.6, total_steps=12), max_dead_ratio=1, max_linear_ratio=1)
    trainer = make_trainer(tmp_path, JumpstartCallback(resumed), num_train_epochs=4, **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert logged(trainer, "jumpstart_weight")[-6:] == pytest.approx([0.3, 0.25, 0.2, 0, 0, 0])
    assert resumed.last_step == 12 and resumed.stopped


def test_a_checkpoint_of_the_last_step_has_the_step_of_the_epoch(tmp_path):
    options = {"interval": "epoch", "usage": False}
    saving = {"save_strategy": "steps", "save_steps": 1}
    first = make_trainer(tmp_path, JumpstartCallback(LinearPenalty(0.6, total_steps=6), **options), **saving)
    first.train()
    assert logged(first, "jumpstart_weight") == pytest.approx([0.6] * 3 + [0.5] * 3)
    for steps in range(1, 6):
        schedule = LinearPenalty(0.6, total_steps=6)
        trainer = make_trainer(tmp_path, JumpstartCallback(schedule, **options), **saving)
        trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{steps}"))
        expected = ([0.6] * 3 + [0.5] * 3)[steps:]
        assert logged(trainer, "jumpstart_weight")[-len(expected) :] == pytest.approx(expected)
        assert schedule.last_step == 2


def test_an_evaluation_that_fails_leaves_no_watch(tmp_path):
    trainer = make_trainer(tmp_path, JumpstartCallback(0.5))
    trainer.prediction_step = lambda *_, **__: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.evaluate()
    layers = [layer for layer in trainer.model.modules() if isinstance(layer, jk.JumpstartReLU)]
    assert layers and not any(layer._watchers for layer in layers)


def test_a_trainer_needs_its_callback(tmp_path):
    trainer = make_trainer(tmp_path, JumpstartCallback(ConstantPenalty(0.1)))
    trainer.remove_callback(JumpstartCallback)
    with pytest.raises(ValueError, match="callbacks must have one JumpstartCallback, .*, got 0"):
        trainer.train()


def test_wrong_arguments():
    with pytest.raises(ValueError, match="interval must be one of 'step', 'epoch', got 'batch'"):
        JumpstartCallback(0.1, interval="batch")


def test_without_transformers_it_says_what_to_install():
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "try: import jumpstart_kernels.integrations.transformers\n"
        "except ImportError as error: assert 'jumpstart_kernels[transformers]' in str(error), error\n"
        "else: raise AssertionError"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
