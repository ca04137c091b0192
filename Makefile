# The workbench's commands; plain `make` lists them. Paths are relative, and programs of the environment are
# run as `python -m …`, so that a folder with a space in its name does no harm.

# Python for .venv: the first of these that runs, or your own choice: make PYTHON=/path/to/python demo
PYTHONS := python3.11 python3.12 python3.13 python3.10 python3
# An index beside the usual one. On a Linux machine without a GPU, torch's CPU build saves gigabytes:
# make TORCH_INDEX=https://download.pytorch.org/whl/cpu demo
TORCH_INDEX ?=
# The video that `make demo` explains; a shipped sample by default.
CLIP ?=
# Added to the command of `make lab`, `make most` or `make bench`: make most ARGS="-k tubes"
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
READY_TEST := $(VENV)/.ready-test

# Recipes read these from the environment, where make expands nothing in them: a file may be called
# "my $(clip).mp4".
override PYTHON := $(value PYTHON)
override TORCH_INDEX := $(value TORCH_INDEX)
override CLIP := $(value CLIP)
export PYTHON TORCH_INDEX CLIP

# The stamps hold the folder they were made in. An environment that was moved or copied, or whose Python is
# gone, is not ready.
$(shell [ ! -e $(READY) ] || { [ "$$(cat $(READY))" = "$$(pwd -P)" ] && [ -x $(PY) ]; } || rm -f $(READY) $(READY_TEST))

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo lab test most gpu lint notebooks figures bench fuzz kills mutants samples pins clean

help: ## list the commands
	@echo "make …"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1|\2/p' Makefile | awk -F '|' '{printf "%-10s %s\n", $$1, $$2}'

demo: $(READY) ## explain a video headless, into results/quickstart (CLIP=my.mp4: your own)
	@$(PY) -m workbench demo $${CLIP:+-- "$$CLIP"}

lab: $(READY) ## open JupyterLab at the quickstart (ARGS="--no-browser --port 9000")
	@as_root=; [ "$$(id -u)" != 0 ] || as_root=--allow-root; \
	exec $(PY) -m jupyterlab --ServerApp.root_dir=. \
		--LabApp.default_url=/lab/tree/notebooks/00_quickstart.ipynb $$as_root $(ARGS)

# Two processes whose threads share two processors wait for one another: one thread each.
test most: export OMP_NUM_THREADS := 1
test: lint ## all checks: lint, types, tests, notebooks
	$(PY) -m pytest tests -n 2 --dist loadfile
	TQDM_DISABLE=1 $(PY) -m pytest notebooks -n 2 --dist loadfile --nbval --nbval-current-env \
		--nbval-sanitize-with notebooks/sanitize.cfg --nbval-cell-timeout 240

most: $(READY_TEST) ## the 9 in 10 tests that take seconds each, in two processes: two to three minutes
	$(PY) -m pytest tests -m "not slow and not browser" -n 2 --dist loadfile $(ARGS)

gpu: $(READY_TEST) ## the tests that need a GPU
	$(PY) -m pytest tests -m gpu -rs $(ARGS)

lint: $(READY_TEST) ## style, types, layers, public names
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-logo
	$(PY) .ci/public_names.py

notebooks: $(READY_TEST) ## execute the notebooks in place (ARGS=notebooks/00_quickstart.ipynb: one of them)
	$(PY) .ci/notebooks.py refresh $(ARGS)

figures: $(READY) ## rebuild the paper's figures, into results/figures
	@$(PY) .ci/notebooks.py figures

bench: $(READY_TEST) ## run the benchmarks
	$(PY) -m benchmarks $(ARGS)

fuzz: $(READY_TEST) ## damage thousands of files, read them, and count what comes (ARGS="--seed 1")
	$(PY) -m tests.fuzz $(ARGS)

kills: $(READY_TEST) ## kill writers a hundred times and more, and look for half files and orphans
	$(PY) -m tests.kills $(ARGS)

mutants: $(READY_TEST) ## plant mistakes in a copy of the code, and count those that the tests notice
	$(PY) -m tests.mutants $(ARGS)

samples: $(READY) ## build data/samples anew
	$(PY) -m workbench make-samples

pins: $(READY_TEST) ## upgrade .venv to the newest releases, then pin them
	$(PY) -m pip install --upgrade --upgrade-strategy eager -e ".[test,sweep]"
	$(PY) .ci/pins.py
	@touch $(READY) $(READY_TEST)

clean: ## remove .venv and caches; data and results stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. A stamp is written last, and `installing` exists while pip writes: an interrupted set-up
# starts again. What the tests need includes what the demo needs.
$(READY): EXTRAS := zoo,train
$(READY_TEST): EXTRAS := test,sweep
$(READY) $(READY_TEST): pyproject.toml constraints.txt
	@set -e; trap 'exit 130' INT TERM; \
	if [ -e $(VENV)/installing ] || ! $(PY) -m pip --version >/dev/null 2>&1; then \
		if [ -n "$$PYTHON" ]; then set -- "$$PYTHON"; else set -- $(PYTHONS); fi; \
		found=; \
		for each; do \
			if "$$each" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; \
			then found=$$each; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "make: none of these is a Python >= 3.10 with venv that runs: $$*" >&2; \
			echo "Install one (Debian, Ubuntu: apt-get install python3-venv), or: make PYTHON=/path/to/python …" >&2; \
			exit 1; \
		fi; \
		echo "Setting up .venv with $$found ($$("$$found" -V)). Only once, but it takes some minutes: on Linux"; \
		echo "torch comes with CUDA, 3 GB to download and 7 GB on disk. Without a GPU, a fraction of that will do:"; \
		echo "make TORCH_INDEX=https://download.pytorch.org/whl/cpu …"; \
		"$$found" -m venv --clear $(VENV); \
	else \
		echo "Bringing .venv in line with pyproject.toml and constraints.txt"; \
	fi; \
	touch $(VENV)/installing; \
	$(PY) -m pip install --disable-pip-version-check $${TORCH_INDEX:+--extra-index-url "$$TORCH_INDEX"} \
		-c constraints.txt -e ".[$(EXTRAS)]" || { status=$$?; rm -f $(VENV)/installing; exit $$status; }; \
	rm -f $(VENV)/installing; \
	pwd -P > $(READY); \
	[ $@ = $(READY) ] || cp $(READY) $@; \
	echo "Ready: .venv"
