#!/usr/bin/env bash
# A gappy NetCDF stack becomes a complete one, and a second command proves that nothing observed was touched.
# The command is looked for on the path. After `make demo`: PATH="$PWD/.venv/bin:$PATH" examples/01_fill_netcdf.sh
# Usage: examples/01_fill_netcdf.sh [FOLDER]     (a temporary folder otherwise)
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
folder="${1:-$(mktemp -d)}"
cd "$folder"

# sixty days of 1 km soil moisture, most of it missing, and what is under the gaps
stimpute simulate soil_moisture.nc --truth truth.nc --shape 60,36,36 --seed 1

# what is in it, and what a fill would do
stimpute info soil_moisture.nc
stimpute fill soil_moisture.nc filled.nc --dry-run

# fill, with error bars and flags (both are the default). What lies too long before a cell's first or after its last
# observation is refused and stays nodata: 7,256 of the 69,984 gaps here. --fill-never-observed fills everything
stimpute fill soil_moisture.nc filled.nc

# exit code 1 if a single observed cell, date, coordinate or attribute differs
stimpute verify soil_moisture.nc filled.nc

# possible here because the stack is simulated
python "$here/score_against_truth.py" soil_moisture.nc filled.nc truth.nc
