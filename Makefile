# make run: the main job.  make test: the tests.  Both set everything up by themselves (Python 3.11 and make are needed).
PYTHON ?= python3.11
VENV ?= .venv
# Extra arguments for installing torch, for example an index with builds for your GPU.
TORCH_PIP_ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The main job: learns SiMPL on the maze and ends with a learning curve and a table. Half of quick's meta-training and
# of its episodes: enough to see the ten unseen goals solved.
MAIN_JOB := --algo simpl --env maze --preset quick --meta_train.epochs 60 --adapt.episodes 100

# What the tests on a real Slurm need, as Debian packages; the second line is for accounting (slow tests).
SLURM_PACKAGES := slurmctld slurmd slurm-client munge
SLURM_ACCOUNTING_PACKAGES := slurmdbd mariadb-server
SUDO := $(shell test "$$(id -u)" = 0 || echo sudo)
APT_INSTALL := $(SUDO) apt-get update -qq && \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends
have = (PATH="$$PATH:/usr/sbin"; for program in $(1); do command -v $$program >/dev/null || exit 1; done)

.PHONY: help install run test test-slow test-slurm test-slurm-slow test-browser benchmark lint format

help:
	@echo "make run        run the main job: bench run $(MAIN_JOB)"
	@echo "make test       run the tests (minutes); make test-slow runs the slow ones"
	@echo "make test-slurm runs the tests on a real Slurm of four nodes on this machine, installing Slurm where it is missing"
	@echo "make test-browser  runs the tests of the report in headless Chromium, installing it where it is missing"
	@echo "make benchmark  measures speed on the worlds, a sweep, statistics, figures and updates (on a quiet machine)"
	@echo "make lint       check style and types; make format applies the style"
	@echo "make install    make $(VENV) once; PYTHON=... chooses the interpreter"

install: $(STAMP)

# torch comes first and alone: asked for together with the rest, pip may take another build with gigabytes of extras.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt $(TORCH_PIP_ARGS) torch==2.13.0
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[dev]"
	touch $@

run: install
	$(BIN)/bench run $(MAIN_JOB)

test: install
	$(BIN)/python -m pytest -m "not slow and not slurm"

test-slow: install
	$(BIN)/python -m pytest -m "slow and not slurm and not browser"

test-slurm: install
	$(call have,slurmctld slurmd sbatch munged) || { $(APT_INSTALL) $(SLURM_PACKAGES); }
	$(BIN)/python -m pytest -m "slurm and not slow"

test-slurm-slow: install
	$(call have,slurmctld slurmd sbatch munged slurmdbd mariadbd) || \
		{ $(APT_INSTALL) $(SLURM_PACKAGES) $(SLURM_ACCOUNTING_PACKAGES); }
	$(BIN)/python -m pytest -m "slurm and slow"

test-browser: install
	$(call have,chromium) || { $(APT_INSTALL) chromium; }
	$(BIN)/python -m pytest -m browser

benchmark: install
	$(BIN)/python -m tests.benchmarks.maze
	$(BIN)/python -m tests.benchmarks.image_maze
	$(BIN)/python -m tests.benchmarks.kitchen
	$(BIN)/python -m tests.benchmarks.sweep
	$(BIN)/python -m tests.benchmarks.statistics
	$(BIN)/python -m tests.benchmarks.reporting
	$(BIN)/bench profile --env maze kitchen

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
