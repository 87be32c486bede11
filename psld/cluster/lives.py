"""The lives of a training on a cluster, so that one that gets nowhere gives up.

A job lives until its time limit, a preemption or a lost node ends it, and then again. There is no
limit to that as long as every life brings the training further.
"""

import os
from pathlib import Path
from typing import Any

from psld.utils.errors import RunError
from psld.utils.files import read_json, write_json

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
    write_json(_file(run), [*_all_lives(run), {"launch": launch, "step": step}])


def read_lives(run: Path, launch: str) -> list[int]:
    """The steps at which the lives of a launch began."""
    return [life["step"] for life in _all_lives(run) if life["launch"] == launch]


def _all_lives(run: Path) -> list[dict[str, Any]]:
    return read_json(_file(run)) if _file(run).exists() else []


def _file(run: Path) -> Path:
    return run / "lives.json"
