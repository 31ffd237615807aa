"""A training loop of your own: what changes in it for Jumpstart, from the model to its export.

30 layers of 4 ReLU units on the Wine data, first as they are, then with the penalty. One sees `jk.watch` warn
that units of both are dead or linear. Plain ReLU stays there: nearly all units end so, and the accuracy is
that of guessing. With Jumpstart the units come back, and nearly all wines are told apart.

    python examples/plain_pytorch.py
"""

import argparse
import io

import torch
from rich.progress import track
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import jumpstart_kernels as jk


def load_data(seed):
    """Wine, standardized: 118 wines to train on and 60 to test on, of three kinds."""
    x, y = load_wine(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=1 / 3, stratify=y, random_state=seed)
    scaler = StandardScaler().fit(x_train)
    x_train, x_test = (
        torch.tensor(scaler.transform(part), dtype=torch.float32) for part in (x_train, x_test)
    )
    return TensorDataset(x_train, torch.tensor(y_train)), TensorDataset(x_test, torch.tensor(y_test))


def build_model(features, classes, depth=30, width=4):
    layers = [nn.Linear(features, width), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, classes))


def train(model, loader, epochs, lam, device):
    """The usual loop; with λ above 0, the penalty is added to the loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=epochs)
    model.train()
    for _ in track(range(epochs), f"λ = {lam:g}"):
        for x, y in loader:
            loss = nn.functional.cross_entropy(model(x.to(device)), y.to(device))
            if lam > 0:
                loss = loss + lam * jk.penalty(model)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        scheduler.step()


@torch.no_grad()
def accuracy(model, loader, device):
    model.eval()
    hits = [(model(x.to(device)).argmax(1).cpu() == y).float() for x, y in loader]
    return torch.cat(hits).mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--lam", type=float, default=0.2, help="λ, the weight of the penalty")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)  # layers of 4 units: a second thread would only be waited for
    train_set, test_set = load_data(args.seed)
    test_loader = DataLoader(test_set, batch_size=256)

    results = []
    for name, lam in (("plain", 0.0), ("Jumpstart", args.lam)):
        torch.manual_seed(args.seed)
        model = build_model(features=13, classes=3).to(args.device)
        if lam > 0:
            model = jk.replace_relu(model)  # before the optimizer is made
        watch = jk.watch(model, every=20)  # warns of layers in which units die
        train(model, DataLoader(train_set, batch_size=64, shuffle=True), args.epochs, lam, args.device)
        watch.remove()
        usage = jk.unit_usage(model, DataLoader(train_set, batch_size=256))
        test_accuracy = accuracy(model, test_loader, args.device)
        results.append((name, test_accuracy, usage["unit_dead_ratio"], usage["unit_linear_ratio"]))
    print(usage)  # layer by layer, with Jumpstart
    for name, test_accuracy, dead, linear in results:
        print(f"{name}: accuracy {test_accuracy:.2f}, {dead:.0%} dead and {linear:.0%} linear units")

    # For deployment: a plain model again, that knows nothing of this package.
    model = jk.restore_relu(model).eval().cpu()
    x, _ = next(iter(test_loader))
    batch = torch.export.Dim("batch")
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    same = torch.equal(torch.export.load(file).module()(x), model(x))
    print(f"exported: {len(file.getvalue()):,} bytes, same output: {same}")


if __name__ == "__main__":
    main()
