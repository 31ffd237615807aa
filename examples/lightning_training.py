"""Lightning: the penalty in `training_step`, and a callback for λ and for what becomes of the units.

30 layers of 16 ReLU units on scikit-learn's digits. One sees the accuracy on the validation set and the
fraction of dead units in the progress bar; plain ReLU stays at the accuracy of guessing, a tenth, and with
Jumpstart most digits are recognized. The table of the units comes from the last validation's own forwards.

    python examples/lightning_training.py
"""

import argparse
import logging
import warnings

import lightning as L
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import jumpstart_kernels as jk
from jumpstart_kernels.integrations.lightning import JumpstartCallback


def load_data(seed):
    """1,198 digits to train on, 599 to validate, 8 × 8 pixels each."""
    x, y = load_digits(return_X_y=True)
    x = torch.tensor(x, dtype=torch.float32) / 8 - 1
    parts = train_test_split(x, torch.tensor(y), test_size=1 / 3, stratify=y, random_state=seed)
    x_train, x_val, y_train, y_val = parts
    return TensorDataset(x_train, y_train), TensorDataset(x_val, y_val)


class Classifier(L.LightningModule):
    def __init__(self, schedule=None, depth=30, width=16):
        super().__init__()
        layers = [nn.Linear(64, width), nn.ReLU()]
        for _ in range(depth - 1):
            layers += [nn.Linear(width, width), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.Linear(width, 10))
        self.schedule = schedule
        if schedule is not None:
            jk.replace_relu(self.model)

    def training_step(self, batch, _):
        x, y = batch
        loss = cross_entropy(self.model(x), y)
        if self.schedule is not None:
            loss = loss + self.schedule.weight * jk.penalty(self)
        return loss

    def validation_step(self, batch, _):
        x, y = batch
        self.log("accuracy", (self.model(x).argmax(1) == y).float().mean(), prog_bar=True)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        epochs = self.trainer.max_epochs
        return [optimizer], [torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=epochs)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--lam", type=float, default=0.3, help="λ, the weight of the penalty")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="Lightning's accelerator: auto, cpu, gpu, ...")
    args = parser.parse_args()
    torch.set_num_threads(1)  # layers of 16 units: a second thread would only be waited for
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # the data are in memory
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    train_set, val_set = load_data(args.seed)

    results = {}
    for name in ("plain", "Jumpstart"):
        L.seed_everything(args.seed, verbose=False)
        schedule = jk.schedules.ConstantPenalty(args.lam) if name == "Jumpstart" else None
        callback = JumpstartCallback(schedule)  # without a schedule it only reports
        trainer = L.Trainer(
            max_epochs=args.epochs,
            accelerator=args.device,
            devices=1,
            gradient_clip_val=1.0,
            callbacks=[callback],
            check_val_every_n_epoch=5,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        train_loader = DataLoader(train_set, batch_size=64, shuffle=True)
        trainer.fit(Classifier(schedule), train_loader, DataLoader(val_set, batch_size=600))
        results[name] = float(trainer.callback_metrics["accuracy"]), callback.report
    print(callback.report)  # layer by layer, with Jumpstart
    for name, (accuracy, usage) in results.items():
        dead, linear = usage["unit_dead_ratio"], usage["unit_linear_ratio"]
        print(f"{name}: accuracy {accuracy:.2f}, {dead:.0%} dead and {linear:.0%} linear units")


if __name__ == "__main__":
    main()
