"""Upload to wandb what its server lacks: trainings, and the results of a grid.

The steps of a training come from the history in its run directory, also of one that was killed. A
result is uploaded if the server has none with its digest. wandb's public API says what the server
has, before an upload and after it. The next sync uploads what failed.
"""

import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import wandb
from wandb.apis.public import Run

from psld.report.result_runs import ResultRun
from psld.training.history import HISTORY, WANDB, TrainingHistory
from psld.training.manifest import is_exported
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


def sync(runs: Path, results: Iterable[ResultRun], group: str, settings: WandbSettings) -> None:
    """Upload the trainings in the run directories `runs`, and the results of the grid `group`.

    Raises UserError if nobody is logged in, and RunError if uploads failed; the others are made.
    """
    os.environ.setdefault("WANDB_FINISH_TIMEOUT", FINISH_SECONDS)
    check_login()
    uploaded = failed = 0
    with sole_holder(runs / "sync.lock", "waiting for another sync"):
        with errors_in_one_line():
            api = wandb.Api()
        folders = (file.parent for file in sorted(runs.glob(f"*/{WANDB}")))
        trainings = ((str(run), partial(_upload_training, api, run)) for run in folders)
        others = (
            (f"{r.job_type} {r.name}", partial(_upload_result, api, r, group, settings))
            for r in results
        )
        for name, upload in chain(trainings, others):
            try:
                if upload():
                    print(f"{name}: uploaded", flush=True)
                    uploaded += 1
            except PSLDError as error:
                print(f"{name}: not uploaded: {error}", flush=True)
                failed += 1
    if failed:
        raise RunError(f"wandb: uploads that failed: {failed}, see above")
    print(f"{uploaded} runs uploaded; wandb has the trainings in {runs} and the results of {group}")


def _upload_training(api: wandb.Api, run: Path) -> bool:
    """Upload the steps that the server lacks; return False if it has them all."""
    with held_if_free(run / "lock") as held:
        if not held:
            print(f"{run}: left for the next sync, the training is running", flush=True)
            return False
        if not (run / HISTORY).exists():  # It was killed before its first checkpoint.
            return False
        last = TrainingHistory.read(run / HISTORY).entries[-1].step

        def is_whole(server: Run) -> bool:
            return (server.history_keys or {}).get("lastStep", -1) >= last

        def log(online: wandb.Run) -> None:
            log_new_steps(online, run)
            online.finish(0 if is_exported(run) else 1)

        return _upload(api, training_options(run), is_whole, log)


def _upload_result(api: wandb.Api, result: ResultRun, group: str, settings: WandbSettings) -> bool:
    """Upload a result; return False if the server has it."""
    digest = result.digest

    def is_whole(server: Run) -> bool:
        return server.summary_metrics.get(DIGEST) == digest

    def log(online: wandb.Run) -> None:
        images = {name: wandb.Image(image) for name, image in result.images.items()}
        tables = {n: wandb.Table(*t, allow_mixed_types=True) for n, t in result.tables.items()}
        online.log({**result.values, **images, **tables, DIGEST: digest})

    where = {"project": settings.project, "entity": settings.entity, "group": group}
    return _upload(api, {**where, **result.options}, is_whole, log)


def _upload(
    api: wandb.Api,
    options: dict[str, Any],
    is_whole: Callable[[Run], bool],
    log: Callable[[wandb.Run], None],
) -> bool:
    """Upload a run if the server's is not whole, and wait until it is.

    Returns False if it was whole before. Raises RunError if it is not whole in the end.
    """
    entity = options["entity"] or api.default_entity
    path = f"{entity}/{options['project']}/{options['id']}"

    def has_arrived() -> bool:
        api.flush()
        try:
            return is_whole(api.run(path))
        except wandb.errors.CommError:  # There is no such run.
            return False

    if has_arrived():
        return False
    with online_run(**options) as online:
        log(online)
    deadline = time.monotonic() + ARRIVAL_SECONDS
    while not has_arrived():
        if time.monotonic() > deadline:
            raise RunError("the server does not show what it received")
        time.sleep(1)
    return True
