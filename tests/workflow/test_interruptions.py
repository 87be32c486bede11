"""What a failure or a kill leaves behind, and how the next run goes on from it."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.workflow.project import GRID

pytestmark = pytest.mark.slow

CELLS = ("tiny/psld/em-3", "tiny/vp-sde/em-3")


def state(paths: list[Path]) -> dict[Path, tuple[int, bytes]]:
    """When each file was written, and what is in it."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def test_a_failed_training_costs_its_own_outputs_only(finished):
    own = finished.folder / "models" / "tiny" / "psld"
    kept = [p for p in finished.files("data", "models", "runs", "samples") if own not in p.parents]
    kept += finished.files("results")
    before = state(kept)
    finished.edit(GRID, "[process=psld]", "[process=psld, training.learning_rate=1e30]")
    done = finished.snakemake("tiny")
    assert done.returncode == 1
    assert "error: NaN or infinity in the loss at step" in done.stdout
    assert state(kept) == before

    # Back to the settings that were trained: their run directory still holds the last checkpoint.
    finished.edit(GRID, ", training.learning_rate=1e30", "")
    finished.run("models/tiny/psld/manifest.json")
    exported = [path for path in kept if path.parent.parent.parent.name == "runs"]
    assert state([path for path in kept if path not in exported]) == {
        path: found for path, found in before.items() if path not in exported
    }
    assert all(path.read_bytes() == before[path][1] for path in exported), "written anew, the same"
    assert finished.plan("tiny") == {}, "the same weights: nothing is sampled again"


def test_a_killed_run_goes_on_without_repeating_finished_shards(finished):
    for made in ("samples", "results"):
        shutil.rmtree(finished.folder / made)
    process = subprocess.Popen(
        finished.command("--cores", "1", *CELLS),
        cwd=finished.folder,
        env=finished.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 600
    while len(finished.files("samples")) < 3:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # One at a time: the third could begin only when the first two had been recorded as done.
    shards = [path for path in finished.files("samples") if path.suffix == ".h5"]
    done = state(sorted(shards, key=lambda path: path.stat().st_mtime_ns)[:2])
    assert len(done) == 2

    locked = finished.snakemake(*CELLS)
    assert locked.returncode == 1
    assert "--unlock" in locked.stdout
    finished.run("--unlock")
    finished.run(*CELLS)
    assert state(list(done)) == done
    assert len(finished.files("samples")) == 4, "all shards, and nothing half written"
    assert finished.plan(*CELLS) == {}
