# make demo   a gappy stack becomes a complete one          make test   everything CI runs
# make lint   style, types, import contract                 make bench  the long measurements in benchmarks/
# make fuzz   ten minutes of broken inputs
# make docs   docs/cli.md from the commands' own --help     make clean  remove what make created
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP    := $(BIN)/python -m pip --disable-pip-version-check
WORKERS ?= 2

export OMP_NUM_THREADS ?= 1
export MPLBACKEND ?= Agg

.DEFAULT_GOAL := test
.PHONY: demo test lint bench fuzz docs clean install

install: $(STAMP)

# torch first and from the constraints, so that nothing later resolves it to another version or build.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "stimpute needs Python 3.11 or newer; say which: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --no-compile -c constraints.txt torch
	$(PIP) install --quiet --no-compile -c constraints.txt -e '.[dev]'
	@touch $@

test: lint
	$(BIN)/python -m pytest -n $(WORKERS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

DRIVERS := soil_moisture_36km precipitation radiation tmin tmax clay sand organic_carbon elevation slope land_cover

demo: $(STAMP)
	rm -rf demo && mkdir demo
	@echo "== 1. a simulated archive: 36 x 36 km soil moisture, most of it missing, what drives it, and its truth apart"
	$(BIN)/stimpute simulate demo/soil_moisture.nc --truth demo/truth.nc --covariates
	@echo "== 2. what is in it"
	$(BIN)/stimpute info demo/soil_moisture.nc --var soil_moisture
	@echo "== 3. fill the gaps, first alone, then with the eleven covariates"
	$(BIN)/stimpute fill demo/soil_moisture.nc demo/alone.nc --var soil_moisture
	$(BIN)/stimpute fill demo/soil_moisture.nc demo/filled.nc --var soil_moisture --plot demo/filled.png \
	  $(foreach name,$(DRIVERS),--covariate demo/soil_moisture.nc:$(name))
	@echo "== 4. prove that what was observed is untouched"
	$(BIN)/stimpute verify demo/soil_moisture.nc demo/filled.nc
	@echo "== 5. how far from the truth is it, alone and with covariates"
	$(BIN)/python examples/score_against_truth.py demo/soil_moisture.nc demo/alone.nc demo/truth.nc
	$(BIN)/python examples/score_against_truth.py demo/soil_moisture.nc demo/filled.nc demo/truth.nc
	@echo "== the picture: demo/filled.png"

bench: $(STAMP)
	$(BIN)/python benchmarks/skill.py

docs: $(STAMP)
	$(BIN)/python docs/generate_cli.py > docs/cli.md.new && mv docs/cli.md.new docs/cli.md

fuzz: $(STAMP)
	$(BIN)/python benchmarks/fuzz.py --minutes 10

clean:
	rm -rf $(VENV) demo dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
