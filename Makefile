# make run: set up, then personalize the sample people.  make test: set up, then test.
PYTHON ?= python3.11
VENV   ?= .venv
STORE  ?= work/store
BIN    := $(VENV)/bin
# Without pipefail the status of a pipe is that of sed, and a failed install would count as ready.
SHELL       := /bin/bash
.SHELLFLAGS := -o pipefail -c
READY  := $(VENV)/.ready

.PHONY: run run-photos test test-all test-browser fuzz bench docs setup lint dist clean
.DEFAULT_GOAL := run

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@echo "[1/2] creating $(VENV) and installing the pinned packages (one to five minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt pip setuptools
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --constraint constraints.txt --editable '.[test]' | { grep --line-buffered -E '^(Collecting|Successfully|ERROR)' || true; } | sed -u 's/^/      /'
	@$(BIN)/python -c 'import torch, diffusers, prefect, ray'
	@touch $@
	@echo "[2/2] ready"

run: $(READY)
	@$(BIN)/faceid run --store $(STORE)

# A real portrait, or the folder in PHOTOS, from end to end: DeepFace with dlib, the miniature as base model or the Stable
# Diffusion folder in BASE.
PHOTOS ?=
BASE   ?=
run-photos: $(READY)
	@$(BIN)/faceid run --config examples/photographs.yaml $(if $(PHOTOS),--identities "$(PHOTOS)") \
	  $(if $(BASE),--set "base_model.source=$(BASE)" --set generate.grid=photographs --set generate.guidance_scale=7.5 --set generate.steps=30)

test: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --durations=10 -n 2 --dist loadfile
	@echo "Passed. What each folder of tests/ covers stands in tests/README.md; make run personalizes the sample people."

# Every test of `make test` and the exhaustive ones: a fault at every operation of the store, thousands of damaged files.
test-all: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --durations=10 -n 2 --dist loadfile -m "not browser" --timeout=1800

# The Prefect UI in a real browser; needs Chromium (Debian: apt-get install chromium; elsewhere: $(BIN)/playwright
# install chromium). FACEID_SCREENSHOTS=docs/images make test-browser takes the documentation's pictures again.
test-browser: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,browser]'
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --durations=5 -m browser tests/browser

# 100,000 mutated inputs for everything that reads what comes from outside; FUZZ="decoder --inputs 5000 --seed 7" for less.
FUZZ ?=
fuzz: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.fuzzing $(FUZZ)

# Options of the benchmarks: make bench BENCH="startup night --repeats 5"; docs/benchmarks.md says what each compares.
BENCH ?=
bench: $(READY)
	@$(BIN)/python -m tests.benchmarks $(BENCH)

# The documentation as a site in site/; a broken link, a page outside the navigation or an old picture fails.
docs: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,docs]'
	@$(BIN)/python docs/tools/draw_architecture.py --check
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "Built: site/index.html"

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports
	@$(BIN)/ty check --error-on-warning --python $(VENV) flows tasks faceid_core data_contracts
	@$(BIN)/cfn-lint infra/aws/*.yaml
	@$(BIN)/yamllint infra data_contracts
	@$(BIN)/hadolint --config .hadolint.yaml infra/docker/Dockerfile
	@echo "Lint passed: ruff, lint-imports, ty, cfn-lint, yamllint, hadolint."

# What a release hands out, of the commit and not of the working tree: the wheel, what it is pinned to, their digests.
dist: $(READY)
	@rm -rf dist && mkdir -p dist/source && git archive HEAD | tar -x -C dist/source
	@FACEID_REVISION=$$(git rev-parse --short=12 HEAD) $(BIN)/python -m pip wheel --quiet --disable-pip-version-check \
	  --no-deps --no-build-isolation --no-index --wheel-dir dist dist/source
	@rm -r dist/source && cp constraints.txt dist && cd dist && sha256sum -- * > SHA256SUMS && ls -l
	@echo "Built in dist/. Install: pip install --constraint constraints.txt faceid-*.whl"

clean:
	rm -rf $(VENV) work site dist .pytest_cache .ruff_cache .import_linter_cache
