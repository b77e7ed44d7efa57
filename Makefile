# Every target does the set-up it needs: a virtual environment in .venv with exactly
# requirements.lock, and this checkout installed in it. Only Python 3.10-3.13 must be there.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VENV := .venv
PYTHON := $(VENV)/bin/python
PYTHONS := python3.11 python3.12 python3.13 python3.10 python3 python
STAMP := $(VENV)/.complete

# Set-up is complete when its last step says so, and for this very directory: a copied checkout
# holds an environment that points at the original.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

.PHONY: help
help:
	@echo "make demo    people visit a simulated site, it learns over night, they visit again; serve it"
	@echo "             (ONCE=1: then stop)"
	@echo "make test    every test (TESTS=tests/features: some of them; WORKERS=0: in one process)"
	@echo "make check   lint, format, types, layers"
	@echo "make docs    the documentation, in build/site (make docs-serve: at port 8000, or PORT=)"
	@echo "make bench   measure; writes build/bench.json (BENCH=candidate: one group;"
	@echo "             BENCH=funnel AGAINST=REF VIDEOS=60000 PROCESSES=2: beside another commit;"
	@echo "             BENCH=preprocess or candidate AGAINST=REF: beside another commit's)"
	@echo "make serve   serve what the demo published again (PORT=8080, ROOT=...)"
	@echo "make flink   fetch Flink for its tests and pipeline.flink_cluster (160 MB, needs Maven)"
	@echo "make kafka   fetch a Kafka broker for the tests of pipeline.follow_kafka (43 MB, needs Maven)"
	@echo "make stores  build servers of object stores for their tests (needs Go)"
	@echo "make prism   build Beam's Prism runner for its test (needs Go)"
	@echo "make pictures  the pictures and page times of the documentation, anew (needs Chromium)"
	@echo "make axe     install the accessibility rules that tests of pages run (needs npm)"
	@echo "make helm    build Helm for the tests of the chart (needs Go)"
	@echo "make dist    wheel, sdist and a bill of materials, in dist/"
	@echo "make audit   known vulnerabilities of what requirements.lock pins"
	@echo "make doctor  what is wrong with this environment"
	@echo "make setup   only the environment"
	@echo "make lock    resolve requirements.lock anew from setup.py"
	@echo "make clean   remove build/ and caches (make distclean: .venv too)"

.PHONY: setup
setup: $(STAMP)

# Any interpreter on PATH is tried, not only found: a name may be there and not work.
$(STAMP): requirements.lock setup.py
	@rm -f $(STAMP)
	@usable='import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'; \
	if ! $(PYTHON) -c "$$usable; import pip" 2>/dev/null; then \
	  found=; \
	  for candidate in $(if $(BASE_PYTHON),$(BASE_PYTHON),$(PYTHONS)); do \
	    if "$$candidate" -c "$$usable" >/dev/null 2>&1; then found=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "error: no usable Python 3.10, 3.11, 3.12 or 3.13 (with its venv module) among:" \
	      "$(if $(BASE_PYTHON),$(BASE_PYTHON),$(PYTHONS))." >&2; \
	    echo "Install one (Debian and Ubuntu: apt-get install python3 python3-venv)," \
	      "or name one: make BASE_PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
	    exit 1; \
	  fi; \
	  echo "set-up: $(VENV) with $$("$$found" --version) ($$found)"; \
	  "$$found" -m venv --clear $(VENV); \
	fi
	@echo "set-up: installing requirements.lock (some minutes the first time)"
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	  -r requirements.lock
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps \
	  --no-build-isolation -e .
	@$(PYTHON) -m pip check
	@printf '%s' "$(CURDIR)" > $(STAMP)

.PHONY: demo
demo: $(STAMP)
	@$(PYTHON) -m pipeline.demo --output=build/demo $(if $(filter-out 0,$(ONCE)),--once) \
	  $(if $(PORT),--port=$(PORT))

.PHONY: test
test: $(STAMP)
	$(PYTHON) -m pytest -n $(or $(WORKERS),2) --dist=loadfile $(TESTS)

.PHONY: check
check: $(STAMP)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(VENV)/bin/lint-imports

# A dead link, a missing anchor or a page that is not in the navigation fails.
.PHONY: docs
docs: $(STAMP)
	@NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet
	@echo "wrote build/site; next: make docs-serve"

.PHONY: docs-serve
docs-serve: $(STAMP)
	@NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs serve --strict --dev-addr=127.0.0.1:$(or $(PORT),8000)

# The peers are optional: hnswlib needs a compiler. A peer that is missing leaves its ratio out.
.PHONY: bench
bench: $(STAMP)
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check -e '.[bench]' || \
	  echo "bench: some peers could not be installed; their ratios are left out" >&2
	@$(PYTHON) -m pipeline.bench --output=build/bench.json $(if $(BENCH),--groups=$(BENCH)) \
	  $(if $(AGAINST),--against=$(AGAINST)) $(if $(VIDEOS),--videos=$(VIDEOS)) \
	  $(if $(PROCESSES),--processes=$(PROCESSES)) $(if $(EVENTS),--events=$(EVENTS))

.PHONY: serve
serve: $(STAMP)
	@$(PYTHON) -m serving.serve --serving_root=$(or $(ROOT),build/demo/site/serving_root) \
	  --port=$(or $(PORT),8080)

.PHONY: doctor
doctor: $(STAMP)
	@$(PYTHON) -m pipeline.doctor

.PHONY: flink
flink: $(STAMP)
	@$(PYTHON) -m pipeline.flink_cluster --fetch

.PHONY: kafka
kafka: $(STAMP)
	@$(PYTHON) -c 'from tests.pipeline.kafka.broker import KAFKA; print("Kafka is in", KAFKA.fetch())'

# Go's module proxy checks what it downloads against its public checksum database.
.PHONY: prism
prism: $(STAMP)
	@GOBIN="$$HOME/.cache/watchnext/bin" go install "github.com/apache/beam/sdks/v2/go/cmd/prism@v$$( \
	  $(PYTHON) -c 'import importlib.metadata as m; print(m.version("apache-beam"))')"

.PHONY: helm
helm:
	@GOBIN="$$HOME/.cache/watchnext/bin" go install helm.sh/helm/v3/cmd/helm@v3.22.0

# What builds is what the lock installed; the same sources give the same wheel.
.PHONY: dist
dist: $(STAMP)
	@rm -rf dist build/lib build/bdist.* && mkdir dist
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 315532800) $(PYTHON) -c \
	  "from setuptools import build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')" >/dev/null
	@$(VENV)/bin/cyclonedx-py requirements --output-reproducible --output-format=JSON \
	  --output-file=dist/sbom.json requirements.lock
	@ls dist; echo "wrote dist; next: pip install 'dist/NAME.whl[serving]'"

# Asks the index what is known of each pinned version, and changes nothing.
.PHONY: audit
audit: $(STAMP)
	@$(PYTHON) -m venv build/audit && build/audit/bin/python -m pip install --quiet pip-audit
	@build/audit/bin/pip-audit --disable-pip --require-hashes --requirement=requirements.lock

.PHONY: stores
stores:
	@GOBIN="$$HOME/.cache/watchnext/bin" go install github.com/versity/versitygw/cmd/versitygw@v1.8.0
	@GOBIN="$$HOME/.cache/watchnext/bin" go install github.com/fsouza/fake-gcs-server@v1.56.1

# The tiny world of the tests is kept in build/world, which takes minutes the first time.
.PHONY: pictures
pictures: $(STAMP)
	WRITE_SCREENSHOTS=1 WORLD=build/world REQUIRE_ALL=1 $(PYTHON) -m pytest -q -n 0 \
	  tests/e2e/test_pictures.py

.PHONY: axe
axe:
	@mkdir -p build/axe && cp tests/axe/package.json tests/axe/package-lock.json build/axe/
	@npm ci --prefix build/axe --ignore-scripts --no-audit --no-fund --silent

# The resolver is a tool of its own; the markers that say "Linux, x86-64, below 3.14" go, since
# they stand on every line.
.PHONY: lock
lock: $(STAMP)
	@$(PYTHON) -m venv build/lock && build/lock/bin/python -m pip install --quiet uv
	@build/lock/bin/uv pip compile setup.py --extra dev --universal --python-version 3.10 \
	  --no-annotate --no-header --no-emit-index-url --no-emit-find-links --quiet \
	  --generate-hashes --output-file requirements.lock $(UV_FLAGS)
	@sed -E -i -e "s/ and (platform_machine == 'x86_64'|sys_platform == 'linux')//g" \
	  -e "s/ and platform_python_implementation != 'PyPy'//; s/ and implementation_name != 'PyPy'//" \
	  -e "s/ and python_full_version < '3.14'//; s/ ; python_full_version < '3.14'( \\\\)?$$/\1/" \
	  requirements.lock
	@echo "wrote requirements.lock; next: make test"

.PHONY: clean
clean:
	rm -rf build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find features models pipeline serving tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean
	rm -rf $(VENV)
