"""The launcher: submits a training as one Slurm job, waits, and comes back after its own death.

What is known of a launch lies in RUNS/launches/NAME-DIGEST, one folder for each output folder:

    lock                  held by the launcher that waits; ends with it, however it ends
                          (so is the run directory's launcher.lock, where two outputs share a run)
    launch.json           the job that trains
    JOB_submission.sh     what sbatch was given (and submitit's pickle beside it)
    JOB_RANK_log.out/err  what a rank printed
    JOB_RANK_outcome.json how a rank came to an end of its own
"""

import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from psld.cluster import slurm
from psld.cluster.job import RankCommand, read_outcomes
from psld.cluster.lives import FRUITLESS, read_lives
from psld.cluster.relay import Relay, say, tail
from psld.cluster.settings import LaunchSettings
from psld.cluster.submission import ensure_command, submit
from psld.utils.errors import RunError
from psld.utils.files import digest_of, read_json, write_json
from psld.utils.locks import sole_holder

T = TypeVar("T")

SETTLED_SECONDS = 20
"""How long a job must have ended, where Slurm may queue it again: after the loss of a node."""

SHARED_FOLDER_SECONDS = 60
"""How long a file that a node wrote may take to be seen here."""


@dataclass(frozen=True)
class Launch:
    """A launch as launch.json keeps it."""

    name: str
    """The name that its lives note."""
    run: str
    """The run directory, by which changed settings are noticed."""
    job: str = ""
    """The job that trains, the latest of the launch; empty until sbatch has answered."""
    lives: int = 0
    """Lives of the launch that had begun when the job was submitted."""
    stillborn: int = 0
    """Jobs in a row that ended before training began."""
    cancelled: bool = False
    """Whether its user has ended it: its job may take a while to die."""


class Launcher:
    """The launcher of one training."""

    def __init__(
        self,
        settings: LaunchSettings,
        run: Path,
        output: Path,
        is_trained: Callable[[], bool],
        publish: Callable[[], None],
    ) -> None:
        """
        Args:
            run: the training's run directory.
            output: the folder that receives what it makes.
            is_trained: tells if the run directory holds what the training makes.
            publish: copies that to `output`.
        """
        self.settings = settings
        self.run = run
        self.output = output
        self.is_trained = is_trained
        self.publish = publish
        self.name = f"{output.name}-{digest_of(str(output.resolve()))[:12]}"
        """Name of the jobs: this training's and no other's, so they are found by it."""
        self.folder = Path(settings.runs).resolve() / "launches" / self.name
        self.launch: Launch | None = None
        self.in_charge = False
        """Whether no other launcher waits for this training."""

    def train(self) -> None:
        """Return when the training has made its output.

        Raises RunError where the training failed, was cancelled, or gets nowhere.
        """
        with ExitStack() as stack:
            for lock in (self.folder / "lock", self.run / "launcher.lock"):
                waiting = f"launch: another launcher waits for this training ({lock})"
                stack.enter_context(sole_holder(lock, waiting))
            self.in_charge = True
            self._attach()
            while not self.is_trained():
                state = self._wait()
                if not self._succeeded(state):
                    self._explain_failure(state)
                    self._submit_again(state)
            self.publish()
            say(f"{self.output} is there")

    def cancel(self) -> None:
        """End the training's job, whoever waits for it. Raises Unreachable."""
        slurm.cancel_jobs_named(self.name)
        if self.launch:
            self._note(replace(self.launch, cancelled=True))

    def _attach(self) -> None:
        """Come back to the job of an earlier launcher, or submit one where there is none."""
        path = self.folder / "launch.json"
        launch = Launch(**read_json(path)) if path.exists() else None
        active = patiently(lambda: slurm.active_jobs_named(self.name))
        ours = launch and launch.run == str(self.run) and not launch.cancelled
        if ours and active:
            # A launcher that was killed right after sbatch has not noted the job's id.
            self._note(replace(launch, job=active[0]))
            ensure_command(self._command(launch), active[0], self.folder)
            say(f"back to job {active[0]}")
            return
        if active:
            # It must not write over what is trained now.
            why = "was cancelled" if launch and launch.cancelled else "trains with other settings"
            say(f"waiting for the end of job {', '.join(active)}, which {why}")
            patiently(self.cancel)
            while patiently(lambda: slurm.active_jobs_named(self.name)):
                time.sleep(1)
        if not self.is_trained():
            self._submit(Launch(uuid.uuid4().hex, str(self.run)))

    def _submit(self, launch: Launch) -> None:
        self._note(launch)
        job = patiently(lambda: self._submit_once(launch))
        ranks = self.settings.ranks_of_slurm_node
        say(f"submitted job {job}: {self.settings.nodes} node(s) with {ranks} rank(s) each")
        say(f"its logs: {self.folder}/{job}_*")

    def _submit_once(self, launch: Launch) -> str:
        """Submit, unless an attempt that seemed to fail has reached Slurm; note the job."""
        command = self._command(launch)
        with signals_held_back():
            submitted = slurm.active_jobs_named(self.name)
            if submitted:
                job = submitted[0]
            else:
                job = submit(self.settings, command, self.name, self.folder)
            ensure_command(command, job, self.folder)
            self._note(replace(launch, job=job))
        return job

    def _command(self, launch: Launch) -> RankCommand:
        return RankCommand(tuple(self.settings.command), self.folder, launch.name)

    def _wait(self) -> str:
        """The state in which the job has ended; until then pass on what its first rank prints."""
        job = self.launch.job
        relay = Relay(self.folder / f"{job}_0_log.out")
        last, said, since, pause = "", "", time.monotonic(), 1.0
        while True:
            state, reason = patiently(lambda: slurm.state_of(job))
            relay.pass_on()
            if state != last:
                last, since, pause = state, time.monotonic(), 1.0
            if (saying := state.lower() + (reason and f" ({reason})")) != said:
                hint = f"; scontrol release {job} lets it run" if reason in slurm.HELD else ""
                say(f"job {job} is {saying}{hint}")
                said = saying
            settled = state in slurm.FINAL or time.monotonic() - since >= SETTLED_SECONDS
            if state in slurm.ENDED and settled:
                return state
            time.sleep(pause)
            pause = min(pause * 1.3, 15.0)

    def _succeeded(self, state: str) -> bool:
        """Whether the model is there, once what the job's ranks wrote can be seen here."""
        deadline = time.monotonic() + SHARED_FOLDER_SECONDS
        while not self.is_trained():
            outcomes = read_outcomes(self.folder, self.launch.job)
            awaited = outcomes.get(0) == 0 if outcomes else state in ("COMPLETED", "FAILED")
            if not awaited or time.monotonic() > deadline:
                return False
            time.sleep(1)
        return True

    def _explain_failure(self, state: str) -> None:
        """Raise RunError if the job ended in a way that another one would repeat."""
        job = self.launch.job
        if state == "CANCELLED":
            raise RunError(f"job {job} was cancelled; run the same command again to go on")
        if state == "OUT_OF_MEMORY":
            raise RunError(f"job {job} ran out of memory; ask for more (memory_mb)")
        outcomes = read_outcomes(self.folder, job)
        failed = sorted(rank for rank, code in outcomes.items() if code != 0)
        if failed:
            self._show_errors(failed)
            raise RunError(f"job {job} failed on rank {', '.join(map(str, failed))}; see above")

    def _submit_again(self, state: str) -> None:
        """Submit a successor of a job that was lost, unless none of the last ones began to train.

        Whether those that begin bring progress, they find out themselves.
        """
        launch = self.launch
        lives = len(read_lives(self.run, launch.name))
        stillborn = launch.stillborn + 1 if lives == launch.lives else 0
        if stillborn > FRUITLESS:
            self._show_errors([0])
            raise RunError(
                f"job {launch.job} ended as {state}, and training has not begun in {stillborn} "
                f"jobs; see above and {self.folder}/{launch.job}_*"
            )
        if state == "FAILED":
            self._show_errors([0])  # srun says there which rank died of what
        say(f"job {launch.job} was lost ({state}); the next one goes on from the last checkpoint")
        self._submit(replace(launch, job="", lives=lives, stillborn=stillborn))

    def _show_errors(self, ranks: list[int]) -> None:
        for rank in ranks:
            path = self.folder / f"{self.launch.job}_{rank}_log.err"
            print(f"--- {path}\n{tail(path)}\n---", flush=True)

    def _note(self, launch: Launch) -> None:
        write_json(self.folder / "launch.json", asdict(launch))
        self.launch = launch


@contextmanager
def signals_held_back() -> Iterator[None]:
    """A launcher that leaves between sbatch and its answer would not know what it leaves."""
    numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def patiently(ask: Callable[[], T]) -> T:
    """Ask Slurm, again and again while its controller does not answer."""
    complaint = ""
    while True:
        try:
            return ask()
        except slurm.Unreachable as error:
            if str(error) != complaint:
                complaint = str(error)
                say(f"{complaint}; asking again until it answers")
            time.sleep(5)
