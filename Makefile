# The two commands of the README. Each sets up .venv by itself.
#
#   PYTHON=python3.12       another interpreter (3.11 or newer)
#   TORCH_INDEX=URL         where pip finds torch, to choose a CPU build (see the README)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint base-policy clean

demo: $(VENV)/.demo
	$(BIN)/lambda-grpo train

test: lint
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Make the shipped base policy again, from its seed.
base-policy: $(VENV)/.dev
	$(BIN)/python -m lambda_grpo.base_policy.make src/lambda_grpo/base_policy

clean:
	rm -rf $(VENV)

# torch goes first and alone: a looser requirement of another package would fetch its newest build.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "lambda-grpo needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(INSTALL) --editable '.[trl,report]'
	touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(INSTALL) --editable '.[trl,report,gym,dev]'
	touch $@ $(VENV)/.demo
