# make install   .venv with everything          make test   lint, types, tests (no GPU, < 10 min)
# make demo      collect, train, evaluate, run   make slow   training and control runs of minutes
# make docs      the pages of docs/ as a site in build/site
# make test-portable   tests that compare numbers, as on each other processor that this one can be
ROOMS = policy envs datasets training real_robot configs
MODULES = $(filter-out __init__.py,$(wildcard *.py))
PYTEST = .venv/bin/pytest
WORKERS = $(shell unset OMP_NUM_THREADS; n=$$(nproc); echo $$((n < 4 ? n : 4)))
.PHONY: install demo test test-portable slow lint format docs attacks

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
	OMP_NUM_THREADS=1 $(PYTEST) -m "not slow" -n $(WORKERS) --dist worksteal

test-portable: install
	.venv/bin/python tools/test_portable.py

slow: install
	$(PYTEST) -m slow

format: install
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

.venv/docs: pyproject.toml constraints.txt .venv/installed
	.venv/bin/python tools/install_lock.py .venv/bin/python -m pip install --quiet \
	  --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch .venv/docs

docs: .venv/docs
	.venv/bin/python tools/reference.py
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet

# hundreds of seeded attacks on stores, checkpoints, files and processes: 20 to 40 min
attacks: install
	$(PYTEST) -m attack tests/attacks
