"""The lives of a training on a cluster, so that one that gets nowhere gives up.

A job lives until its time limit, a preemption or a lost node ends it, and then again. There is no
limit to that as long as every life brings the training further.
"""

import json
import os
from pathlib import Path

from psld.errors import RunError

LAUNCH = "PSLD_LAUNCH"
"""Variable that names what a life belongs to: jobs that one launch submitted count together."""

FRUITLESS = 2
"""Lives that may begin at one step."""


def begin_life(run: Path, step: int) -> None:
    """Note that a life begins at this step.

    Raises RunError where two lives of the same launch have begun there before.
    """
    launch = os.environ.get(LAUNCH) or os.environ["SLURM_JOB_ID"]
    if read_lives(run, launch)[-FRUITLESS:] == [step] * FRUITLESS:
        raise RunError(
            f"{run}: no progress in {FRUITLESS} lives, which began at step {step} and left no "
            "checkpoint; checkpoint more often (training.checkpoint_every) or ask for more time"
        )
    with _file(run).open("a") as stream:
        stream.write(json.dumps({"launch": launch, "step": step}) + "\n")


def read_lives(run: Path, launch: str) -> list[int]:
    """The steps at which the lives of a launch began."""
    if not _file(run).exists():
        return []
    lives = [json.loads(line) for line in _file(run).read_text().splitlines() if line.endswith("}")]
    return [life["step"] for life in lives if life["launch"] == launch]


def _file(run: Path) -> Path:
    return run / "lives.jsonl"
