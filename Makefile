# The workbook's commands. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name) 2>/dev/null)))
PARAMS ?= params/quick.yaml
DATA   ?=
ARGS   ?=
LAB    ?=
# Threads that wait without spinning: on a shared machine a spinning one costs the others, and itself, up to ten times the time.
export OMP_WAIT_POLICY ?= passive

.PHONY: help report test app lab lint bench clean lock

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make report PARAMS=params/ddti.yaml DATA=DIR   the same on your copy of a data set"
	@echo "  make report ARGS='--only 02 --set SIZE=256'    anything else that thyroid-workbook run takes"

report: $(READY) ## run the notebooks of PARAMS (params/quick.yaml) into HTML reports under reports/
	@$(BIN)/thyroid-workbook run "$(PARAMS)" $(if $(DATA),--data-root "$(DATA)") $(ARGS)

test: $(READY) ## run every test: modules, runner, notebooks, reports in a browser
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --nbval-lax --nbval-current-env tests notebooks $(ARGS)

app: $(READY) ## look at the cases of the newest report in a browser on this machine (ARGS=reports/NAME for another's)
	@$(BIN)/thyroid-workbook app $(ARGS)

lab: $(READY) ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir=notebooks $(LAB)

lint: $(READY) ## check style of modules and notebooks, and that notebooks carry no stray outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/thyroid-workbook notebooks clean --check

bench: $(READY) ## measure speeds side by side on this machine (minutes; use an idle one)
	@for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean: ## remove generated reports and caches (trained runs and .venv stay)
	rm -rf .cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find reports -mindepth 1 -maxdepth 1 ! -name README.md ! -name gallery ! -name results -exec rm -rf {} +
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

lock: ## write requirements.lock anew from the ranges in pyproject.toml
	@echo "Resolving in a fresh environment (some minutes) …"
	rm -rf $(VENV).lock && $(PYTHON) -m venv $(VENV).lock
	$(VENV).lock/bin/python -m pip install --quiet --disable-pip-version-check 'torch==2.14.*' 'torchvision==0.29.*' -e '.[workbook,dev]'
	@{ echo '# Exact versions for make and environment.yml. Made by `make lock`; torch and torchvision are one release pair.'; \
	   $(VENV).lock/bin/python -m pip freeze --exclude-editable | LC_ALL=C sort -f | \
	   sed -E '/^(nvidia-|cuda-|triton==)/ s/$$/ ; sys_platform == "linux"/'; } > requirements.lock.part
	mv requirements.lock.part requirements.lock && rm -rf $(VENV).lock
	@$(MAKE) .binder/requirements.txt

# What a hub installs: PyTorch for CPUs, no CUDA, and nothing that only tests need. environment.yml would bring CUDA, 5 GB of it.
.binder/requirements.txt: requirements.lock
	@{ echo '# Made from requirements.lock by `make lock`.'; echo '--extra-index-url https://download.pytorch.org/whl/cpu'; \
	   sed -E '/^(#|nvidia-|cuda-|triton==|playwright==|ruff==|statsmodels==)/d; s/^(torch|torchvision)==.*/&+cpu/' $<; } > $@

# The mark is written last: an interrupted set-up has none, and the next call goes on where pip stopped.
$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "No python3 found. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); the workbook needs Python 3.11 or newer: make PYTHON=/path/to/python3"; exit 1; }
	@rm -f $@
	@if $(BIN)/python -m pip --version >/dev/null 2>&1; then echo "Bringing $(VENV) up to requirements.lock …"; \
	  else echo "Creating $(VENV) with $$($(PYTHON) --version) …"; "$(PYTHON)" -m venv --clear $(VENV); fi
	@echo "Installing the locked packages (PyTorch alone is some gigabytes; two to ten minutes the first time) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock || \
	  { echo "Installation stopped; $(VENV) is unfinished. Run make again to go on."; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@
	@echo "$(VENV) is ready."
