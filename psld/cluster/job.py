"""What a Slurm job of a training does on each of its ranks, and the outcome it leaves."""

import json
import os
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

from submitit import JobEnvironment

from psld.cluster.lives import LAUNCH
from psld.cluster.requeue import requeue_when_warned
from psld.utils.files import write_json

INTERRUPTED = 128
"""Exit codes from here on are signals: the rank was ended, it did not fail."""


@dataclass(frozen=True)
class RankCommand:
    """Runs `psld COMMAND ARGUMENT …` as one rank of a job.

    Each rank that comes to an end of its own notes how; one that is killed leaves nothing. So a
    launcher tells a training that failed, which would fail again, from one that was interrupted.
    """

    words: tuple[str, ...]
    """The command and its overrides."""
    folder: Path
    launch: str

    def __call__(self) -> None:
        requeue_when_warned()
        os.environ[LAUNCH] = self.launch
        # Not every cluster binds tasks to cores, and ranks that each take all of them crawl.
        os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        job = JobEnvironment()
        note = outcome_file(self.folder, job.raw_job_id, job.global_rank)
        note.unlink(missing_ok=True)  # of an earlier life
        sys.argv = ["psld", *self.words]
        try:
            runpy.run_module("psld", run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            if code < INTERRUPTED:
                write_json(note, {"exit_code": code})
            raise
        except Exception as error:
            if not _lost_a_rank(error):
                write_json(note, {"exit_code": 1})
            raise
        write_json(note, {"exit_code": 0})


def outcome_file(folder: Path, job: str, rank: int) -> Path:
    return folder / f"{job}_{rank}_outcome.json"


def read_outcomes(folder: Path, job: str) -> dict[int, int]:
    """The exit code of each rank that came to an end of its own."""
    files = {int(file.name.split("_")[1]): file for file in folder.glob(f"{job}_*_outcome.json")}
    return {rank: json.loads(file.read_text())["exit_code"] for rank, file in files.items()}


def _lost_a_rank(error: Exception) -> bool:
    """Whether the exchange between ranks broke: then another rank knows, or took, the reason."""
    # By name: this module imports no torch.
    lost = any(kind.__name__ == "DistError" for kind in type(error).__mro__)
    return lost or "gloo" in str(error).lower()
