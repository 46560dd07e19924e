# Everything works from a bare checkout with Python 3.11 and make. CI calls these targets.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUN ?= deploy/runs/frozen_lake_context.yaml
SIMPLE := deploy/runs/frozen_lake.yaml
SEEDS ?= 2
STORMS ?= 20
TEST_PROCESSES ?= 2
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# Processes of tests share the cores already: threads of linear algebra would wait for each other
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help setup train test test-all fuzz lint format reference docs notebook schemas wheel bench bench-corrections bench-dice bench-operations chaos tour curves contexts within-task anytime-safety paper results results-neural lock audit sbom clean

help: ## what make can do
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)$$/  make \1\t\2/' | expand -t 26

setup: $(READY)

# A newer pip, and no bytecode of modules that nothing imports: a third of the time (docs/decisions/0002-dependencies-and-pins.md)
# Safety-Gymnasium comes without its dependencies, whose pins contradict Ray's: docs/decisions/0016-safety-gymnasium.md
$(READY): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "needs Python 3.11: make PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) torch==2.13.0
	$(PIP) -e ".[dev]"
	$(PIP) --no-deps safety-gymnasium==1.0.0
	touch $@

train: setup ## the main job: meta-train over FrozenLake tasks, with their maps as contexts, on a local Ray cluster
	$(BIN)/metasrl train $(RUN)

test: setup ## everything but the slow learning tests
	$(PYTEST) -m "not slow"

test-all: setup ## the slow learning tests too
	$(PYTEST)

fuzz: setup ## 14,000 damaged run files and 2,000 damaged run directories: documented exit codes, no traceback
	METASRL_FUZZ=full $(BIN)/python -m pytest tests/distributed/storage/test_damage.py

lint: setup ## linter, formatter, strict type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(MYPY_OPTIONS)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: setup ## the tables of docs/configuration.md, from the settings
	$(BIN)/python -m distributed.settings.configuration_page

docs: setup ## the documentation site, to build/site/index.html; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/site
	@echo "open build/site/index.html"

notebook: setup ## three notebooks in the browser: a first run, an environment of your own, reading results
	$(PIP) -e ".[notebook]"
	$(BIN)/jupyter lab docs/notebooks

schemas: setup ## docs/schemas: JSON schemas of the files that a run writes
	$(BIN)/python -m meta.reporting.summary

wheel: setup ## dist/metasrl-*.whl, to install elsewhere with pip
	rm -rf build/lib build/bdist.* dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls dist/*.whl

bench: setup ## speed and memory as ratios, to docs/results
	$(BIN)/python -m benchmarks.speed.lakes
	$(BIN)/python -m benchmarks.speed.simulators
	$(BIN)/python -m benchmarks.speed.navigation_speed
	$(BIN)/python -m benchmarks.speed.update_speed
	$(BIN)/python -m benchmarks.speed.module_speed
	$(BIN)/python -m benchmarks.speed.training_speed
	$(BIN)/python -m benchmarks.speed.learner_share

bench-corrections: setup ## whether corrections matter, to docs/results/corrections.md (twenty minutes on two free cores; goes on where it was stopped)
	$(BIN)/python -m benchmarks.dice.corrections

bench-operations: setup ## what submission, tracking and reporting cost, to docs/results/operations.md (ten minutes)
	$(BIN)/python -m benchmarks.speed.operations

chaos: setup ## faults in real runs on Ray, to docs/results/chaos.md (two hours; SEEDS=1 STORMS=2: half an hour; goes on where it was stopped)
	$(BIN)/python -m benchmarks.chaos --seeds $(SEEDS) --storms $(STORMS)

tour: setup ## docs/tour.md with its screenshots (needs Debian's chromium; a few minutes)
	$(BIN)/python -m benchmarks.tour

bench-dice: setup ## accuracy of the estimators of corrections, to docs/results/dice.md (half an hour on a free core)
	$(BIN)/python -m benchmarks.dice

curves: setup ## learning curves of neural CRPO alone (about an hour on a free core)
	$(BIN)/python -m benchmarks.learning.learning_curves --task half_cheetah --steps 3000000 --seeds 0 1 2
	$(BIN)/python -m benchmarks.learning.learning_curves --task hopper --steps 3000000 --seeds 0 1 2
	$(BIN)/python -m benchmarks.learning.learning_curves --task acrobot --steps 1000000 --seeds 0 1 2
	$(BIN)/python -m benchmarks.learning.learning_curves --task half_cheetah --steps 10000000 --seeds 0
	$(BIN)/python -m benchmarks.learning.learning_curves --task point_goal --steps 3000000 --seeds 0
	$(BIN)/python -m benchmarks.learning.learning_curves --page

contexts: setup ## starts with and without contexts at real budgets, to docs/results/contexts.md (hours; goes on where it was stopped)
	$(BIN)/python -m benchmarks.learning.contexts

within-task: setup ## every within-task algorithm on lakes and robots, to docs/results/within_task.md (lakes: half an hour, robots: hours; goes on where it was stopped)
	$(BIN)/python -m benchmarks.learning.within_task

anytime-safety: setup ## safe adaptation at several confidences on lakes and robots, to docs/results/anytime_safety.md (lakes: a quarter of an hour, robots: half an hour; goes on where it was stopped)
	$(BIN)/python -m benchmarks.safety.anytime_safety

paper: setup ## the paper's experiments on lakes with all baselines, to docs/results/paper.md (goes on where it was stopped)
	$(BIN)/python -m benchmarks.paper

results: setup ## the tables and plots of docs/results (about an hour on 2 cores)
	$(BIN)/metasrl compare $(SIMPLE) --evaluation.seeds "[100,101,102,103,104,105,106,107,108,109]" --results docs/results/frozen_lake.md
	$(BIN)/metasrl compare $(SIMPLE) --within_task.evaluation sampled --evaluation.seeds "[100,101,102,103,104,105,106,107,108,109]" --results docs/results/frozen_lake_sampled.md
	$(BIN)/python -m benchmarks.learning.learning_rates
	$(BIN)/python -m benchmarks.learning.similarity_curve

results-neural: setup ## meta-learning of neural policies (about two hours on 2 cores)
	$(BIN)/python -m benchmarks.learning.meta_learning deploy/runs/half_cheetah_velocity.yaml --seeds 10 11 12 13 14
	$(BIN)/python -m benchmarks.learning.several_starts
	$(BIN)/python -m benchmarks.learning.ablation

lock: ## deploy/image/requirements.lock: what a clean environment gets today
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check ".[all]"
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check --no-deps safety-gymnasium==1.0.0
	{ echo "# make lock"; build/lock/bin/python -m pip freeze --exclude metasrl | sed 's/^\(torch==[0-9.]*\)[+].*/\1/; s/^torch @ .*/torch==2.13.0/'; } > deploy/image/requirements.lock
	rm -rf build/lock

audit: setup ## known vulnerabilities of the installed packages (needs the internet)
	test -x build/tools/bin/pip-audit || { $(PYTHON) -m venv build/tools && build/tools/bin/python -m pip install --quiet "pip-audit>=2.10,<3"; }
	build/tools/bin/pip-audit --path $$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")

sbom: setup ## a software bill of materials (CycloneDX) of the environment, to build/sbom.json
	test -x build/sbom/bin/cyclonedx-py || { $(PYTHON) -m venv build/sbom && build/sbom/bin/python -m pip install --quiet "cyclonedx-bom>=7,<8"; }
	build/sbom/bin/cyclonedx-py environment --output-format JSON --output-file build/sbom.json $(BIN)/python

clean: ## remove what can be made again; runs/, mlruns/ and mlflow.db are results and stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
