#!/usr/bin/env bash
# A pipeline: no intermediate names, stimpute between whatever makes a stack and whatever reads one.
# The last stage keeps a file because cdo and ncks read NetCDF from files only (the format is not sequential).
# The command is looked for on the path. After `make demo`: PATH="$PWD/.venv/bin:$PATH" examples/03_pipeline.sh
# Usage: examples/03_pipeline.sh [FOLDER]
set -euo pipefail
folder="${1:-$(mktemp -d)}"
cd "$folder"

if command -v cdo >/dev/null; then
  stimpute simulate - --kind ndvi --shape 23,32,32 --seed 2 | stimpute fill - - --no-flags --no-uncertainty |
    { cat > filled.nc && cdo -O -s timmean -selname,ndvi filled.nc mean.nc; }
elif command -v ncwa >/dev/null; then
  stimpute simulate - --kind ndvi --shape 23,32,32 --seed 2 | stimpute fill - - --no-flags --no-uncertainty |
    { cat > filled.nc && ncwa -O -v ndvi -a time filled.nc mean.nc; }
else
  echo "neither cdo nor nco is here: the filled stack is in $folder/filled.nc" >&2
  stimpute simulate - --kind ndvi --shape 23,32,32 --seed 2 | stimpute fill - - > filled.nc
  exit 0
fi

# the mean of a complete stack has no holes
stimpute info mean.nc
