"""What a training reports to wandb: one run a training, however often it is resumed."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from psld.training.settings import RunSettings
from psld.training.state import History
from psld.training.wandb_runs import last_logged_step, start_run, training_id
from psld.utils.errors import UserError


class WandbLog:
    """The log of the leading rank.

    The run's id lies in the run directory, so a resumed training continues its run; the grid is
    the group and the stage the job type. It is told of steps when a checkpoint holds them, and
    first of those that a killed life did not get to disk: each step is reported once.

    wandb writes in a process of its own. Should that die alone, or not come up when the training is
    resumed, the training goes on without it, and its next life reports what is missing.
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

        Raises UserError where nobody is logged in. At step 0 also what keeps wandb from coming up,
        or from reading what an earlier life wrote: in most cases RunError.
        """
        self.look = look
        self.lost = False
        self.looked: dict[int, dict[str, Any]] = {}
        self.reported = step
        try:
            logged = last_logged_step(run_folder)
            # Without files, what was logged is uploaded and cleaned away (wandb clean).
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
        except Exception as error:  # Of its process wandb raises what its libraries do.
            if step == 0:
                raise
            self._lose(f"wandb did not come up ({error or type(error).__name__})")

    def __enter__(self) -> "WandbLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._tell(lambda: self.run.finish(exit_code=0 if kind is None else 1))

    def preview(self, step: int, network: nn.Module) -> None:
        # wandb listens to imports, and a look may import something.
        self._tell(lambda: self.looked.update({step: self.look(network)}))

    def saved(self, history: History) -> None:
        known = {int(entry["step"]): entry for entry in history}
        for step in sorted(known.keys() | self.looked):
            looked = self.looked.pop(step, {})
            if step > self.reported:
                values = {key: value for key, value in known.get(step, {}).items() if key != "step"}
                self._tell(partial(self._report, step, {**values, **looked}))
                self.reported = step

    def _report(self, step: int, values: dict[str, Any]) -> None:
        self.run.log(values, step=step)

    def _tell(self, send: Callable[[], None]) -> None:
        if self.lost:
            return
        try:
            send()
        except ConnectionError as error:
            self._lose(f"wandb: lost its process ({error})")

    def _lose(self, why: str) -> None:
        self.lost = True
        print(f"{why}; the training goes on without", flush=True)
