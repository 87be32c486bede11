"""What a training reports to wandb: one run a training, however often it is resumed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wandb
from torch import nn

from psld.training.settings import RunSettings
from psld.training.state import History


class WandbLog:
    """The log of the leading rank.

    The run's id is the run directory's name, so a resumed training continues its run; the grid is
    the group and the stage the job type. It is told of steps when a checkpoint holds them: a
    training that is killed and repeats some steps reports each of them once.
    """

    def __init__(
        self,
        settings: RunSettings,
        run_folder: Path,
        stage: str,
        step: int,
        look: Callable[[nn.Module], dict[str, Any]],
    ) -> None:
        """
        Args:
            step: the step that the training starts or resumes at.
            look: what to log, now and then, of the network's moving average.
        """
        self.look = look
        self.looked: dict[int, dict[str, Any]] = {}
        self.reported = step
        os.environ.setdefault("WANDB_SILENT", "true")
        self.run = wandb.init(
            project=settings.wandb.project,
            entity=settings.wandb.entity,
            mode=settings.wandb.mode,
            id=run_folder.name,
            name=settings.name,
            group=settings.grid_name,
            job_type=stage,
            resume="allow",
            dir=run_folder,
            config=settings.model().model_dump(mode="json"),
        )

    def __enter__(self) -> "WandbLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.run.finish(exit_code=0 if kind is None else 1)

    def preview(self, step: int, network: nn.Module) -> None:
        self.looked[step] = self.look(network)

    def saved(self, history: History) -> None:
        fresh = {int(entry["step"]): entry for entry in history if entry["step"] > self.reported}
        for step in sorted(fresh.keys() | self.looked):
            values = {key: value for key, value in fresh.get(step, {}).items() if key != "step"}
            self.run.log({**values, **self.looked.pop(step, {})}, step=step)
            self.reported = step
