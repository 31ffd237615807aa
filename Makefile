# make demo and make test set up all they need in .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
EMULATOR := $(wildcard tests/cuda_emulator/*.cpp tests/cuda_emulator/*.h tests/stand_in/*.cpp benchmarks/stable_abi/*.cpp benchmarks/stable_abi/*.h benchmarks/host_time/*.cpp benchmarks/host_time/*.h)

.PHONY: help setup demo test test-gpu test-stand-in test-instruction-sets test-matrix test-large gpu-package packages fuzz soak bench figures paper paper-run docs docs-links docs-accessibility lint format clean

help:  ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

# torch first and by its exact version: the extension is built against it, without build isolation.
$(VENV)/tools: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools wheel pybind11 ninja numpy
	touch $@

$(VENV)/ready: $(VENV)/tools setup.py pyproject.toml jumpstart_kernels/building/recipe.py $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -c constraints.txt --editable ".[dev]"
	touch $@

setup: $(VENV)/ready  ## Virtual environment with the package built in place

demo: setup  ## Train with and without Jumpstart on real data; draws demo.png
	$(BIN)/python -m jumpstart_kernels demo $(ARGS)

test: setup  ## The whole test suite
	$(BIN)/python -m pytest -n 2 -q $(ARGS)

test-gpu: setup  ## Only the tests that need a GPU
	$(BIN)/python -m pytest -m gpu -q $(ARGS)

test-stand-in: setup  ## The tests that need a GPU, on a stand-in made of the host's memory
	PYTHONPATH=.:tests $(BIN)/python -m pytest -p stand_in -m gpu -k "not triton" -n 2 -q $(ARGS)

INSTRUCTION_SET_TESTS := tests/ops tests/nn/test_relu.py tests/nn/test_leaky_relu.py
INSTRUCTION_SET_TESTS += tests/test_functional.py tests/test_golden.py tests/test_mixed_precision.py
# What runs by each set within make test, and what runs no kernel of a set.
OF_NO_SET := beyond_32_bits saturation instruction_sets cpu_tasks cpu_vectors
OF_NO_SET += backends native_records penalty_op opcheck fakes compiled
OF_A_SET := not triton and not cuda and not reference $(OF_NO_SET:%=and not %)
# All but the one by which make test has run.
LIST_INSTRUCTION_SETS := from jumpstart_kernels.ops import native; sets = native.instruction_sets();
LIST_INSTRUCTION_SETS += sets.remove(native.instruction_set()); print(*sets)

test-instruction-sets: setup  ## The CPU kernels' tests, by the kernels of each other instruction set of this processor
	sets=$$($(BIN)/python -c "$(LIST_INSTRUCTION_SETS)") && for set in $$sets; do \
		echo "instruction set $$set"; \
		JUMPSTART_CPU=$$set $(BIN)/python -m pytest -n 2 -q $(INSTRUCTION_SET_TESTS) -k "$(OF_A_SET)" $(ARGS) || exit 1; \
	done

test-matrix: setup  ## Build and test with the oldest, the pinned and the newest PyTorch; 12 GB; docs/versions.md
	$(BIN)/python -m benchmarks.matrix $(ARGS)

gpu-package: setup  ## What a GPU machine is to be given, in build/gpu: the extension, Triton's kernels; 12 GB
	$(BIN)/python -m benchmarks.gpu_package $(ARGS)

packages: setup  ## Build sdist and wheel, install and use the wheel in a clean environment; docs/install.md
	$(BIN)/python -m benchmarks.packages $(ARGS)

bench: setup  ## The cost of the layer on this machine, compared with its peers
	$(BIN)/python -m jumpstart_kernels bench $(ARGS)

figures: setup  ## Redraw all figures and generated tables of the README and docs/ from benchmarks/results
	$(BIN)/python -m benchmarks.figures $(ARGS)

test-large: setup  ## Activations of more than 2**31 elements; 20 GB of memory
	$(BIN)/python -m pytest -m large -q $(ARGS)

fuzz: setup  ## 10,000 random cases against the definition; ARGS="--cases 500 --only autocast", say
	cd tests && ../$(BIN)/python -m fuzz --cases 10000 --output ../benchmarks/results/fuzz.json $(ARGS)

soak: setup  ## 100,000 training steps: does memory grow?
	$(BIN)/python -m benchmarks.soak --output benchmarks/results/soak.json $(ARGS)

paper: setup  ## The part of make figures that is docs/paper.md and docs/tuning.md
	$(BIN)/python -m benchmarks.paper.report $(ARGS)

# UCI: a folder of files in UCI's format. CIFAR: an .npz of JPEG files. Interrupted experiments resume.
paper-run: setup  ## Run the papers' experiments; UCI=FOLDER CIFAR=FILE.npz
	$(BIN)/python -m benchmarks.paper.uci $(if $(UCI),--data $(UCI)) --output benchmarks/results/paper_uci.json
	$(BIN)/python -m benchmarks.paper.uci --recipe stabilized $(if $(UCI),--data $(UCI)) --output benchmarks/results/paper_uci_stabilized.json
	$(BIN)/python -m benchmarks.paper.ablation --output benchmarks/results/paper_ablation.json
	$(BIN)/python -m benchmarks.paper.grid moons --output benchmarks/results/paper_moons.json
	$(BIN)/python -m benchmarks.paper.grid digits $(if $(UCI),--data $(UCI)) --output benchmarks/results/paper_digits.json
	$(if $(CIFAR),$(BIN)/python -m benchmarks.paper.cifar --data $(CIFAR) --output benchmarks/results/paper_cifar.json)
	$(BIN)/python -m benchmarks.paper.linked --small $(if $(UCI),--data $(UCI)) --output benchmarks/results/paper_linked.json
	$(BIN)/python -m benchmarks.paper.linked_steps --output benchmarks/results/paper_linked_steps.json
	$(BIN)/python -m benchmarks.paper.tickets $(if $(UCI),--data $(UCI)) --output benchmarks/results/paper_tickets.json
	$(BIN)/python -m benchmarks.paper.pruning $(if $(UCI),--data $(UCI),--small) --output benchmarks/results/paper_pruning.json

SPHINX := $(BIN)/python -m sphinx --fresh-env --fail-on-warning --keep-going --nitpicky -d build/docs/doctrees

docs: setup  ## Build the documentation site in build/docs/html; JUMPSTART_REPOSITORY=URL for links to sources
	rm -rf build/docs/html
	$(SPHINX) -b html docs build/docs/html $(ARGS)

docs-links: setup  ## Whether the links of the docs to other sites work: needs a network
	$(SPHINX) -b linkcheck docs build/docs/links $(ARGS)

docs-accessibility: docs  ## WCAG 2.2 A and AA on every page of the site, by axe-core in Chromium
	$(BIN)/python docs/tools/accessibility.py

lint: setup  ## Linters, types, format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(SOURCES) $(EMULATOR)

format: setup  ## Format Python and C++ in place
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(SOURCES) $(EMULATOR)

clean:  ## Remove what was built
	rm -rf $(VENV) build *.egg-info jumpstart_kernels/_native* .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
