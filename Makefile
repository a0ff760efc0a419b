# make install   .venv with everything          make test   lint, types, tests (no GPU, < 10 min)
# make demo      collect, train, evaluate, run   make slow   training and control runs of minutes
# make docs      the pages of docs/ as a site in build/site
ROOMS = policy envs datasets training real_robot configs
MODULES = $(filter-out __init__.py,$(wildcard *.py))
PYTEST = .venv/bin/pytest
.PHONY: install demo test slow lint format docs

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

.venv/docs: pyproject.toml constraints.txt .venv/installed
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch .venv/docs

docs: .venv/docs
	.venv/bin/python tools/reference.py
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet
