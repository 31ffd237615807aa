"""``train_imagenet.py`` as a command: killed at random moments, terminated, given invalid options."""

import contextlib
import json
import multiprocessing
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from imagenet_trainings import STEPS, WORDS, make_options, run

from benchmarks import train_imagenet
from benchmarks.imagenet import options as options_of
from benchmarks.imagenet.files import PARTIAL, read_checkpoint
from benchmarks.imagenet.options import check_installed, make_parser, parse_arguments
from benchmarks.imagenet.smoke import differences
from benchmarks.imagenet.trainer import Trainer, train
from jumpstart_kernels.cli.errors import CommandError

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "benchmarks" / "train_imagenet.py"
SERVER = multiprocessing.get_context("forkserver")  # imports once what each process would import
SERVER.set_forkserver_preload(["benchmarks.imagenet.smoke", "torch._dynamo", "torch.distributed.fsdp"])


def start(count, printed, *words):
    """Start processes as torchrun does; what they print goes to files in a folder."""
    printed.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    of_all = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = []
    for rank in range(count):
        variables = {**of_all, "RANK": rank, "LOCAL_RANK": rank}
        process = SERVER.Process(target=serve, args=(words, variables, printed / f"{rank}.txt"))
        process.start()
        processes.append(process)
    return processes


def serve(words, variables, printed):
    os.environ.update({name: str(value) for name, value in variables.items()})
    torch.set_num_threads(1)
    file = os.open(printed, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.exit(train_imagenet.main([str(word) for word in words]))


def end(processes):
    """Their statuses."""
    for process in processes:
        process.join(150)
    return [process.exitcode for process in processes]


@pytest.fixture
def killing():
    """What was started does not outlive the test."""
    with contextlib.ExitStack() as stack:
        yield lambda processes: [stack.callback(process.kill) for process in processes] and processes


def done(output, steps=STEPS):
    """Optimizer steps of a checkpoint, with so many an epoch."""
    path = output / "checkpoint.pt"
    if not path.exists():
        return 0
    checkpoint = read_checkpoint(path)
    return checkpoint["epoch"] * steps + checkpoint["step"]


def wait_for_step(processes, output, step, steps=STEPS):
    deadline = time.monotonic() + 150
    while done(output, steps) < step:
        assert all(process.exitcode is None for process in processes)
        assert time.monotonic() < deadline, "no step was stored"
        time.sleep(0.05)


def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(data, tmp_path, killing):
    steps = 7  # of an epoch
    words = [*WORDS.split(), f"--data={data}", "--batch-size=4", "--workers=1", "--checkpoint-every=1"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert end(killing(start(2, tmp_path / "0", *words, f"--output={whole}"))) == [0, 0]
    before, moments = 0, []
    for first, last in ((1, 4), (5, 2 * steps - 4)):
        processes = killing(start(2, tmp_path / str(first), *words, f"--output={broken}"))
        step = max(random.randint(first, last), before + 1)  # steps go on until it is killed
        moments.append((step, random.uniform(0, 0.1)))
        wait_for_step(processes, broken, moments[-1][0], steps)
        time.sleep(moments[-1][1])
        for process in processes:
            process.kill()
        assert end(processes) == [-signal.SIGKILL] * 2, "it had ended before it was killed"
        assert before < done(broken, steps) < 2 * steps, moments
        before = done(broken, steps)
    assert end(killing(start(2, tmp_path / "last", *words, f"--output={broken}"))) == [0, 0]
    assert f"{broken} has a checkpoint: step " in (tmp_path / "last" / "0.txt").read_text()
    checkpoints = [read_checkpoint(output / "checkpoint.pt") for output in (whole, broken)]
    assert differences(*checkpoints) == [], f"killed at (step, s) {moments}"
    for output in (whole, broken):
        assert json.loads((output / "history.json").read_text()) == checkpoints[0]["history"]
        assert not list(output.glob(f"*{PARTIAL}"))
    assert len(checkpoints[0]["history"]) == 2


def test_sigterm_to_one_process_ends_all_with_a_checkpoint(data, tmp_path, killing):
    output = tmp_path / "output"
    words = [*WORDS.split(), f"--data={data}", "--epochs=5000", "--parallel=fsdp", f"--output={output}"]
    processes = killing(start(2, tmp_path / "printed", *words, "--workers=1", "--checkpoint-every=1"))
    wait_for_step(processes, output, 1)
    processes[1].terminate()
    assert end(processes) == [143, 143]
    first, second = ((tmp_path / "printed" / f"{rank}.txt").read_text() for rank in (0, 1))
    assert "ended by SIGTERM: step" in first and "Traceback" not in first
    assert second == "" and done(output) >= 1


def test_smoke_by_torchrun():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(SCRIPT), "--smoke", "--parallel=fsdp", "--epochs=3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith("smoke test passed\n") and "6.relu" in result.stdout
    assert result.stdout.count("smoke test") == 1


@pytest.mark.parametrize(
    "message,words",
    (
        ("--data and --output are required, or --smoke", ""),
        ("--batch-size must be a multiple of --accumulate, 3, got 256", "--data=x --output=y --accumulate=3"),
        ("--warmup-epochs must be less than --epochs, 5, got 5.0", "--data=x --output=y --epochs=5"),
        (
            "--penalty-warmup-epochs must be less than --epochs, 9, got 9.5",
            "--data=x --output=y --epochs=9 --penalty-schedule=linear --penalty-warmup-epochs=9.5",
        ),
        ("--data: there is no folder nowhere/train", "--data=nowhere --output=out --device=cpu"),
    ),
)
def test_options_that_do_not_go_together(tmp_path, monkeypatch, capsys, message, words):
    monkeypatch.chdir(tmp_path)
    assert train_imagenet.main(words.split()) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("RANK", "1")
    if "--device" not in words:
        assert train_imagenet.main(words.split()) == 2
        assert capsys.readouterr().err == ""  # the first process says it


@pytest.mark.parametrize(
    "message,word",
    (
        ("--epochs: must be a positive integer, got '0'", "--epochs=0"),
        ("--momentum: must be a number above 0 and below 1, got '1'", "--momentum=1"),
        ("--weight-decay: must be a number at least 0, got '-1'", "--weight-decay=-1"),
        ("--learning-rate: must be a number above 0, got 'nan'", "--learning-rate=nan"),
        ("--penalty-weight: must be a number at least 0, got 'x'", "--penalty-weight=x"),
        ("--workers: must be an integer of at least 0, got '-1'", "--workers=-1"),
        ("--seed: must be below 2^32, got '4294967296'", "--seed=4294967296"),
        ("--parallel: invalid choice: 'dp'", "--parallel=dp"),
    ),
)
def test_wrong_options(capsys, message, word):
    with pytest.raises(SystemExit) as error:
        parse_arguments(["--smoke", word])
    assert error.value.code == 2 and message in capsys.readouterr().err


def test_defaults_go_together():
    options = parse_arguments(["--data=x", "--output=y"])
    assert (options.parallel, options.precision, options.model, options.width) == (
        "ddp",
        "bf16",
        "resnet50-plain",
        64,
    )


def test_the_page_has_all_options_and_their_defaults():
    page = (ROOT / "docs" / "imagenet.md").read_text()
    rows = dict(re.findall(r"^\| `(--[a-z-]+)` \| ?([^|]*?) ?\|", page, re.MULTILINE))
    options = {}
    for action in make_parser()._actions:
        shown = "" if action.default is None or action.default is False else str(action.default)
        options[action.option_strings[-1]] = shown
    del options["--help"]
    assert {name: default.strip("`") for name, default in rows.items()} == options


def test_missing_packages_are_named(monkeypatch):
    check_installed()

    def find(name):
        return None if name in ("PIL", "rich", "tensorboard") else find_spec("json")

    monkeypatch.setattr(options_of, "find_spec", find)
    with pytest.raises(CommandError, match="needs pillow, rich: pip install pillow rich"):
        check_installed()
    with pytest.raises(CommandError, match="--tensorboard needs tensorboard: pip install tensorboard"):
        parse_arguments(["--data=x", "--output=y", "--tensorboard"])


def test_more_processes_than_gpus(monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    assert train_imagenet.main(["--smoke", "--device=cuda"]) == 2
    assert "each process needs a GPU of its own" in capsys.readouterr().err


def scalars(folder):
    """What TensorBoard shows: the values of each curve by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if "per_second" not in name]
    return {name: [(each.step, each.value) for each in events.Scalars(name)] for name in names}


def test_tensorboard_shows_every_value_once_wherever_it_was_killed(process, data, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    words = "--tensorboard --epochs=3"
    run(data, tmp_path / "whole", words)
    expected = scalars(tmp_path / "whole" / "tensorboard")
    names = {"train/loss", "train/penalty", "train/penalty_weight", "val/top5", "usage/unit_dead_ratio"}
    assert names < expected.keys()
    assert [step for step, _ in expected["train/loss"]] == list(range(1, 3 * STEPS + 1))
    assert [step for step, _ in expected["val/top1"]] == [STEPS, 2 * STEPS, 3 * STEPS]

    class Killed(Exception):
        pass

    class Dying(Trainer):
        """Ends without a word after so many steps or validations, with no checkpoint of the last of them."""

        moments = Counter()

        def take_step(self, batches):
            if self.steps_done == 3 and not self.moments["step"]:
                self.moments["step"] += 1
                raise Killed
            super().take_step(batches)

        def _validate(self, termination, log):
            for moment in ("before", "after"):
                if self.epoch == 1 and not self.moments[moment]:
                    self.moments[moment] += 1
                    if moment == "after":
                        super()._validate(termination, log)
                    raise Killed
            return super()._validate(termination, log)

    from benchmarks.imagenet.processes import Termination

    for _ in range(3):
        with pytest.raises(Killed), Termination() as termination:
            train(Dying(make_options(data, tmp_path / "broken", words), process), termination, quiet=True)
        time.sleep(1.1)  # TensorBoard's files are named, and so ordered, by the second
    run(data, tmp_path / "broken", words)
    assert scalars(tmp_path / "broken" / "tensorboard") == expected
