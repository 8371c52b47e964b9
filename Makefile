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

.PHONY: demo test test-cluster test-distributed lint bench base-policy clean

demo: $(VENV)/.demo
	$(BIN)/lambda-grpo train

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

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(INSTALL) --editable '.[trl,report,gym,eval,dev]'
	touch $@ $(VENV)/.demo

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
