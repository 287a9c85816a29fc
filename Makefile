# make demo | make test | make lint: each sets up what it needs in .venv, then does its job.
# make peers | make test-peers: the same for .venv-peers, which holds deepinv beside this package.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.installed

.PHONY: demo test test-fast lint format clean peers test-peers results docs fuzz bench bench-full growth end-to-end report

NATIVE := $(shell find csrc -name "*.cpp" -o -name "*.h")

$(STAMP): pyproject.toml setup.py $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/latino-engine demo --output demo-output

# Files of tests side by side, one process for each core, at most four.
test: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Less than a minute on two cores: the laws on small sizes, the sampler against its closed form, the
# engine, the sentences for mistakes and the import rules.
FAST := tests/engine/test_engine.py tests/sampling/test_sample_errors.py tests/sampling/test_sampler.py \
	tests/sampling/test_schedule.py tests/operators/test_operators.py tests/operators/test_laws_can_fail.py \
	tests/operators/test_operator_errors.py tests/operators/test_operator_errors_more.py \
	tests/operators/test_operator_spec.py tests/package/test_public_names.py tests/package/test_architecture.py

test-fast: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow and not cuda_compile and not gpu" \
		-k "not vanishes_with_the_step and not mri_complex and not another_public_range" $(FAST)

# Calls, descriptions and files at random, FUZZ of each, and every call to the file system as the
# last of a process; hours on two cores. SEED chooses others.
FUZZ ?= 10000
SEED ?= 0

fuzz: $(STAMP)
	OMP_NUM_THREADS=1 LATINO_FUZZ=$(FUZZ) LATINO_FUZZ_SEED=$(SEED) \
		$(BIN)/python -m pytest tests/fuzz -s --timeout 0

# deepinv needs torchvision, and torchvision this very torch. LATINO_CUDA=0: both environments
# share the compiled modules in latino_engine/, and this one needs no CUDA.
$(PEERS_STAMP): pyproject.toml setup.py $(NATIVE)
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check \
		torch==2.14.1 torchvision==0.29.1 deepinv==0.5.0 pytest pytest-timeout \
		pytest-benchmark peft
	LATINO_CUDA=0 $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $(PEERS_STAMP)

peers: $(PEERS_STAMP)

test-peers: $(PEERS_STAMP)
	$(PEERS)/bin/python -m pytest -m peers tests/peers

# The quality tables and their page, docs/results.md: MNIST=folder of the idx files, PHOTOS=folder of
# test photographs, GRID=folder of other ones. Rows of deepinv's methods need `make peers` first.
results: $(STAMP)
	$(BIN)/python -m benchmarks.quality digits "$(MNIST)"
	$(BIN)/python -m benchmarks.quality photos "$(PHOTOS)" $(if $(GRID),--grid "$(GRID)")
	$(if $(GRID),$(BIN)/python -m benchmarks.quality limits "$(GRID)" "$(PHOTOS)")
	$(BIN)/python -m benchmarks.quality ablation "$(MNIST)"
	$(BIN)/python -m benchmarks.quality change "$(MNIST)"
	$(BIN)/python -m benchmarks.quality beyond "$(MNIST)" "$(PHOTOS)"
	$(BIN)/python -m benchmarks.quality picture "$(MNIST)"
	$(BIN)/python -m benchmarks.quality tables

# Times of this machine, added to benchmarks/results/measurements.csv: a chosen grid in less than
# ten minutes on two cores, or everything. With `make peers` beforehand deepinv is among the rows.
BENCH_PYTHON = $(if $(wildcard $(PEERS_STAMP)),$(PEERS)/bin/python,$(BIN)/python)

bench: $(STAMP)
	$(BENCH_PYTHON) -m pytest benchmarks/operations --grid curated -q --benchmark-quiet

# How time and memory grow, into benchmarks/results/growth; a run that was stopped goes on.
growth: $(STAMP)
	$(BIN)/python -m benchmarks.floors.growth -o benchmarks/results/growth

bench-full: $(STAMP)
	$(BENCH_PYTHON) -m pytest benchmarks/operations --grid full -q --benchmark-quiet --timeout 3600

# Time beside quality: this engine, eager PyTorch and, after `make peers`, deepinv. PHOTOS=folder of
# test photographs, GRID=folder of other ones. A run that was stopped goes on.
end-to-end: $(STAMP)
	$(BENCH_PYTHON) -m benchmarks.end_to_end "$(PHOTOS)" $(if $(GRID),--grid "$(GRID)")

# The tables and pictures of README.md and docs/benchmarks.md, from benchmarks/results/measurements.csv.
report: $(STAMP)
	$(BIN)/python -m benchmarks.report

# The documentation as a site, in site/; a broken link is an error.
docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	$(BIN)/python -m mkdocs build --strict

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build site *.egg-info demo-output .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
