"""A training's log in wandb: one run per training, however often it is resumed."""

from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
import wandb
from torch import nn

from psld.training.loop import Log
from psld.training.settings import RunSettings
from psld.training.state import History
from psld.training.wandb_runs import (
    check_login,
    kill_service,
    last_logged_step,
    start_run,
    training_id,
)

END_SECONDS = 60
"""The largest number of seconds for which the end of a training waits for wandb."""

Previews = dict[int, dict[str, Any]]
"""What a preview shows at each step: numbers, and images H×W×C."""


class WandbLog(Log):
    """The log of the leading rank.

    The grid is the group of the run, the command its job type. A step is reported when a
    checkpoint holds it. A resumed training first reports the steps that wandb lost in a kill, so
    each step is reported once.

    A thread makes all calls to wandb, so the training never waits for its process, its server or
    the disk, except at the end for at most `END_SECONDS`. If the server does not answer, the
    run is written offline. If wandb fails in any other way, the training goes on without it, and
    the next resume reports what is missing.
    """

    def __init__(
        self,
        settings: RunSettings,
        run_folder: Path,
        stage: str,
        step: int,
        make_preview: Callable[[nn.Module], dict[str, Any]],
    ) -> None:
        """
        Args:
            step: the step at which the training starts or resumes.
            make_preview: makes a preview of the averaged network.

        Raises UserError if nobody is logged in.
        """
        check_login(settings.wandb)
        self.settings, self.run_folder, self.stage = settings, run_folder, stage
        self.make_preview = make_preview
        self.previews: Previews = {}
        self.reported = step
        self.queue: SimpleQueue[tuple[History, Previews] | int] = SimpleQueue()
        """Histories with the new previews; last, the exit code."""
        self.thread = Thread(target=self._write, name="wandb", daemon=True)

    def __enter__(self) -> "WandbLog":
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.queue.put(0 if kind is None else 1)
        self.thread.join(END_SECONDS)
        if self.thread.is_alive():
            kill_service()
            self._say(
                TimeoutError(f"no end within {END_SECONDS} s"), "the last steps may be missing"
            )

    def preview(self, step: int, network: nn.Module) -> None:
        self.previews[step] = self.make_preview(network)

    def saved(self, history: History) -> None:
        if self.thread.is_alive():
            self.queue.put((list(history), self.previews))
        self.previews = {}

    def _write(self) -> None:
        """Start the run, log what comes, and finish. In the thread."""
        try:
            logged = last_logged_step(self.run_folder)
            # Without files, what was logged has been uploaded and removed (wandb clean).
            self.reported = self.reported if logged is None else logged
            run = self._start()
            while not isinstance(item := self.queue.get(), int):
                self._log(run, *item)
            run.finish(item)
        except TimeoutError:
            self._say(TimeoutError("the end is not uploaded"), "`psld wandb sync` uploads it")
        except Exception as error:  # wandb passes on the errors of its libraries
            self._say(error, "the training goes on without it")

    def _start(self) -> wandb.Run:
        settings = self.settings
        options = {
            "id": training_id(self.run_folder),
            "name": settings.name,
            "group": settings.grid_name,
            "job_type": self.stage,
            "resume": "allow",
            "config": settings.model().model_dump(mode="json"),
        }
        try:
            return start_run(settings.wandb, self.run_folder, **options)
        except Exception as error:
            if settings.wandb.mode != "online":
                raise
            self._say(error, "the run is written offline; `psld wandb sync` uploads it")
            wandb.teardown()  # its process would refuse the same id
            offline = settings.wandb.model_copy(update={"mode": "offline"})
            return start_run(offline, self.run_folder, **options)

    def _log(self, run: wandb.Run, history: History, previews: Previews) -> None:
        entries = {int(entry["step"]): entry for entry in history}
        for step in sorted(entries.keys() | previews):
            values = {**entries.get(step, {}), **previews.get(step, {})}
            values.pop("step", None)
            if step > self.reported:
                shown = {k: wandb.Image(v) for k, v in values.items() if isinstance(v, np.ndarray)}
                run.log(values | shown, step=step)
                self.reported = step

    def _say(self, error: Exception, then: str) -> None:
        reason = " ".join(str(error).split()).removeprefix("wandb: ") or type(error).__name__
        print(f"wandb: {reason}; {then}", flush=True)
