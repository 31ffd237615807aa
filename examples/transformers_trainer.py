"""Hugging Face's `Trainer` with the penalty in its loss, for a model with ReLUs that a config describes.

30 layers of 16 ReLU units on scikit-learn's digits, with random weights: nothing is downloaded. One sees the
ratios of dead and linear units among the metrics of every evaluation. Plain ReLU stays at the accuracy of
guessing, a tenth; with Jumpstart most digits are recognized. `from_pretrained` and other models with ReLUs
(OPT, T5, or `hidden_act="relu"`) go the same way: `jk.replace_relu(model)`, then `JumpstartTrainer`.

    python examples/transformers_trainer.py
"""

import argparse
import tempfile

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, Trainer, TrainingArguments, set_seed
from transformers.modeling_outputs import SequenceClassifierOutput

import jumpstart_kernels as jk
from jumpstart_kernels.integrations.transformers import JumpstartCallback, JumpstartTrainer


class DeepConfig(PreTrainedConfig):
    model_type = "deep"

    def __init__(self, features=64, depth=30, width=16, num_labels=10, **kwargs):
        super().__init__(num_labels=num_labels, **kwargs)
        self.features, self.depth, self.width = features, depth, width


class DeepForClassification(PreTrainedModel):
    config_class = DeepConfig

    def __init__(self, config):
        super().__init__(config)
        layers = [nn.Linear(config.features, config.width), nn.ReLU()]
        for _ in range(config.depth - 1):
            layers += [nn.Linear(config.width, config.width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(config.width, config.num_labels))
        self.post_init()

    def _init_weights(self, module):  # PyTorch's own initialization
        if isinstance(module, nn.Linear):
            module.reset_parameters()

    def forward(self, features, labels=None):
        logits = self.layers(features)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def load_data(seed):
    """1,198 digits to train on, 599 to evaluate, 8 × 8 pixels each."""
    x, y = load_digits(return_X_y=True)
    parts = train_test_split(x.astype(np.float32) / 8 - 1, y, test_size=1 / 3, stratify=y, random_state=seed)
    x_train, x_eval, y_train, y_eval = parts
    return (
        [{"features": x, "labels": int(y)} for x, y in zip(*pair, strict=True)]
        for pair in ((x_train, y_train), (x_eval, y_eval))
    )


def compute_metrics(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--lam", type=float, default=0.3, help="λ, the weight of the penalty")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["auto", "cpu"], default="auto")
    args = parser.parse_args()
    torch.set_num_threads(1)  # layers of 16 units: a second thread would only be waited for
    train_set, eval_set = load_data(args.seed)
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        num_train_epochs=args.epochs,
        per_device_train_batch_size=64,
        per_device_eval_batch_size=600,
        learning_rate=0.01,
        max_grad_norm=1.0,
        eval_strategy="steps",
        eval_steps=200,
        logging_steps=200,
        save_strategy="no",
        report_to="none",
        use_cpu=args.device == "cpu",
        dataloader_pin_memory=False,
        seed=args.seed,
    )
    options = {"args": arguments, "train_dataset": train_set, "eval_dataset": eval_set}
    options["compute_metrics"] = compute_metrics

    set_seed(args.seed)
    plain = Trainer(model=DeepForClassification(DeepConfig()), **options)
    plain.train()

    set_seed(args.seed)
    model = jk.replace_relu(DeepForClassification(DeepConfig()))
    callback = JumpstartCallback(jk.schedules.ConstantPenalty(args.lam))
    jumpstart = JumpstartTrainer(model=model, callbacks=[callback], **options)
    jumpstart.train()

    results = {"plain": plain.evaluate(), "Jumpstart": jumpstart.evaluate()}
    print(callback.report)  # layer by layer, from the evaluation's own forwards
    for name, metrics in results.items():
        print(f"{name}: accuracy {metrics['eval_accuracy']:.2f}")


if __name__ == "__main__":
    main()
