"""The launcher: submit one Slurm job, wait for what it makes, and find it again after a kill.

The files of a launch are in RUNS/launches/NAME-DIGEST, one folder per output:

    lock                  held by the waiting launcher, until its process ends in any way; so is
                          launcher.lock in the run directory, which two outputs may share
    launch.json           the run directory of the job, until it is canceled
    JOB_submission.sh     sbatch's script; submitit's pickle is next to it
    JOB_RANK_log.out/err  a rank's output
"""

import os
import re
import signal
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NoReturn

from psld.cluster import slurm
from psld.cluster.job import run_rank
from psld.cluster.settings import LaunchSettings
from psld.models.manifest import MANIFEST
from psld.training.files import export_folder, note_replaced, publish, whole_export
from psld.utils.errors import RunError, UserError
from psld.utils.files import (
    LATE_SECONDS,
    STEP,
    digest_of,
    make_private,
    read_json,
    saved_step,
    write_json,
)
from psld.utils.locks import sole_holder, take_gpus, visible_gpus

SETTLED_SECONDS = 20
"""Seconds that a job must have ended, if Slurm may requeue it: after the loss of a node."""
FRUITLESS_JOBS = 2
"""Lost jobs in a row that may save nothing. A job that fails must have saved a step."""


class Launcher:
    def __init__(self, settings: LaunchSettings, run: Path, output: Path) -> None:
        """`run` is the run directory; `output` receives the model."""
        self.settings = settings
        self.run = run
        self.output = output
        self.done = export_folder(run) / MANIFEST
        """The file that is there at the end of the training, in its run directory."""
        digest = digest_of(str(output.resolve()))[:12]
        self.name = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', output.name)}-{digest}"
        """The name of this launch's jobs, by which they are found."""
        self.folder = run.parent.resolve() / "launches" / self.name
        self.record = self.folder / "launch.json"
        self.job = ""
        """The number of the latest job; empty until sbatch has answered."""
        self.step = 0
        """The steps that were saved when that job was submitted or found."""
        self.fruitless = 0
        """Jobs in a row that have saved nothing."""
        self.in_charge = False
        """False while another launcher waits for the same."""

    def finish(self) -> None:
        """Return when `output` is there.

        Raises RunError if the job fails, is canceled, or makes no progress, and UserError if other
        users may change the launch's folder.
        """
        make_private(self.folder)  # The job runs a pickle in it.
        with ExitStack() as stack:
            for lock in (self.folder / "lock", self.run / "launcher.lock"):
                waiting = f"launch: another launcher waits for the same ({lock})"
                stack.enter_context(sole_holder(lock, waiting))
            self.in_charge = True
            if self.done.exists():
                if whole_export(self.run):
                    note_replaced(self.run, self.output)
                else:  # A job will export it again from the last checkpoint.
                    say(f"{self.done.parent}: damaged; it is made again")
                    self.done.unlink()
            self._attach()
            while not self.done.exists():
                state = self._wait()
                if not self._is_done(state):
                    self._replace_job(state)
            publish(self.run, self.output)
            say(f"{self.output} is there")

    def cancel(self) -> None:
        """Cancel the launch's jobs, which may take a while to end. Raises Unreachable."""
        slurm.cancel_jobs_named(self.name)
        self.record.unlink(missing_ok=True)

    def _attach(self) -> None:
        """Return to the job of an earlier launcher, or submit one."""
        active = self._active_jobs()
        if active and self.record.exists() and read_json(self.record, str) == str(self.run):
            # A launcher that was killed right after sbatch has not written the job's command.
            self._take(active[0])
            say(f"back to job {self.job}")
            return
        if active:
            say(f"waiting for the end of job {', '.join(active)}: canceled, or of other settings")
            slurm.until_answered(self.cancel, say)
            while self._active_jobs():  # They must not write to the same output.
                time.sleep(1)
        if not self.done.exists():
            write_json(self.record, str(self.run))
            self._submit()

    def _active_jobs(self) -> list[str]:
        return slurm.until_answered(partial(slurm.active_jobs_named, self.name), say)

    def _submit(self) -> None:
        slurm.until_answered(self._submit_once, say)
        nodes, ranks = self.settings.nodes, self.settings.ranks_of_slurm_node
        say(f"submitted job {self.job}: {nodes} node(s) with {ranks} rank(s) each")
        say(f"its logs: {self.folder}/{self.job}_*")

    def _submit_once(self) -> None:
        """Submit, unless an earlier attempt has reached Slurm without an answer."""
        # Delay signals until sbatch has answered: only its answer names the job to cancel.
        numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        try:
            active = slurm.active_jobs_named(self.name)
            self._take(active[0] if active else submit(self.settings, self.name, self.folder))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _take(self, job: str) -> None:
        """Make a job in Slurm the one that is waited for."""
        ensure_command(self.settings, job, self.folder)
        self.job = job
        self.step = saved_step(self.run)

    def _wait(self) -> str:
        """Print the first rank's output until the job has ended; return the job's state."""
        log = self.folder / f"{self.job}_0_log.out"
        position = log.stat().st_size if log.exists() else 0
        last = slurm.SlurmJob("", "")
        since, pause = time.monotonic(), 1.0
        while True:
            jobs = slurm.until_answered(partial(slurm.jobs_named, self.name), say)
            job = jobs.get(self.job, slurm.SlurmJob(slurm.GONE, ""))
            position = print_added(log, position)
            if job.state != last.state:
                since, pause = time.monotonic(), 1.0
            if job != last:
                say(f"job {self.job} is {job}")
                last = job
            settled = job.state in slurm.FINAL or time.monotonic() - since >= SETTLED_SECONDS
            if job.state in slurm.ENDED and settled:
                return job.state
            time.sleep(pause)
            pause = min(pause * 1.3, 15.0)

    def _is_done(self, state: str) -> bool:
        """Check if the last file is there, after it had time to appear here."""
        deadline = time.monotonic() + (LATE_SECONDS if state == "COMPLETED" else 0)
        while not (is_there := self.done.exists()) and time.monotonic() < deadline:
            time.sleep(1)
        return is_there

    def _replace_job(self, state: str) -> None:
        """Submit the next job. Raises RunError if it would fail, too."""
        job = self.job
        if state == "CANCELLED":
            raise RunError(f"job {job} was canceled; run the same command again to go on")
        if state == "OUT_OF_MEMORY":
            raise RunError(f"job {job} ran out of memory; ask for more (mem_mb)")
        if state == "COMPLETED":
            logs = f"its logs: {self.folder}/{job}_*"
            raise RunError(f"job {job} ended with exit code 0, but without {self.done}; {logs}")
        has_progressed = saved_step(self.run) > self.step
        self.fruitless = 0 if has_progressed else self.fruitless + 1
        for log in sorted(self.folder.glob(f"{job}_*_log.err")):
            text = "\n".join(log.read_text(errors="replace").splitlines()[-100:])
            if "rror" in text:
                print(f"--- {log}\n{text}\n---", flush=True)
        if self.fruitless > (0 if state == "FAILED" else FRUITLESS_JOBS):
            raise RunError(
                f"job {job} ended as {state} and has saved no checkpoint ({self.run / STEP} has "
                f"not grown); see above and {self.folder}/{job}_*"
            )
        say(f"job {job} was lost ({state}); the next one goes on from the last checkpoint")
        self._submit()


def submit(settings: LaunchSettings, name: str, folder: Path) -> str:
    """Submit one job of all ranks and return its number. `folder` gets its script and logs.

    Raises:
        UserError: Slurm refuses the options, or the path of `folder`.
        Unreachable: the controller does not answer; it may have taken the job.
    """
    # submitit is slow to import; a launch on this machine does without it.
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError

    if set("%\\\n\r") & set(str(folder)):
        raise UserError(
            f"launch: {str(folder)!r}: Slurm writes no logs to a path with %, a backslash or a "
            "line break; name another folder (runs=…)"
        )
    executor = SlurmExecutor(folder)
    executor.update_parameters(job_name=name, **settings.options())
    try:
        with slurm.environment_without(slurm.INHERITED):
            return executor.submit(run_rank, settings.command).job_id
    except FailedJobError as error:
        answer = " ".join(str(error).split())
        if any(sign in answer for sign in slurm.NO_ANSWER):
            raise slurm.Unreachable(answer) from None
        asked = settings.model_dump(exclude={"command"}, exclude_none=True)
        options = " ".join(f"{key}={value}" for key, value in asked.items())
        raise UserError(f"launch: {answer}; the options were {options}") from None


def ensure_command(settings: LaunchSettings, job: str, folder: Path) -> None:
    """Write the pickle that the job's ranks wait for, if submitit did not.

    submitit writes it after sbatch has answered. If there was no answer, or the launcher was
    killed before it, the file is missing.
    """
    from submitit.core.utils import DelayedSubmission, JobPaths

    pickled = JobPaths(folder, job).submitted_pickle
    if not pickled.exists():
        DelayedSubmission(run_rank, settings.command).dump(pickled)


def run_here(settings: LaunchSettings, batch_size: int) -> NoReturn:
    """Replace this process by the command, or by torchrun with one process per rank.

    It keeps the GPUs and the number of threads that this process was given, or as many of the GPUs
    as share the training's batch equally. Several ranks wait for GPUs that others on this machine
    use; a single rank chooses a GPU itself.
    """
    if settings.nodes > 1:
        raise UserError(
            f"launch: nodes={settings.nodes} needs Slurm; on this machine use nodes=1 "
            "with tasks_per_node"
        )
    if settings.detach:
        raise UserError(
            "launch: detach=true needs Slurm; on this machine the command ends with this"
        )
    gpus = visible_gpus()
    equal = next(n for n in range(len(gpus) or 1, 0, -1) if batch_size % n == 0)
    ranks = settings.tasks_per_node or equal
    if not settings.tasks_per_node and equal < len(gpus):
        say(f"{equal} of {len(gpus)} GPUs train, because they share {batch_size} images equally")
    if 1 < ranks <= len(gpus):
        taken = take_gpus(list(gpus.values()), ranks, past_exec=True)
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(list(gpus)[i] for i in taken)
    # As before a time limit; torchrun would kill ranks after half a minute, and older torch does.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(settings.warning_seconds))
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    command = [*(torchrun if ranks > 1 else ()), "psld", *settings.command]
    sys.stdout.flush()
    with slurm.environment_without(slurm.SURROUNDING):
        os.execv(sys.executable, [sys.executable, "-m", *command])


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


def say(text: str) -> None:
    print(f"launch: {text}", flush=True)
