"""A model of a grid that starts from another one, with Snakemake."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.commands import refused, succeeded
from tests.workflow.project import GRID

TUNED = "  psld: {starts_from: vp-sde, overrides: [process=vp-sde, training.steps=4]}"
SOURCE, TARGET = "models/tiny/vp-sde", "models/tiny/psld/manifest.json"


@pytest.mark.slow
def test_a_source_that_was_trained_again_makes_its_descendant_again(fresh):
    def psld(*words: str) -> subprocess.CompletedProcess:
        given = {"cwd": fresh.folder, "env": fresh.environment, "capture_output": True}
        return subprocess.run([sys.executable, "-m", "psld", *words], text=True, **given)

    def weights(manifest: str) -> dict:
        content = json.loads((fresh.folder / manifest).read_text())
        return content["weights_sha256"], content["settings"]["init"]

    fresh.edit(GRID, "  psld: [process=psld]", TUNED)
    fresh.run(TARGET)
    source, _ = weights(f"{SOURCE}/manifest.json")
    assert weights(TARGET)[1]["model"]["free"]["content"] == source
    assert fresh.plan(TARGET) == {}

    # Other weights of the same settings, because rounding and dropout are others. First with the
    # old time, as after a copy: then a job says so.
    file = fresh.folder / SOURCE / "manifest.json"
    before = file.stat()
    for run in fresh.folder.glob("runs/vp-sde-*"):
        shutil.rmtree(run)
    again = ["model=tiny/vp-sde", "training.micro_batch=2", f"output={SOURCE}"]
    succeeded(psld("train", *again))
    assert weights(f"{SOURCE}/manifest.json")[0] != source
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    line = refused(psld("sample", "cell=tiny/psld/em-3", "first=0", "shards=1"), 2)
    assert f"its source ({SOURCE} has changed)" in line

    file.touch()
    assert fresh.plan(TARGET) == {"train": 1}
    fresh.run(TARGET)
    source, _ = weights(f"{SOURCE}/manifest.json")
    assert weights(TARGET)[1]["model"]["free"]["content"] == source
    assert fresh.plan(TARGET) == {}
