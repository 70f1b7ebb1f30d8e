# Two commands are all a newcomer needs: `make run` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
RECIPE ?= infra/examples/support/recipe.yaml
STORE ?= augmill-store
TEST_PROCESSES ?= 2

.PHONY: run test test-all check docs format lock clean

run: .venv/installed
	$(BIN)/augmill run $(RECIPE) --store $(STORE)

# Everything that can break, in some minutes.
test: check
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile -m 'not slow'

# And what is slow by nature: kills, nights on real rows, studies by simulation, installations.
test-all: check
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile

# Format, lint, strict types; layers, docs and contracts are tests.
check: .venv/installed-dev build/types/augmill
	$(BIN)/ruff format --check flows tasks tests setup.py
	$(BIN)/ruff check flows tasks tests setup.py
	$(BIN)/mypy

docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file infra/mkdocs.yml

format: .venv/installed-dev
	$(BIN)/ruff format flows tasks tests setup.py
	$(BIN)/ruff check --fix flows tasks tests setup.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,dev,docs]'
	@touch .venv/installed $@

# mypy does not follow editable installs; it sees the packages under their installed names here.
build/types/augmill: flows/api
	rm -rf $@ && mkdir -p $@
	for file in flows/api/[!_]* flows/api/__init__.py flows tasks; do ln -sfn ../../../$$file $@/; done
	@touch $@

lock: .venv/installed-dev
	@(sed -n '/^#/p' constraints.txt; $(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//') > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf build .venv
