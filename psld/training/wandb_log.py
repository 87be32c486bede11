"""A training's log in wandb: one run per training, however often it is resumed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from psld.training.loop import Log
from psld.training.settings import RunSettings
from psld.training.state import History
from psld.training.wandb_runs import last_logged_step, start_run, training_id
from psld.utils.errors import UserError


def unless_lost(method: Callable[..., None]) -> Callable[..., None]:
    """Skip the method if wandb's process is lost, and notice if it is lost now."""

    def call(log: "WandbLog", *arguments: Any) -> None:
        if not log.lost:
            try:
                method(log, *arguments)
            except ConnectionError as error:
                log.lose(f"wandb: lost its process ({error})")

    return call


class WandbLog(Log):
    """The log of the leading rank.

    The grid is the group of the run, the command its job type. A step is reported when a
    checkpoint holds it. A resumed training first reports the steps that wandb lost in a kill, so
    each step is reported once.

    wandb writes in its own process. If this process dies, or does not start when the training is
    resumed, the training goes on without it, and the next resume reports what is missing.
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
            step: the step at which the training starts or resumes.
            look: makes a preview of the averaged network.

        Raises UserError if nobody is logged in; at step 0, all other errors of wandb too.
        """
        self.look = look
        self.lost = False
        self.previews: dict[int, dict[str, Any]] = {}
        self.reported = step
        try:
            logged = last_logged_step(run_folder)
            # Without files, what was logged has been uploaded and removed (wandb clean).
            self.reported = step if logged is None else logged
            self.run = start_run(
                settings.wandb,
                run_folder,
                id=training_id(run_folder),
                name=settings.name,
                group=settings.grid_name,
                job_type=stage,
                resume="allow",
                config=settings.model().model_dump(mode="json"),
            )
        except UserError:
            raise
        except Exception as error:  # wandb passes on the errors of its libraries
            if step == 0:
                raise
            self.lose(f"wandb did not start ({error or type(error).__name__})")

    def __enter__(self) -> "WandbLog":
        return self

    @unless_lost
    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.run.finish(exit_code=0 if kind is None else 1)

    @unless_lost
    def preview(self, step: int, network: nn.Module) -> None:
        # wandb watches imports, so an import in a preview may raise ConnectionError.
        self.previews[step] = self.look(network)

    @unless_lost
    def saved(self, history: History) -> None:
        entries = {int(entry["step"]): entry for entry in history}
        for step in sorted(entries.keys() | self.previews):
            values = {**entries.get(step, {}), **self.previews.pop(step, {})}
            values.pop("step", None)
            if step > self.reported:
                self.run.log(values, step=step)
                self.reported = step

    def lose(self, why: str) -> None:
        self.lost = True
        print(f"{why}; the training goes on without", flush=True)
