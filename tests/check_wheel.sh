#!/usr/bin/env bash
# Build the wheel, install it into a fresh environment, and use it in an empty folder.
#
# As root the checkout is hidden meanwhile, so nothing of it can be used by accident.
set -euo pipefail
checkout=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

python -m build --wheel --outdir "$scratch/dist" "$checkout" >"$scratch/build.log" 2>&1 \
    || { cat "$scratch/build.log"; exit 1; }
"$(python -c 'import sys; print(sys._base_executable)')" -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet "$scratch"/dist/*.whl
rm -rf "$checkout/build"

mkdir "$scratch/empty"
cat >"$scratch/use.sh" <<'USE'
set -euo pipefail
cd "$1/empty"
python - <<'PYTHON'
import psld
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry
assert "site-packages" in psld.__file__, psld.__file__
assert ExecutorPluginRegistry().is_installed("psld")
PYTHON
psld --help | grep -q sample
psld prepare dataset=digits
psld train training.steps=20 training.batch_size=8 wandb.mode=disabled name=small
mkdir -p configs/sampler
printf 'defaults: [em, _self_]\nstriding: quadratic\nsteps: 5\n' >configs/sampler/coarse.yaml
psld sample model=models/by-hand/small sampler=coarse shard_size=16 output=sixteen png=sixteen.png
test -s sixteen/00000.safetensors
test -s sixteen.png
python - <<'PYTHON'
import psld
images = psld.load("models/by-hand/small").sample(4, sampler="coarse", seed=1)
assert images.shape == (4, 1, 8, 8), images.shape
PYTHON
echo "the wheel works"
USE
run=(env -i "PATH=$scratch/venv/bin:/usr/bin:/bin" "HOME=$scratch" OMP_NUM_THREADS=1
    bash "$scratch/use.sh" "$scratch")
if [ "$(id -u)" = 0 ]; then
    unshare --mount bash -c 'mount -t tmpfs none "$0" && exec "$@"' "$checkout" "${run[@]}"
else
    "${run[@]}"
fi
