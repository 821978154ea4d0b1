# Every command makes .venv by itself, once, and again only when the pins change. It needs make and Python 3.11 or newer.

BIN := .venv/bin
EXTRAS := torchmeta,tensorboard,notebooks,book,experiments,dev
TORCHMETA := torchmeta==1.8.0# its metadata asks for torch<1.10, so it is installed without its dependencies
CURVLINOPS := curvlinops-for-pytorch einconv einops linear-operator opt-einsum# the tests' other Hessian; asks for torchvision
PYTHONS := python3.13 python3.12 python3.11 python3
VARIANT := both

# What the installation is made of: the pins, the package's dependencies, the lines above, and the place.
KEY := $(shell { cat constraints.txt; sed '/^\[tool\./,$$d' pyproject.toml; echo '$(EXTRAS) $(TORCHMETA) $(CURVLINOPS) $(CURDIR)'; } | cksum | tr ' ' -)
STAMP := .venv/installed-$(KEY)

# Where the Python of .venv is gone, as after an upgrade of the system, the stamp means nothing.
ifneq ($(shell test -x $(BIN)/python || echo gone),)
.PHONY: $(STAMP)
endif

# NAME=value on the command line, and only there, is a parameter of the experiment: -p name 'value'.
OURS := PYTHON PYTEST SHELL PIP_% OMP_% CUDA_% SHARP_MAML_DATA
GIVEN := $(foreach v,$(filter-out $(OURS) VARIANT,$(.VARIABLES)),$(if $(filter command,$(firstword $(origin $v))),$v))
quoted = '$(subst ','\'',$1)'
PARAMETERS = $(foreach v,VARIANT $(sort $(GIVEN)),-p $(shell echo '$v' | tr A-Z a-z) $(call quoted,$(value $v)))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env train results test lint book bench clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-7s %s\n", $$1, $$2 }'
	@echo
	@echo 'Settings of a run follow make train, in capitals:  make train VARIANT=up DATASET=omniglot DOWNLOAD=true'
	@echo 'Within a time, the most valuable first:  make results BUDGET=20m DEVICE=cuda CELLS="omniglot-5way-1shot-short"'
	@echo 'More for pytest:  make test PYTEST="-k adapt".  Another Python for a new .venv:  make env PYTHON=python3.12'

env: $(STAMP) ## everything that is needed, in .venv

train: $(STAMP) ## train and test a learner: notebooks/train.ipynb -> runs/train-VARIANT.ipynb
	@mkdir -p runs
	$(BIN)/python -m papermill notebooks/train.ipynb $(call quoted,runs/train-$(value VARIANT).ipynb) $(PARAMETERS) --log-output < /dev/null

# Of results and bench.
DEVICE := auto

# Without a budget Snakemake does all that is missing, here or, with PROFILE=slurm, on a cluster. CELLS: cells, groups or
# schedules of experiments/cells.toml, by default those for the device. JOBS: runs at a time. DOWNLOAD=true: fetch the data.
# SNAKEMAKE: more options of its, as --unlock.
PROFILE := local
DOWNLOAD := false
FETCH = $(BIN)/python -m experiments fetch $(CELLS) --device $(call quoted,$(value DEVICE))
HERE = --cores $(call quoted,$(or $(value JOBS),all)) --resources gpu=1
results: $(STAMP) ## the missing runs of the paper's tables and figures -> book/results
	$(if $(filter true True,$(DOWNLOAD)),$(FETCH))
ifdef BUDGET
	$(if $(filter local,$(PROFILE)),,$(error BUDGET is for the queue of this machine: leave it out with PROFILE=$(PROFILE)))
	$(BIN)/python -m experiments run $(CELLS) --device $(call quoted,$(value DEVICE)) --budget $(call quoted,$(value BUDGET)) $(if $(JOBS),--jobs $(call quoted,$(value JOBS)))
else
	$(BIN)/snakemake -s experiments/Snakefile --profile experiments/profiles/$(PROFILE) $(if $(filter local,$(PROFILE)),$(HERE)) --config device=$(call quoted,$(value DEVICE)) names=$(call quoted,$(value CELLS)) $(SNAKEMAKE)
endif

# pytest: a file at a time on each of two cores, one thread each: the tensors of the tests are small.
test: lint ## format, types, tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile $(PYTEST)

lint: $(STAMP) ## format and types only
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy

# One thread each: two notebooks are run at a time. -W: a warning fails it; -n: so does a reference to nowhere. What is
# stale is found by book/_ext/fresh.py.
book: $(STAMP) ## the book, in book/_build/html
	OMP_NUM_THREADS=1 $(BIN)/jupyter-book build -W -n --keep-going book

bench: $(STAMP) ## time and memory
	$(BIN)/python -m benchmarks.speed --device $(call quoted,$(value DEVICE))

clean: ## away with what was built; runs/ and .venv stay
	rm -rf book/_build book/.executed build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp comes last: an installation that was interrupted is done again.
$(STAMP):
	@rm -f .venv/installed-*
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || { \
	  for python in $(or $(PYTHON),$(PYTHONS)); do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then \
	      "$$python" -c 'import ensurepip, venv' 2> /dev/null || { no_venv=$$python; continue; }; \
	      echo "Making .venv with $$python"; exec "$$python" -m venv --clear .venv; \
	    fi; \
	  done; \
	  if [ -n "$$no_venv" ]; then \
	    echo "$$no_venv cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; \
	  else \
	    echo 'Python 3.11 or newer is needed, and none of these is one: $(or $(PYTHON),$(PYTHONS)).' >&2; \
	    echo 'Install it, or say where it is: make env PYTHON=/path/to/python3' >&2; \
	  fi; exit 1; }
	@echo 'Installing what constraints.txt pins into .venv: some minutes, once'
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[$(EXTRAS)]'
	$(BIN)/python -m pip install -q --no-deps $(TORCHMETA)
	$(BIN)/python -m pip install -q --no-deps -c constraints.txt $(CURVLINOPS)
	@touch $@
