"""Data-parallel training, in which the penalty is that of the batches of all processes together.

30 layers of 16 ReLU units on scikit-learn's digits. Each process sees its own part of every batch, and a unit
counts as dead only if it is so in all of them: `jk.penalty(model, process_group=...)`. One sees that the
processes agree on the penalty and on every weight, and that most digits are recognized; with `--lam 0` the
accuracy stays at that of guessing, a tenth.

    torchrun --nproc_per_node=2 examples/distributed_training.py     # gloo on CPUs, nccl on GPUs
    python examples/distributed_training.py                          # one process
"""

import argparse
import os

import torch
import torch.distributed as dist
from rich.progress import track
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, Subset, TensorDataset

import jumpstart_kernels as jk


def load_data(seed):
    """1,198 digits to train on, 599 to test on, 8 × 8 pixels each."""
    x, y = load_digits(return_X_y=True)
    x = torch.tensor(x, dtype=torch.float32) / 8 - 1
    parts = train_test_split(x, torch.tensor(y), test_size=1 / 3, stratify=y, random_state=seed)
    x_train, x_test, y_train, y_test = parts
    return TensorDataset(x_train, y_train), TensorDataset(x_test, y_test)


def build_model(depth=30, width=16):
    layers = [nn.Linear(64, width), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def join(device):
    """Join the processes that torchrun has started, or be the only one."""
    backend = "nccl" if device == "cuda" else "gloo"
    if dist.is_torchelastic_launched():
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    if device == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    return torch.device(device)


def same_everywhere(values):
    """Whether a tensor has the same bits in all processes."""
    largest, smallest = values.clone(), values.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    dist.all_reduce(smallest, dist.ReduceOp.MIN)
    return torch.equal(largest, smallest)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--lam", type=float, default=0.3, help="λ, the weight of the penalty; may be 0")
    parser.add_argument("--seed", type=int, default=0)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cpu", "cuda"], default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)  # layers of 16 units: a second thread would only be waited for
    device = join(args.device)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    train_set, test_set = load_data(args.seed)

    torch.manual_seed(args.seed)
    model = jk.replace_relu(build_model()).to(device)  # before DDP and the optimizer
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.Adam(parallel.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=args.epochs)
    sampler = DistributedSampler(train_set, seed=args.seed)
    loader = DataLoader(train_set, batch_size=64 // ranks, sampler=sampler)
    for epoch in track(range(args.epochs), f"{ranks} processes", disable=rank > 0):
        sampler.set_epoch(epoch)
        for x, y in loader:
            loss = nn.functional.cross_entropy(parallel(x.to(device)), y.to(device))
            penalty = jk.penalty(parallel, process_group=dist.group.WORLD)  # of the whole batch
            optimizer.zero_grad()
            (loss + args.lam * penalty).backward()
            nn.utils.clip_grad_norm_(parallel.parameters(), 1.0)
            optimizer.step()
        scheduler.step()

    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    penalty = penalty.detach()
    agree = same_everywhere(penalty), same_everywhere(weights)
    test_loader = DataLoader(Subset(test_set, range(rank, len(test_set), ranks)), batch_size=600)
    usage = jk.unit_usage(model, test_loader)  # of all processes' data
    model.eval()
    with torch.no_grad():
        hits = sum((model(x.to(device)).argmax(1) == y.to(device)).sum() for x, y in test_loader)
    dist.all_reduce(hits)
    if rank == 0:
        print(usage)
        print(f"accuracy {int(hits) / len(test_set):.2f}, penalty {float(penalty):.4f}")
        print(f"{ranks} processes agree on the penalty: {agree[0]}, on the weights: {agree[1]}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
