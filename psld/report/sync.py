"""Upload to wandb what its server lacks: trainings, and the results of a grid.

The steps of a training come from the history in its run directory, also of one that was killed. A
result is uploaded if the server has none with its digest. wandb's public API says what the server
has, before an upload and after it. The next sync uploads what failed.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wandb
from wandb.apis.public import Run

from psld.grid.cells import Grid
from psld.report.result_runs import ResultRun, result_runs
from psld.training.manifest import HISTORY, WANDB, TrainingHistory, is_exported
from psld.training.settings import WandbSettings
from psld.training.wandb_runs import (
    check_login,
    errors_in_one_line,
    log_new_steps,
    online_run,
    training_options,
)
from psld.utils.errors import PSLDError, RunError
from psld.utils.locks import held_if_free, sole_holder

FINISH_SECONDS = "300"
"""Nothing waits for a sync, so an upload may take longer than at the end of a training."""
ARRIVAL_SECONDS = 30
"""The longest time until the server shows what it received."""
DIGEST = "digest"
"""The name of a result's digest in its run."""


def sync(runs: Path, grid: Grid | None, settings: WandbSettings) -> None:
    """Upload the trainings in the run directories `runs`, and the results of `grid`.

    Raises UserError if nobody is logged in, and RunError if uploads failed; the others are made.
    """
    os.environ.setdefault("WANDB_FINISH_TIMEOUT", FINISH_SECONDS)
    check_login()
    with sole_holder(runs / "sync.lock", "waiting for another sync"):
        uploads = Uploads()
        for file in sorted(runs.glob(f"*/{WANDB}")):
            uploads.training(file.parent)
        if grid:
            where = {"project": settings.project, "entity": settings.entity, "group": grid.name}
            for result in result_runs(grid):
                uploads.result(result, where)
    if uploads.failed:
        raise RunError(f"wandb: uploads that failed: {uploads.failed}, see above")
    has = f"{runs} and of grid {grid.name}" if grid else runs
    print(f"{uploads.made} runs uploaded; wandb has all of {has}")


class Uploads:
    """The uploads of one sync. Each prints a line if there was something to do."""

    def __init__(self) -> None:
        """Raises RunError if the server does not answer."""
        with errors_in_one_line():
            self.api = wandb.Api()
        self.made = self.failed = 0

    def training(self, run: Path) -> None:
        """Upload the steps that the server lacks."""
        with self._counted(str(run)), held_if_free(run / "lock") as held:
            if not held:
                print(f"{run}: left for the next sync, the training is running", flush=True)
            elif (run / HISTORY).exists():  # It may have been killed before its first checkpoint.
                last = TrainingHistory.read(run / HISTORY).entries[-1].step

                def is_whole(server: Run) -> bool:
                    return (server.history_keys or {}).get("lastStep", -1) >= last

                def log(online: wandb.Run) -> None:
                    log_new_steps(online, run)
                    online.finish(0 if is_exported(run) else 1)

                self._upload(str(run), training_options(run), is_whole, log)

    def result(self, result: ResultRun, where: dict[str, Any]) -> None:
        """Upload a result that the server lacks; `where` has more options of `wandb.init`."""
        name, digest = "{job_type} {name}".format_map(result.options), result.digest()

        def is_whole(server: Run) -> bool:
            return server.summary_metrics.get(DIGEST) == digest

        def log(online: wandb.Run) -> None:
            images = {name: wandb.Image(image) for name, image in result.images.items()}
            tables = {n: wandb.Table(*t, allow_mixed_types=True) for n, t in result.tables.items()}
            online.log({**result.values, **images, **tables, DIGEST: digest})

        with self._counted(name):
            self._upload(name, where | result.options, is_whole, log)

    @contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        """Count and print a failure, and go on."""
        try:
            yield
        except PSLDError as error:
            print(f"{name}: not uploaded: {error}", flush=True)
            self.failed += 1

    def _upload(
        self,
        name: str,
        options: dict[str, Any],
        is_whole: Callable[[Run], bool],
        log: Callable[[wandb.Run], None],
    ) -> None:
        """Upload a run if the server's is not whole, and wait until it is.

        Raises RunError if it is not whole in the end.
        """
        path = (
            f"{options['entity'] or self.api.default_entity}/{options['project']}/{options['id']}"
        )

        def has_arrived() -> bool:
            self.api.flush()
            try:
                return is_whole(self.api.run(path))
            except wandb.errors.CommError:  # There is no such run.
                return False

        if has_arrived():
            return
        with online_run(**options) as online:
            log(online)
        deadline = time.monotonic() + ARRIVAL_SECONDS
        while not has_arrived():
            if time.monotonic() > deadline:
                raise RunError("the server does not show what it received")
            time.sleep(1)
        self.made += 1
        print(f"{name}: uploaded", flush=True)
