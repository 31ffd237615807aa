"""A checkpoint is complete whenever the process that writes it is killed."""

import multiprocessing
import os
import pickle
import signal

import pytest
import torch

from benchmarks.imagenet.files import PARTIAL, read_checkpoint, write_atomically, write_checkpoint
from jumpstart_kernels.cli.errors import CommandError


class Deadly:
    """Kills the process in the middle of being written."""

    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)


def write_and_die(path):
    write_checkpoint(path, {"first": torch.ones(100), "then": Deadly()})


def rename_and_die(path):
    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    os.replace = os.rename = die  # what moves a file into its place
    write_checkpoint(path, {"step": 2})


@pytest.mark.parametrize("die", (write_and_die, rename_and_die))
def test_killed_while_writing(tmp_path, die):
    path = tmp_path / "checkpoint.pt"
    write_checkpoint(path, {"step": 1})
    process = multiprocessing.get_context("fork").Process(target=die, args=(path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert read_checkpoint(path)["step"] == 1
    assert [file.name for file in tmp_path.iterdir() if file != path] == [path.name + PARTIAL]
    write_checkpoint(path, {"step": 3})
    assert read_checkpoint(path)["step"] == 3 and list(tmp_path.iterdir()) == [path]


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, lambda file: file.write(b"old"))
    with pytest.raises(RuntimeError, match="disk"):

        def write(file):
            file.write(b"ne")
            raise RuntimeError("disk")

        write_atomically(path, write)
    assert path.read_bytes() == b"old"


def test_content_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, type(tmp_path).replace
    monkeypatch.setattr(os, "fsync", lambda number: (calls.append("fsync"), fsync(number)))
    monkeypatch.setattr(type(tmp_path), "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    write_atomically(tmp_path / "file", lambda file: (calls.append("write"), file.write(b"new")))
    assert calls == ["write", "fsync", "replace", "fsync"]


def test_what_is_no_checkpoint_is_said_to_be_none(tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"half a check")
    with pytest.raises(CommandError, match="cannot read the checkpoint .*checkpoint.pt"):
        read_checkpoint(path)
    write_checkpoint(path, {"step": 1})
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(CommandError, match="cannot read the checkpoint"):
        read_checkpoint(path)
    torch.save({"model": {}}, path)
    with pytest.raises(CommandError, match="is not a checkpoint of this version"):
        read_checkpoint(path)


class Foreign:
    def __reduce__(self):
        return (os.mkdir, ("made_by_a_checkpoint",))


def test_a_checkpoint_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").write_bytes(pickle.dumps(Foreign()))
    torch.save({"format": 1, "model": Foreign()}, tmp_path / "zipped")
    for name in ("plain", "zipped"):
        with pytest.raises(CommandError, match="cannot read the checkpoint"):
            read_checkpoint(tmp_path / name)
    assert not (tmp_path / "made_by_a_checkpoint").exists()
