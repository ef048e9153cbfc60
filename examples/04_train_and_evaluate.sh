#!/usr/bin/env bash
# Train a small network of your own on a local archive, compare it with the classical methods on cells hidden the
# way real gaps hide them, and fill with it. The budget here is a few seconds, to show the commands; a real
# run takes minutes (--minutes 10) and starts from the shipped model (--from st-small).
# The command is looked for on the path. After `make demo`: PATH="$PWD/.venv/bin:$PATH" examples/04_train_and_evaluate.sh
# Usage: examples/04_train_and_evaluate.sh [FOLDER]
set -euo pipefail
folder="${1:-$(mktemp -d)}"
cd "$folder"

stimpute simulate archive.nc --shape 60,20,20 --missing 0.7 --seed 4

stimpute train archive.nc -o mine.safetensors --steps 4 --batch 2 --depth 1 --width 32 --device cpu --overwrite
stimpute models show mine.safetensors

stimpute evaluate archive.nc --holdout gap --methods mean,linear,dct-pls,st --model mine.safetensors --time 2020-01-01,2020-01-31

stimpute fill archive.nc filled.nc --model mine.safetensors --time 2020-01-01,2020-01-31 --overwrite
stimpute verify archive.nc filled.nc
