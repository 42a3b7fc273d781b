# Everything that people and CI run. `make demo` and `make test` need only Python 3.10+ and a network for pip.
PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
TEST_JOBS ?= 3
# trials side by side: with GPUs as many as they allow, else two that share the cores, which is faster than one with all
JOBS ?= $(shell $(PY) -c "import torch; print(0 if torch.cuda.is_available() else 2)")
# what setup.py says; keep DETECTRON2_COMMIT in one place
DETECTRON2_COMMIT := $(shell sed -n 's/^DETECTRON2_COMMIT = "\([0-9a-f]*\)".*/\1/p' setup.py)
DETECTRON2 ?= git+https://github.com/facebookresearch/detectron2@$(DETECTRON2_COMMIT)
# DensePose is a folder of the same repository, here a clone or in the same commit
HASH := \#
DENSEPOSE ?= $(if $(wildcard $(DETECTRON2)/projects/DensePose),$(DETECTRON2)/projects/DensePose,$(DETECTRON2)$(HASH)subdirectory=projects/DensePose)

.PHONY: demo evidence test test-all gpu-check lint format docs detectron2 densepose clean

demo: $(STAMP)
	@echo "demo: pre-train, convert, fine-tune 5 trials per row, report (configs/experiments/demo.yaml)"
	$(PY) tools/reproduce.py configs/experiments/demo.yaml --jobs $(JOBS)

evidence: $(STAMP)
	@echo "evidence: the demo and the small twins of the papers' experiments, one after the other; hours, and goes on where it was stopped"
	$(PY) tools/evidence.py --jobs $(JOBS)

# Two test processes of one thread each: more threads than cores wait for each other most of the time.
test: $(STAMP)
	@echo "test: everything but the slow tests; those that need Detectron2 skip where it is missing"
	OMP_NUM_THREADS=1 $(PY) -m pytest -m "not slow" -n $(TEST_JOBS) --dist worksteal

test-all: $(STAMP)
	$(PY) -m pytest

# One process, for one table at the end; deterministic cuBLAS is asked for before CUDA starts.
gpu-check: $(STAMP)
	@echo "gpu-check: what a GPU computes, against the CPU; ends in a table to paste. All skip without a GPU"
	$(PY) -m pytest -m gpu tests/gpu -rs

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(STAMP)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

docs: $(STAMP)
	@echo "docs: the site of docs/, the docstrings and the config keys; a warning is an error (about 2 minutes)"
	@$(PY) -m pip install --quiet -e ".[docs]"
	$(PY) docs/site/build.py
	@echo "docs: work/docs/html/index.html"

# Detectron2 is on no package index; its setup.py imports torch, hence --no-build-isolation.
detectron2: $(STAMP)
	@echo "detectron2: building $(DETECTRON2) (about 3 minutes)"
	@$(PY) -m pip install --quiet "setuptools<81" wheel ninja
	@$(PY) -m pip install --no-build-isolation "$(DETECTRON2)" || { \
		echo "detectron2: could not fetch or build $(DETECTRON2); nothing else changed, and --engine torchvision works without it" >&2; \
		exit 1; }
	@$(PY) -c "import detectron2.engine; print('detectron2: installed')"

# Its setup.py asks for Detectron2 again, from another commit, hence --no-deps; scipy and av are what else it imports.
densepose: $(STAMP)
	@echo "densepose: installing $(DENSEPOSE)"
	@$(PY) -c "import detectron2.engine" 2>/dev/null || { \
		echo "densepose: it is a project of Detectron2, which does not import in $(VENV): run \`make detectron2\` first" >&2; \
		exit 1; }
	@$(PY) -m pip install --quiet "setuptools<81" wheel scipy av
	@$(PY) -m pip install --no-deps --no-build-isolation "$(DENSEPOSE)" || { \
		echo "densepose: could not fetch or install $(DENSEPOSE); nothing else changed, and every other task works without it" >&2; \
		exit 1; }
	@$(PY) -W ignore -c "import densepose; print('densepose: installed')"

$(STAMP): setup.py
	@echo "setup: installing into $(VENV) (PyTorch is large: minutes on the first call)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) work build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
