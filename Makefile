# Two commands matter: `make run` and `make test`. Both work on a fresh machine with Python 3.11 or newer.

PYTHON ?= python3
BIN    := .venv/bin
STAMP  := .venv/.installed

.PHONY: setup run test proof bench lint lock clean

setup: $(STAMP)

$(STAMP): requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	touch $@

run: setup
	$(BIN)/python -m gateway serve -c config/gateway.toml

test: setup lint
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

# Hundreds of kills, big fuzz: minutes to hours. The last figures are in the README.
proof: setup
	GATEWAY_PROOF=1 $(BIN)/python -m pytest --timeout=7200 $(ARGS)

bench: setup
	$(BIN)/python -m tests.bench $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Renew the locked versions: one file for all platforms, with hashes and without addresses.
lock: setup
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --all-extras --upgrade pyproject.toml -o requirements.txt

clean:
	rm -rf .venv var
