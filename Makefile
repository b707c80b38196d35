# `make demo` and `make test` are all the set-up that a fresh machine needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test check docs matrix bench accuracy alarms budgets campaign studies clean

demo: $(INSTALLED)
	$(BIN)/ppl-vae demo --out demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site, in site/: the extra alone is installed, for the package is read and not imported.
docs:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'], sep='\n')" > $(VENV)/docs.txt
	$(BIN)/python -m pip install -q -r $(VENV)/docs.txt
	$(BIN)/python -m mkdocs build --strict --clean

# Lowest and newest versions, Python 3.11 and 3.13, each from a fresh environment (noxfile.py).
matrix: $(INSTALLED)
	$(BIN)/python -m pip install -q "nox[uv]"
	$(BIN)/nox

bench: $(INSTALLED)
	$(BIN)/python -m pip install -q -e ".[bench]"
	$(BIN)/python -m benchmarks

# Every accuracy figure beside its target.
accuracy: $(INSTALLED)
	$(BIN)/python -m benchmarks.accuracy

# How often the verdict of `check` is wrong, over cases whose truth is known: about an hour of CPU time, and what was
# measured before is kept in alarms.json.
alarms: $(INSTALLED)
	$(BIN)/python -m benchmarks.alarms --out alarms.json --results benchmarks/ALARMS.md
	$(BIN)/python -m benchmarks.alarms --family --results benchmarks/ALARMS.md

# Ten thousand damaged inputs, a hundred kills at random moments, and a full disk.
campaign: $(INSTALLED)
	$(BIN)/python -m benchmarks.campaign

# Whether twenty programs keep their time budgets: about 40 minutes.
budgets: $(INSTALLED)
	$(BIN)/python -m benchmarks.budgets --results benchmarks/BUDGETS.md

# Slow studies: the rows of tables that `make test` samples.
studies: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) demo site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .nox
