# Two commands matter: `make run` and `make test`. Both work on a fresh machine with Python 3.11 or newer.

PYTHON ?= python3
BIN    := .venv/bin
STAMP  := .venv/.installed

# Tests start hundreds of daemons: what Python compiles is kept, and not among the sources.
test proof: export PYTHONPYCACHEPREFIX = $(abspath .venv)/pycache
test proof: export PYTHONDONTWRITEBYTECODE =

.PHONY: setup run test proof bench soak screens lint lock clean wheel install rollback uninstall

setup: $(STAMP)

$(STAMP): requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	touch $@

run: setup
	$(BIN)/python -m gateway serve -c config/gateway.toml

test: setup lint
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

# Hundreds of kills, big fuzz: minutes to hours. The last figures are in the README.
proof: setup
	GATEWAY_PROOF=1 $(BIN)/python -m pytest --timeout=7200 $(ARGS)

bench: setup
	$(BIN)/python -m tests.bench $(ARGS)

# Pictures of the pages for the README, from the sample tenants.
screens: setup
	$(BIN)/python -m tests.ui.screens $(ARGS)

# Hours under load with faults: ARGS='--minutes 120 --rate 100'. The last figures are in the README.
soak: setup
	$(BIN)/python -m tests.soak $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Renew the locked versions: one file for all platforms, with hashes and without addresses; and of it what a daemon needs.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
lock: setup
	$(COMPILE) --all-extras --upgrade pyproject.toml -o requirements.txt
	$(COMPILE) --extra all --constraint requirements.txt --no-annotate pyproject.toml -o requirements-daemon.txt

# Installing: PREFIX is where, DESTDIR a root to put it below, WHEEL what to install instead of what lies here.
PREFIX  ?= /usr/local
DESTDIR ?=
WHEEL   ?=
INSTALL  = PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' PYTHON='$(PYTHON)' systemd/install

wheel: setup
	rm -f dist/*.whl
	$(BIN)/python -m hatchling build -t wheel -d dist

install: $(if $(WHEEL),,wheel)
	$(INSTALL) install $(or $(WHEEL),dist/*.whl)

rollback:
	$(INSTALL) rollback

uninstall:
	$(INSTALL) uninstall

clean:
	rm -rf .venv var
