"""The file of the results."""

import json
import os

import pytest

from jumpstart_kernels.bench.files import write_results


def test_an_interrupted_write_leaves_the_file_of_before(tmp_path, monkeypatch):
    file = tmp_path / "results.json"
    write_results(file, {"cases": [1]})
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        write_results(file, {"cases": [1, 2]})
    assert json.loads(file.read_text()) == {"cases": [1]}
    write_results(file, {"cases": [1, 2]})
    assert json.loads(file.read_text()) == {"cases": [1, 2]} and os.listdir(tmp_path) == ["results.json"]
