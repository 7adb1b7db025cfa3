# VENV is the virtual environment that everything runs in; PYTHON makes it.
VENV ?= .venv
PYTHON ?= python3
PPO_VENV ?= .venv-ppo
CORES ?= $(shell nproc)
export PATH := $(abspath $(VENV))/bin:$(PATH)
READY := $(VENV)/.ready

.PHONY: setup demo test test-fast test-slow test-slurm lint format bench growth claims ui site constraints

setup: $(READY)

$(READY): pyproject.toml envs/constraints.txt envs/node/package.json
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "posttrain: Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	python envs/install.py
	touch $@

demo: setup
	snakemake --cores $(CORES) --no-hooks results/dpo_lora/eval.json results/dpo_lora/loss.png results/report.html
	@posttrain table smollm2 sft_lora dpo_lora
	@echo "All of it on one page: results/report.html"
	@echo "Talk with it: $(VENV)/bin/posttrain chat dpo_lora"
	@echo "Serve it:     $(VENV)/bin/posttrain serve dpo_lora"

test: setup
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow'

test-fast: setup
	python -m pytest -n 2 -m 'unit and not slow and not model'

test-slow: setup
	python -m pytest -m slow

# Debian's packages slurm-wlm and munge have to be there; the tests run a Slurm of their own beside any other.
test-slurm: setup
	python -m pip install --quiet --disable-pip-version-check -c envs/constraints.txt -e '.[slurm]'
	python -m pytest -m slurm

lint: setup
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile rules
	snakemake --lint
	posttrain schema --check

format: setup
	ruff check --fix .
	ruff format .
	snakefmt Snakefile rules
	posttrain schema

bench: setup $(PPO_VENV)/.ready
	python bench/startup.py
	python bench/contention.py
	python bench/graph.py
	python bench/data.py
	python bench/training.py
	python bench/ppo.py --trl $(PPO_VENV)/bin/python --seeds 1
	python bench/evaluation.py
	python bench/inference.py
	python bench/pipeline.py

growth: setup
	python bench/growth.py graph training report

$(PPO_VENV)/.ready: envs/constraints.txt  # TRL's last release with a PPO trainer, to compare ours with
	$(PYTHON) -m venv $(PPO_VENV)
	sed '/^trl==/d' envs/constraints.txt > $(PPO_VENV)/constraints.txt
	$(PPO_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c $(PPO_VENV)/constraints.txt trl==1.12.0 peft
	touch $@

claims: setup
	python bench/claims.py --cores $(CORES)

ui: setup
	mlflow ui --backend-store-uri sqlite:///$(abspath results/mlflow.db)

# The documentation in English and Korean; to read it: python -m http.server -d site
site: setup
	python docs/build.py

constraints: setup
	python envs/pin.py > envs/constraints.txt
