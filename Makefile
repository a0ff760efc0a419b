# make install   .venv with everything          make test   lint, types, tests (no GPU, < 10 min)
# make demo      collect, train, evaluate, run   make slow   training and control runs of minutes
ROOMS = policy envs datasets training real_robot configs
MODULES = $(filter-out __init__.py,$(wildcard *.py))
PYTEST = .venv/bin/pytest
.PHONY: install demo test slow lint format

install: .venv/installed
.venv/installed: pyproject.toml constraints.txt tools/install.sh
	sh tools/install.sh

demo: install
	.venv/bin/run-recipe experiment=metaworld_mt10 out=runs/demo

lint: install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/python tools/lint_imports.py
	MYPYPATH=.venv/typing .venv/bin/mypy $(ROOMS:%=-p telic.%) $(MODULES:%.py=-m telic.%)

test: lint
	$(PYTEST) -m "not slow"

slow: install
	$(PYTEST) -m slow

format: install
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
