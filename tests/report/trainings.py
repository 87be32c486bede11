"""Run directories like those of trainings, for uploads to wandb."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from psld.config.settings import write_record
from psld.data.images import save_images
from psld.training.files import WANDB, WandbRun, preview_path, write_history
from psld.utils.files import write_json


def write_training(project: Path, steps: Iterable[int], name: str = "model") -> Path:
    """Write the run directory of a training with these logged steps, and a preview at step 20."""
    run = project / "runs" / name
    names = {"id": f"{name}-id", "name": name, "group": "mine", "job_type": "train"}
    write_record(run / WANDB, WandbRun(**names, project="psld", entity=None))
    write_json(run / "settings.json", {"process": {"gamma": 0.02}})
    history = [{"step": step, "time": 1e9 + step, "loss": 1 / step} for step in steps]
    write_history(run, history)
    save_images(np.zeros((1, 1, 8, 8), np.uint8), preview_path(run, 20))
    return run
