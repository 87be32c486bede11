"""The launcher: submit a training as one Slurm job, wait for it, and find it again after a kill.

The files of a launch are in RUNS/launches/NAME-DIGEST, one folder per output folder:

    lock                  held by the waiting launcher, until its process ends in any way; so is
                          launcher.lock in the run directory, which two outputs may share
    launch.json           the job that trains
    JOB_submission.sh     sbatch's script; submitit's pickle is next to it
    JOB_RANK_log.out/err  a rank's output
    JOB_RANK_outcome.json the exit code of a rank that ended by itself
"""

import signal
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from psld.cluster import slurm
from psld.cluster.job import RankCommand, ensure_command, read_outcomes, submit
from psld.cluster.requeue import FRUITLESS_LIVES, read_lives
from psld.cluster.settings import LaunchSettings
from psld.config.settings import Settings, read_record, write_record
from psld.training.manifest import is_exported, publish
from psld.utils.errors import RunError
from psld.utils.files import LATE_SECONDS, digest_of, make_private
from psld.utils.locks import sole_holder

T = TypeVar("T")

SETTLED_SECONDS = 20
"""Seconds that a job must have ended, if Slurm may requeue it: after the loss of a node."""


class Launch(Settings):
    """A launch, as launch.json keeps it."""

    name: str
    """The name under which lives.json records its lives."""
    run: str
    """The run directory. It differs if the settings of the training have changed."""
    job: str = ""
    """The launch's latest job; empty until sbatch has answered."""
    canceled: bool = False
    """The user has canceled it; its job may take a while to end."""


class Launcher:
    """The launcher of one training."""

    def __init__(self, settings: LaunchSettings, run: Path, output: Path) -> None:
        """`run` is the training's run directory; `output` receives the model."""
        self.settings = settings
        self.run = run
        self.output = output
        self.name = f"{output.name}-{digest_of(str(output.resolve()))[:12]}"
        """The name of this training's jobs, by which they are found."""
        self.folder = Path(settings.runs).resolve() / "launches" / self.name
        self.launch: Launch | None = None
        self.lives = 0
        """Lives of the launch that had begun when its last job was submitted."""
        self.jobs_without_start = 0
        """Jobs in a row that ended before training began."""
        self.in_charge = False
        """False while another launcher waits for this training."""

    def train(self) -> None:
        """Return when `output` holds the model.

        Raises RunError if the training fails, is canceled, or makes no progress, and UserError if
        other users may change the launch's folder.
        """
        make_private(self.folder)  # Its pickles are run.
        with ExitStack() as stack:
            for lock in (self.folder / "lock", self.run / "launcher.lock"):
                waiting = f"launch: another launcher waits for this training ({lock})"
                stack.enter_context(sole_holder(lock, waiting))
            self.in_charge = True
            self._attach()
            while not is_exported(self.run):
                state = self._wait()
                if not self._succeeded(state):
                    self._replace_job(state)
            publish(self.run, self.output)
            say(f"{self.output} is there")

    def cancel(self) -> None:
        """Cancel the training's jobs. Raises Unreachable."""
        slurm.cancel_jobs_named(self.name)
        if self.launch:
            self._update(canceled=True)

    def _attach(self) -> None:
        """Return to the job of an earlier launcher, or submit one."""
        path = self.folder / "launch.json"
        wrong = f"{path}: not the record of a launch; delete it"
        launch = read_record(Launch, path, wrong) if path.exists() else None
        active = until_answered(lambda: slurm.active_jobs_named(self.name))
        if active and launch and launch.run == str(self.run) and not launch.canceled:
            # A launcher that was killed right after sbatch has not recorded the job.
            self.launch = launch
            self._update(job=active[0])
            ensure_command(self._command(), active[0], self.folder)
            say(f"back to job {active[0]}")
            return
        if active:
            # That job must not write to the same output.
            why = "was canceled" if launch and launch.canceled else "trains with other settings"
            say(f"waiting for the end of job {', '.join(active)}, which {why}")
            until_answered(self.cancel)
            while until_answered(lambda: slurm.active_jobs_named(self.name)):
                time.sleep(1)
        if not is_exported(self.run):
            self.launch = Launch(name=uuid.uuid4().hex, run=str(self.run))
            self._submit()

    def _submit(self) -> None:
        """Submit a job of the launch."""
        self._update(job="")
        self.lives = len(read_lives(self.run, self.launch.name))
        job = until_answered(self._submit_once)
        ranks = self.settings.ranks_of_slurm_node
        say(f"submitted job {job}: {self.settings.nodes} node(s) with {ranks} rank(s) each")
        say(f"its logs: {self.folder}/{job}_*")

    def _submit_once(self) -> str:
        """Submit, unless an earlier attempt has reached Slurm without an answer."""
        command = self._command()
        # Delay signals until sbatch has answered: only its answer names the job to cancel.
        numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        try:
            active = slurm.active_jobs_named(self.name)
            job = active[0] if active else submit(self.settings, command, self.name, self.folder)
            ensure_command(command, job, self.folder)
            self._update(job=job)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return job

    def _command(self) -> RankCommand:
        return RankCommand(tuple(self.settings.command), self.folder, self.launch.name)

    def _wait(self) -> str:
        """Print the first rank's output until the job has ended; return the job's state."""
        job = self.launch.job
        log = self.folder / f"{job}_0_log.out"
        position = log.stat().st_size if log.exists() else 0
        last, said, since, pause = "", "", time.monotonic(), 1.0
        while True:
            state, reason = until_answered(lambda: slurm.state_of(job))
            position = print_added(log, position)
            if state != last:
                last, since, pause = state, time.monotonic(), 1.0
            description = state.lower() + (reason and f" ({reason})")
            if description != said:
                hint = f"; scontrol release {job} lets it run" if reason in slurm.HELD else ""
                say(f"job {job} is {description}{hint}")
                said = description
            settled = state in slurm.FINAL or time.monotonic() - since >= SETTLED_SECONDS
            if state in slurm.ENDED and settled:
                return state
            time.sleep(pause)
            pause = min(pause * 1.3, 15.0)

    def _succeeded(self, state: str) -> bool:
        """Check if the model is there, after the ranks' files had time to appear here."""
        deadline = time.monotonic() + LATE_SECONDS
        while not is_exported(self.run):
            outcomes = read_outcomes(self.folder, self.launch.job)
            expected = outcomes.get(0) == 0 if outcomes else state in ("COMPLETED", "FAILED")
            if not expected or time.monotonic() > deadline:
                return False
            time.sleep(1)
        return True

    def _replace_job(self, state: str) -> None:
        """Submit the next job. Raises RunError if it would fail too, or if no job begins to train.

        Jobs that begin to train check their own progress.
        """
        job = self.launch.job
        if state == "CANCELLED":
            raise RunError(f"job {job} was canceled; run the same command again to go on")
        if state == "OUT_OF_MEMORY":
            raise RunError(f"job {job} ran out of memory; ask for more (memory_mb)")
        outcomes = read_outcomes(self.folder, job)
        failed = sorted(rank for rank, code in outcomes.items() if code != 0)
        if failed:
            self._show_errors(failed)
            raise RunError(f"job {job} failed on rank {', '.join(map(str, failed))}; see above")
        has_begun = len(read_lives(self.run, self.launch.name)) > self.lives
        self.jobs_without_start = 0 if has_begun else self.jobs_without_start + 1
        if self.jobs_without_start > FRUITLESS_LIVES:
            self._show_errors([0])
            raise RunError(
                f"job {job} ended as {state}, and training has not begun in "
                f"{self.jobs_without_start} jobs; see above and {self.folder}/{job}_*"
            )
        if state == "FAILED":
            self._show_errors([0])  # srun's message about the dead rank is there
        say(f"job {job} was lost ({state}); the next one goes on from the last checkpoint")
        self._submit()

    def _show_errors(self, ranks: list[int]) -> None:
        for rank in ranks:
            path = self.folder / f"{self.launch.job}_{rank}_log.err"
            print(f"--- {path}\n{tail(path)}\n---", flush=True)

    def _update(self, **changes: Any) -> None:
        self.launch = self.launch.model_copy(update=changes)
        write_record(self.folder / "launch.json", self.launch)


def print_added(path: Path, position: int) -> int:
    """Print what was added to a file after this position; return the new position."""
    if not path.exists():
        return position
    with path.open("rb") as stream:
        stream.seek(position)
        added = stream.read()
    if added:
        print(added.decode(errors="replace"), end="", flush=True)
    return position + len(added)


def tail(path: Path, lines: int = 200) -> str:
    """The last lines of a file, or `(not written)`."""
    if not path.exists():
        return "(not written)"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def say(text: str) -> None:
    print(f"launch: {text}", flush=True)


def until_answered(ask: Callable[[], T]) -> T:
    """Ask Slurm, and repeat it while the controller does not answer. Raises RunError."""
    patience = slurm.Patience()
    while True:
        try:
            return ask()
        except slurm.Unreachable as error:
            if patience.spend(error):
                say(f"{error}; asking again until it answers")
            time.sleep(5)
