# `make demo` and `make test` do everything, installation included. `make help` lists the rest.
PY := .venv/bin/python

# Drawing without a screen, no look-ups on the network, one thread a process (the tests run two).
export MUJOCO_GL ?= egl
export HF_HUB_OFFLINE ?= 1
TEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal

.PHONY: help bootstrap demo test test-slow test-ecosystem lint format lock doctor docs clean clean-env
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

bootstrap:  ## make .venv with the locked packages (PYTHON=... chooses the interpreter)
	@PYTHON='$(PYTHON)' sh tools/bootstrap.sh

demo: bootstrap  ## collect, train, compare and report, small and real (ARGS=... are passed on)
	@.venv/bin/vine demo $(ARGS)

test: bootstrap  ## the tests, without the slow ones
	@$(TEST) $(ARGS)

test-slow: bootstrap  ## the slow tests
	@$(TEST) -m slow --timeout 3600 $(ARGS)

test-ecosystem: bootstrap  ## LeRobot's own commands on VINE's policies, environment and exports
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m ecosystem --timeout 1200 tests/ecosystem $(ARGS)

lint: bootstrap  ## ruff and mypy; the test of the layers is one of the tests
	@failed=0; \
	$(PY) -m ruff check . || failed=1; \
	$(PY) -m ruff format --check . || failed=1; \
	$(PY) -m mypy || failed=1; \
	exit $$failed

format: bootstrap  ## mend what ruff can mend
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

doctor: bootstrap  ## does this machine have what VINE needs?
	@.venv/bin/vine doctor

docs: bootstrap  ## the documentation's site, in site/ (ARGS=... are passed on)
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet $(ARGS)
	@echo "site/index.html"

lock:  ## write requirements.lock anew for the ranges of pyproject.toml (needs uv and the network)
	@sh tools/lock.sh $(ARGS)

clean:  ## remove caches and builds; runs and .venv stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist site src/*.egg-info
	find src tests tools benchmarks plugins -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

clean-env:  ## remove .venv
	rm -rf .venv
