"""Failed and killed runs: the files that they leave, and how the next run resumes."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.workflow.project import GRID, Project

pytestmark = pytest.mark.slow

CELLS = ("tiny/psld/em-3", "tiny/vp-sde/em-3")


def state(paths: list[Path]) -> dict[Path, tuple[int, bytes]]:
    """Return the modification time and the content of each file."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def test_failed_training_affects_only_its_own_outputs(finished):
    own = finished.folder / "models" / "tiny" / "psld"
    kept = [p for p in finished.files("data", "models", "runs", "samples") if own not in p.parents]
    kept += finished.files("results")
    before = state(kept)
    finished.edit(GRID, "[process=psld]", "[process=psld, training.learning_rate=1e30]")
    done = finished.snakemake("tiny")
    assert done.returncode == 1
    assert "error: NaN or infinity in the loss at step" in done.stdout
    assert state(kept) == before

    # With the old settings, the run directory still has the last checkpoint.
    finished.edit(GRID, ", training.learning_rate=1e30", "")
    finished.run("models/tiny/psld/manifest.json")
    runs = finished.folder / "runs"
    exported = [p for p in kept if runs in p.parents and p.parent.name != "checkpoints"]
    assert state([path for path in kept if path not in exported]) == {
        path: found for path, found in before.items() if path not in exported
    }
    assert all(path.read_bytes() == before[path][1] for path in exported), "rewritten unchanged"
    assert finished.plan("tiny") == {}, "the weights are the same, so nothing is resampled"


def shards_in(project: Project) -> list[Path]:
    return [path for path in project.files("samples") if path.suffix == ".safetensors"]


def test_killed_run_resumes_without_repeating_finished_shards(finished):
    """This includes the finished shards of an unfinished job. The same command resumes the run.

    Only Snakemake is killed. Its job keeps running until the next run ends it. tests/faults kills
    a job itself.
    """
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
    while len(shards_in(finished)) < 3:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = state(shards_in(finished))
    assert len(done) < 8

    finished.run(*CELLS)
    assert state(list(done)) == done
    assert len(shards_in(finished)) == 8
    assert len(finished.files("samples")) == 8 + 4, "8 shards, 4 records, no incomplete files"
    assert finished.plan(*CELLS) == {}


def test_only_a_damaged_shard_is_resampled(finished):
    """This holds even if the number of shards per job has changed."""
    damaged = finished.folder / "samples/tiny/psld/em-3/00002.safetensors"
    before = state(shards_in(finished))
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    (finished.folder / "results/cells/tiny/psld/em-3.json").unlink()
    refused = finished.snakemake(CELLS[0])
    assert refused.returncode == 1
    assert f"{damaged.relative_to(finished.folder)}: damaged shard" in refused.stdout

    finished.edit(GRID, "shards_per_job: 2", "shards_per_job: 3")
    finished.run(CELLS[0])
    after = state(shards_in(finished))
    written = [path for path in before if after[path][0] != before[path][0]]
    assert written == [damaged]
    assert finished.plan(CELLS[0]) == {}
