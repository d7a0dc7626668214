# Every target does its own set-up into .venv; from the second time on it starts at once.
# Needs make and Python 3.11 or newer: PYTHON=python3.12 make demo picks another interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Lessons are run cell by cell, in a session of their own, so that their history is theirs; what a cell prints must be
# what it printed when it was committed.
NBVAL := --nbval --nbval-current-env --nbval-cell-timeout 120 --nbval-sanitize-with notebooks/sanitize.cfg
# Light enough for `make test` to compare what they print; the others it runs at a glance, to see that all of it runs.
LIGHT := $(addprefix notebooks/,$(addsuffix .ipynb,00_measuring_honestly 05_cpu_and_gpu 12_interview))
HEAVY := $(filter-out $(LIGHT),$(sort $(wildcard notebooks/*.ipynb)))
# Tests run side by side, each with a core of its own; browsers and lessons run alone, or they would measure each other.
JOBS ?= 2
BESIDE := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS)
# A glance compares nothing, so here lessons may share the machine, and be slowed down by it.
GLANCE := LABKIT_EFFORT=glance OMP_WAIT_POLICY=passive $(BESIDE) --dist loadfile \
    --nbval-lax --nbval-current-env --nbval-cell-timeout 600

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo lab test test-full check notebooks

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.* ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(VENV)/.all ## install everything: commands, peers, notebooks, development tools

demo: $(VENV)/.core ## measure recipes on a trained model, print the table, write report.html
	$(BIN)/labkit demo

lab: $(VENV)/.notebooks ## open JupyterLab on notebooks/
	$(BIN)/labkit lab

test: $(VENV)/.all ## run the tests that take seconds
	$(BESIDE) --dist worksteal -m "not slow and not browser" tests
	$(BIN)/python -m pytest -m "not slow and browser" tests
	$(BIN)/python -m pytest $(NBVAL) $(LIGHT)
	$(GLANCE) $(HEAVY)

test-full: $(VENV)/.all ## run all tests
	$(BESIDE) --dist worksteal -m "not browser" tests
	$(BIN)/python -m pytest -m browser tests
	$(BIN)/python -m pytest $(NBVAL) notebooks

check: $(VENV)/.all ## lint, format, types, floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

notebooks: $(VENV)/.notebooks ## execute every lesson in place, as it is committed, and make docs/gallery.md of them
	$(BIN)/labkit notebooks
	$(BIN)/labkit notebooks --gallery docs/gallery.md

# One stamp for each set of extras. It is older than what it depends on when pyproject or a pinned version has changed.
$(VENV)/.core: extras :=
$(VENV)/.notebooks: extras := [notebooks]
$(VENV)/.all: extras := [all]
$(VENV)/.core $(VENV)/.notebooks $(VENV)/.all: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".$(extras)"
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    f"labkit needs Python 3.11 or newer, {sys.executable} is {sys.version.split()[0]}; set PYTHON to a newer one")'
	$(PYTHON) -m venv $(VENV)
