# Fraud Loop. `make` lists what there is.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest

# The shell's own settings of Python are not meant for the environment of this product.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP
ifneq ($(filter C POSIX,$(LC_ALL)),)
export LC_ALL := C.UTF-8
endif

.DEFAULT_GOAL := help
.PHONY: help install run test prove-properties prove-loop prove-serving bench lint format lock sample local clean

help:  ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed  ## make the environment in .venv from the lock file

$(VENV)/.installed: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name it with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@echo "Making the environment in $(VENV) (a few minutes the first time) …"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# make run HISTORY=path.csv|.parquet [TARGET=… ID=… TIME=… AMOUNT=… EXCLUDE=a,b ROWS=n]
STORY := $(if $(HISTORY),--history "$(HISTORY)") $(if $(TARGET),--target "$(TARGET)") $(if $(ID),--id "$(ID)") \
         $(if $(TIME),--time "$(TIME)") $(if $(AMOUNT),--amount "$(AMOUNT)") $(if $(EXCLUDE),--exclude "$(EXCLUDE)") \
         $(if $(ROWS),--rows "$(ROWS)")

run: install  ## the whole loop on this machine; HISTORY=your.csv uses your own labelled table
	@$(BIN)/python -m fraud.demo.story $(STORY)

test: install  ## every test that is not a long proof
	@OMP_NUM_THREADS=1 $(PYTEST) -m "not slow" -n auto --dist loadfile --no-loadscope-reorder

prove-properties: install  ## the property tests on examples that no run has tried before
	@HYPOTHESIS_PROFILE=explore OMP_NUM_THREADS=1 $(PYTEST) -m "not slow" -n auto $$(grep -rl --include='*.py' '@given\|RuleBasedStateMachine' tests)

prove-loop: install  ## the long proofs: kill -9 at every step, the loop on the real data sets, Evidently beside us
	@$(PYTEST) -m slow --ignore tests/serving --ignore tests/lambdas

prove-serving: install  ## the long proofs of serving: updates and rollbacks under load, broken models, malformed requests
	@$(PYTEST) -m slow -s tests/serving tests/lambdas

bench: install  ## the benchmarks, about two hours; benchmarks/README.md says what each measures
	@$(BIN)/python benchmarks/parse_capture.py
	@$(BIN)/python benchmarks/merge.py --double
	@$(BIN)/python benchmarks/load_training.py
	@$(BIN)/python benchmarks/serving.py
	@$(BIN)/python benchmarks/pseudo_labels.py
	@$(BIN)/python benchmarks/drift_lambda.py
	@$(BIN)/python benchmarks/drift_speed.py
	@$(BIN)/python benchmarks/drift_quality.py
	@$(BIN)/python benchmarks/drift_month.py
	@$(BIN)/python benchmarks/governor_month.py --quiet

lint: install  ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy src/fraud/*.py lambdas/*/app.py

format: install  ## let ruff and nbstripout tidy up
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix . && $(BIN)/nbstripout --keep-id --extra-keys "metadata.papermill" notebooks/*.ipynb

lock: install  ## resolve requirements*.txt anew into the lock files
	@grep -v '^-e' requirements.txt > $(VENV)/run.in
	@sed 's#-r requirements.txt#-r $(abspath $(VENV))/run.in#' requirements-dev.txt > $(VENV)/dev.in
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url $(VENV)/dev.in -o requirements-dev.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url $(VENV)/run.in -c requirements-dev.lock -o requirements.lock

local: install  ## start the local AWS alone
	@$(BIN)/fraud local up

clean:  ## stop the local AWS and remove what was made here, but not .venv
	@test ! -x $(BIN)/fraud || $(BIN)/fraud local down
	@rm -rf .fraud build reports .pytest_cache .mypy_cache .ruff_cache .hypothesis
