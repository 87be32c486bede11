"""A model that starts from another model of a grid, in the workflow."""

import json
import os
import shutil

import pytest

from tests.commands import call, refused, succeeded
from tests.workflow.project import GRID

TUNED = "  psld: {starts_from: vp-sde, overrides: [process=vp-sde, training.steps=4]}"
SOURCE, TARGET = "models/tiny/vp-sde", "models/tiny/psld/manifest.json"


@pytest.mark.slow
def test_retrained_source_invalidates_its_descendant(finished):
    def weights(manifest: str) -> dict:
        content = json.loads((finished.folder / manifest).read_text())
        return content["weights_sha256"], content["settings"]["init"]

    finished.edit(GRID, "  psld: [process=psld]", TUNED)
    finished.run(TARGET)
    source, _ = weights(f"{SOURCE}/manifest.json")
    assert weights(TARGET)[1]["model"]["content"] == source
    assert finished.plan(TARGET) == {}

    # The same settings give other weights, because `micro_batch` changes rounding and dropout. With
    # the old modification time, as after a copy, Snakemake does not notice, but the job does.
    file = finished.folder / SOURCE / "manifest.json"
    before = file.stat()
    for run in finished.folder.glob("runs/vp-sde-*"):
        shutil.rmtree(run)
    again = ["model=tiny/vp-sde", "training.micro_batch=2", f"output={SOURCE}"]
    succeeded(call(finished.folder, "train", *again))
    assert weights(f"{SOURCE}/manifest.json")[0] != source
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    cell = ("cell=tiny/psld/em-3", "first=0", "shards=1")
    line = refused(call(finished.folder, "sample", *cell), 2)
    assert f"its source ({SOURCE} has changed)" in line

    file.touch()
    assert finished.plan(TARGET) == {"train": 1}
    finished.run(TARGET)
    source, _ = weights(f"{SOURCE}/manifest.json")
    assert weights(TARGET)[1]["model"]["content"] == source
    assert finished.plan(TARGET) == {}
