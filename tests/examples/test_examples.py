"""The examples and the notebook run as users run them, and what they print is what they promise.

The floors are what a broken penalty does not reach: without it these networks stay at the accuracy of
guessing, 0.40 on Wine, 0.10 on the digits and 0.63 on Breast Cancer.
"""

import base64
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="the data come with scikit-learn")
pytest.importorskip("rich", reason="the examples show their progress with rich")

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NOTEBOOK = ROOT / "docs" / "first_result.ipynb"
PNG = b"\x89PNG"


def needs(module):
    return pytest.mark.skipif(find_spec(module) is None, reason=f"{module} is not installed")


def run(folder, *words, program=()):
    """What an example prints, run in an empty folder."""
    name, *options = words
    command = [sys.executable, *program, str(EXAMPLES / name), *options, "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=200, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == []  # it leaves nothing behind
    return done.stdout


def accuracies(printed):
    """By the name of the network."""
    found = re.findall(r"^(\w+): accuracy (\d\.\d+)", printed, re.MULTILINE)
    return {name: float(value) for name, value in found}


def total(printed):
    """Number of units, and the shares of dead, linear and nonlinear ones, of the usage table."""
    count, *shares = re.search(r"^total +(\d+) +(\S+)% +(\S+)% +(\S+)%", printed, re.M).groups()
    return int(count), *map(float, shares)


def test_plain_pytorch(tmp_path):
    printed = run(tmp_path, "plain_pytorch.py", "--epochs", "300")
    found = accuracies(printed)
    assert found["plain"] < 0.5 and found["Jumpstart"] > 0.6
    units, dead, linear, _ = total(printed)
    assert units == 30 * 4 and dead + linear < 25
    shares = re.search(r"plain: .*, (\d+)% dead and (\d+)% linear", printed).groups()
    assert sum(map(int, shares)) > 80
    assert re.search(r"exported: \d+,\d+ bytes, same output: True", printed)


def check_digits(printed):
    """Plain guesses; with Jumpstart it learns, and its units are nonlinear."""
    found = accuracies(printed)
    assert found["plain"] < 0.2 and found["Jumpstart"] > 0.3
    units, dead, linear, _ = total(printed)
    assert units == 30 * 16 and dead + linear < 5


@needs("lightning")
def test_lightning(tmp_path):
    printed = run(tmp_path, "lightning_training.py", "--epochs", "16")
    check_digits(printed)


@needs("accelerate")
@needs("transformers")
def test_transformers(tmp_path):
    printed = run(tmp_path, "transformers_trainer.py", "--epochs", "16")
    check_digits(printed)
    assert "'eval_unit_dead_ratio': " in printed


@pytest.mark.parametrize("processes", [1, 2])
def test_distributed(tmp_path, processes):
    program = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}")
    options = ("--epochs", "16" if processes == 2 else "1")
    printed = run(tmp_path, "distributed_training.py", *options, program=program if processes == 2 else ())
    word = f"{processes} processes agree on the penalty: True, on the weights: True"
    assert printed.count(word) == printed.count("total ") == 1  # by one process
    accuracy, penalty = map(float, re.search(r"^accuracy (\S+), penalty (\S+)$", printed, re.M).groups())
    assert penalty > 0 and (accuracy > 0.3 or processes == 1)
    assert total(printed)[0] == 30 * 16


def notebook():
    return pytest.importorskip("nbformat").read(NOTEBOOK, as_version=4)


@needs("matplotlib")
@needs("ipykernel")
def test_the_notebook(tmp_path, monkeypatch):
    client = pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shown = notebook()
    kernel = client.NotebookClient(
        shown, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    kernel.create_kernel_manager()
    kernel.km.kernel_spec.argv[0] = sys.executable  # whichever the kernels of this machine name
    kernel.execute()
    outputs = [output for cell in shown.cells for output in cell.get("outputs", [])]
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    described = [cell for cell in shown.cells if alternative_text(cell)]
    assert len(pictures) == len(described) == 3
    assert all(base64.b64decode(picture).startswith(PNG) and len(picture) > 20_000 for picture in pictures)
    results = next(output["data"]["text/plain"] for output in outputs if "data" in output)
    plain, jumpstart = map(float, re.findall(r"'(\d\.\d+)'", results))
    assert plain < 0.7 < 0.85 < jumpstart
    texts = "".join(output.get("text", "") for output in outputs if output.get("name") == "stdout")
    assert total(texts)[0] == 50 * 4


def alternative_text(cell):
    return cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")


def test_the_notebook_is_stored_without_outputs():
    cells = [cell for cell in notebook().cells if cell.cell_type == "code"]
    assert [cell for cell in cells if cell.outputs or cell.execution_count] == []


def test_the_table_has_every_example():
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    scripts = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert scripts == sorted(set(re.findall(r"\((\w+\.py)\)", table)))
    assert all(table.count(f" examples/{name}`") == 1 for name in scripts)
