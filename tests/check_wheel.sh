#!/usr/bin/env bash
# Build sdist and wheel, install the wheel into a fresh environment, and use it in an empty folder:
# first without extras, then with all packages of requirements.lock.
#
# As root the checkout is hidden meanwhile, so nothing of it can be used by accident.
set -euo pipefail
checkout=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
quietly() { "$@" >"$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }; }

# The wheel is built from the sdist.
quietly python -m build --outdir "$scratch/dist" "$checkout"
rm -rf "$checkout/build"
wheel=$(echo "$scratch"/dist/*.whl)
"$(python -c 'import sys; print(sys._base_executable)')" -m venv "$scratch/venv"
pip() { "$scratch/venv/bin/pip" "$@"; }
# torch by its version, because this machine may be set up for the CPU build, which has other hashes;
# the rest as docs/installation.md says for the CPU build.
lock="$checkout/requirements.lock"
sed -E '/--hash/d; s/ \\$//' "$lock" >"$scratch/versions"
awk '/^[a-z]/ {kept = !/^(cuda-|nvidia-|torch==|torchvision==|triton==)/} kept' "$lock" >"$scratch/cpu.lock"
pip install --quiet --constraint "$scratch/versions" "$wheel"

mkdir "$scratch/empty"
cat >"$scratch/base.sh" <<'BASE'
set -euo pipefail
cd "$1/empty"
python - <<'PYTHON'
from importlib.util import find_spec

from pathlib import Path

import numpy as np
from PIL import Image

import psld

assert "site-packages" in psld.__file__, psld.__file__
extras = ("snakemake", "submitit", "wandb", "matplotlib")
assert not any(map(find_spec, extras)), "a package of an extra is installed"
pixels = np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8)
Path("pictures").mkdir()
for number, picture in enumerate(pixels):
    Image.fromarray(picture).save(f"pictures/{number}.png")
PYTHON
psld prepare dataset=folder dataset.name=noise dataset.image_size=8 dataset.source.root=pictures \
    dataset.source.test_fraction=0.5
psld train data=data/noise.h5 training.steps=5 training.batch_size=4 wandb.mode=disabled name=small
python - <<'PYTHON'
import psld
images = psld.load("models/by-hand/small").sample(4, sampler="few", steps=2, seed=1)
assert images.shape == (4, 3, 8, 8), images.shape
PYTHON
if psld figure figure=nfe 2>error; then echo "figure needs matplotlib"; exit 1; fi
test "$(cat error)" = "error: matplotlib is not installed; pip install 'psld[workflow]'"
if psld wandb sync 2>error; then echo "sync needs wandb"; exit 1; fi
test "$(cat error)" = "error: wandb is not installed; pip install 'psld[wandb]'"
echo "the base works"
BASE
cat >"$scratch/use.sh" <<'USE'
set -euo pipefail
cd "$1/empty"
python - <<'PYTHON'
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry
assert ExecutorPluginRegistry().is_installed("psld")
assert LoggerPluginRegistry().is_installed("psld")
PYTHON
psld --help | grep -q sample
psld prepare dataset=digits
psld train training.steps=20 training.batch_size=8 wandb.mode=disabled name=digits
mkdir -p configs/sampler
printf 'defaults: [em, _self_]\nstriding: quadratic\nsteps: 5\n' >configs/sampler/coarse.yaml
psld sample model=models/by-hand/digits sampler=coarse shard_size=16 output=sixteen png=sixteen.png
test -s sixteen/00000.safetensors
test -s sixteen.png
python - <<'PYTHON'
import psld
images = psld.load("models/by-hand/digits").sample(4, sampler="coarse", seed=1)
assert images.shape == (4, 1, 8, 8), images.shape
PYTHON
psld init study part=true
(cd study && test -s configs/network/plain.yaml && psld check mynet:Plain && psld plan grid_name=mine >plan && test -s plan)
echo "the wheel works"
USE
use() {
    run=(env -i "PATH=$scratch/venv/bin:/usr/bin:/bin" "HOME=$scratch" OMP_NUM_THREADS=1
        bash "$scratch/$1" "$scratch")
    if [ "$(id -u)" = 0 ]; then
        unshare --mount bash -c 'mount -t tmpfs none "$0" && exec "$@"' "$checkout" "${run[@]}"
    else
        "${run[@]}"
    fi
}
use base.sh
pip install --quiet --no-deps --requirement "$scratch/cpu.lock"
pip check
use use.sh
