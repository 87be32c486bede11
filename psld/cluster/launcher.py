"""The launcher: submit one Slurm job, wait for its model, and find the job again after a kill.

The files of a launch are in RUNS/launches/NAME-DIGEST, one folder per output:

    lock                  lock that the waiting launcher holds until its process exits
    launch.json           the run directory of the job; deleted when the job is canceled
    JOB_submission.sh     the script for sbatch, next to the pickle of submitit
    JOB_RANK_log.out/err  the standard output and standard error of a rank

Two outputs may share a run directory, so the launcher also holds launcher.lock in that directory.
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
"""The number of seconds that a job must remain ended before the launcher replaces it, if Slurm may
requeue the job, for example after a node failure."""
FRUITLESS_JOBS = 2
"""The number of consecutive lost jobs that may end without saving a step. A failed job is replaced
only if it has saved a step."""


class Launcher:
    def __init__(self, settings: LaunchSettings, run: Path, output: Path) -> None:
        """
        Args:
            run: the run directory.
            output: the folder to which the model is written.
        """
        self.settings = settings
        self.run = run
        self.output = output
        self.done = export_folder(run) / MANIFEST
        """The file in the run directory that marks the end of the training."""
        digest = digest_of(str(output.resolve()))[:12]
        self.name = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', output.name)}-{digest}"
        """The name of the Slurm jobs of this launch. The launcher finds its jobs by this name."""
        self.folder = run.parent.resolve() / "launches" / self.name
        self.record = self.folder / "launch.json"
        self.job = ""
        """The ID of the latest job; empty until sbatch has answered."""
        self.step = 0
        """The last saved step at the time when the latest job was submitted or found."""
        self.fruitless = 0
        """The number of consecutive jobs that ended without saving a step."""
        self.in_charge = False
        """False while another launcher waits for a job with the same output or run directory."""

    def finish(self) -> None:
        """Wait until `output` exists.

        Raises RunError if the job fails, is canceled or makes no progress. Raises UserError if
        other users may write to the folder of the launch.
        """
        make_private(self.folder)  # The job executes a pickle from this folder.
        with ExitStack() as stack:
            for lock in (self.folder / "lock", self.run / "launcher.lock"):
                waiting = f"launch: waiting for another launcher of the same training ({lock})"
                stack.enter_context(sole_holder(lock, waiting))
            self.in_charge = True
            if self.done.exists():
                if whole_export(self.run):
                    note_replaced(self.run, self.output)
                else:  # Submit a job, which exports the model again from the last checkpoint.
                    say(f"{self.done.parent}: damaged; exporting it again")
                    self.done.unlink()
            self._attach()
            while not self.done.exists():
                state = self._wait()
                if not self._is_done(state):
                    self._replace_job(state)
            publish(self.run, self.output)
            say(f"wrote {self.output}")

    def cancel(self) -> None:
        """Cancel the jobs of the launch without waiting for their end.

        Raises Unreachable if Slurm does not answer.
        """
        slurm.cancel_jobs_named(self.name)
        self.record.unlink(missing_ok=True)

    def _attach(self) -> None:
        """Wait for the job of an earlier launcher if it is still active, or else submit a job."""
        active = self._active_jobs()
        if active and self.record.exists() and read_json(self.record, str) == str(self.run):
            # If the earlier launcher was killed right after sbatch, the job has no pickle yet, and
            # `_take` writes it.
            self._take(active[0])
            say(f"waiting for job {self.job} of an earlier launcher")
            return
        if active:
            say(f"canceling job {', '.join(active)} of an earlier launch, and waiting for its end")
            slurm.retry_until_reachable(self.cancel, say)
            while self._active_jobs():  # Two jobs must not write to one output at the same time.
                time.sleep(1)
        if not self.done.exists():
            write_json(self.record, str(self.run))
            self._submit()

    def _active_jobs(self) -> list[str]:
        return slurm.retry_until_reachable(partial(slurm.active_jobs_named, self.name), say)

    def _submit(self) -> None:
        slurm.retry_until_reachable(self._submit_once, say)
        nodes, ranks = self.settings.nodes, self.settings.ranks_of_slurm_node
        say(f"submitted job {self.job}: {nodes} node(s) with {ranks} rank(s) each")
        say(f"logs: {self.folder}/{self.job}_*")

    def _submit_once(self) -> None:
        """Submit a job, unless Slurm has received an earlier submission without answering it."""
        # Delay signals until sbatch has answered, because only its answer contains the ID of the
        # job, which is needed to cancel the job.
        numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        try:
            active = slurm.active_jobs_named(self.name)
            self._take(active[0] if active else submit(self.settings, self.name, self.folder))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _take(self, job: str) -> None:
        """Set the Slurm job to wait for."""
        ensure_command(self.settings, job, self.folder)
        self.job = job
        self.step = saved_step(self.run)

    def _wait(self) -> str:
        """Print the output of rank 0 until the job ends; return the state of the job."""
        log = self.folder / f"{self.job}_0_log.out"
        position = log.stat().st_size if log.exists() else 0
        last = slurm.SlurmJob("", "")
        since, pause = time.monotonic(), 1.0
        while True:
            jobs = slurm.retry_until_reachable(partial(slurm.jobs_named, self.name), say)
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
        """Check if the job has written its last file.

        After a successful job, wait for some time until the file is visible on this machine.
        """
        deadline = time.monotonic() + (LATE_SECONDS if state == "COMPLETED" else 0)
        while not (is_there := self.done.exists()) and time.monotonic() < deadline:
            time.sleep(1)
        return is_there

    def _replace_job(self, state: str) -> None:
        """Submit the next job after a lost job. Raises RunError if the next job would also fail."""
        job = self.job
        if state == "CANCELLED":
            raise RunError(f"job {job} was canceled; run the same command again to resume")
        if state == "OUT_OF_MEMORY":
            raise RunError(f"job {job} ran out of memory; request more memory (mem_mb)")
        if state == "COMPLETED":
            logs = f"logs: {self.folder}/{job}_*"
            raise RunError(f"job {job} ended with exit code 0, but {self.done} is missing; {logs}")
        has_progressed = saved_step(self.run) > self.step
        self.fruitless = 0 if has_progressed else self.fruitless + 1
        for log in sorted(self.folder.glob(f"{job}_*_log.err")):
            text = "\n".join(log.read_text(errors="replace").splitlines()[-100:])
            if "rror" in text:
                print(f"--- {log}\n{text}\n---", flush=True)
        if self.fruitless > (0 if state == "FAILED" else FRUITLESS_JOBS):
            raise RunError(
                f"job {job} ended as {state} without saving a checkpoint ({self.run / STEP} is "
                f"unchanged); see the output above and {self.folder}/{job}_*"
            )
        say(f"job {job} was lost ({state}); the next job resumes from the last checkpoint")
        self._submit()


def submit(settings: LaunchSettings, name: str, folder: Path) -> str:
    """Submit one job with all ranks, and return its ID. The script and logs are in `folder`.

    Raises:
        UserError: Slurm rejects the options or the path of `folder`.
        Unreachable: the controller does not answer, but it may have accepted the job.
    """
    # Deferred: the import of submitit is slow, and a launch without Slurm does not need it.
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError

    if set("%\\\n\r") & set(str(folder)):
        raise UserError(
            f"launch: {str(folder)!r}: Slurm cannot write logs to a path with %, a backslash or a "
            "line break; set runs to another folder"
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
    """Write the pickle that the ranks of a job wait for, if it is missing.

    submitit writes the pickle only after the answer of sbatch. The pickle is missing if sbatch did
    not answer, or if the launcher was killed before the answer.
    """
    from submitit.core.utils import DelayedSubmission, JobPaths

    pickled = JobPaths(folder, job).submitted_pickle
    if not pickled.exists():
        DelayedSubmission(run_rank, settings.command).dump(pickled)


def run_here(settings: LaunchSettings, batch_size: int) -> NoReturn:
    """Replace this process by the command, or by torchrun with one process per rank.

    By default, there is one rank per visible GPU. The batch size must be divisible by the number of
    ranks, so some GPUs may remain unused. The number of threads is unchanged. For several ranks,
    this function waits until other processes have released enough GPUs. A single rank chooses its
    GPU itself.
    """
    if settings.nodes > 1:
        raise UserError(
            f"launch: nodes={settings.nodes} needs Slurm; on this machine, use nodes=1 and set "
            "tasks_per_node"
        )
    if settings.detach:
        raise UserError(
            "launch: detach=true needs Slurm; on this machine, the training ends with the launcher"
        )
    gpus = visible_gpus()
    equal = next(n for n in range(len(gpus) or 1, 0, -1) if batch_size % n == 0)
    ranks = settings.tasks_per_node or equal
    if not settings.tasks_per_node and equal < len(gpus):
        say(f"using {equal} of {len(gpus)} GPUs, because a batch has {batch_size} images")
    if 1 < ranks <= len(gpus):
        taken = take_gpus(list(gpus.values()), ranks, past_exec=True)
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(list(gpus)[i] for i in taken)
    # When ranks are stopped, give them as much time to save as before a time limit. The default of
    # torchrun is 30 seconds. Older versions of torch ignore this variable.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(settings.warning_seconds))
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    command = [*(torchrun if ranks > 1 else ()), "psld", *settings.command]
    sys.stdout.flush()
    with slurm.environment_without(slurm.SURROUNDING):
        os.execv(sys.executable, [sys.executable, "-m", *command])


def print_added(path: Path, position: int) -> int:
    """Print the part of a file after a position, and return the position of the end."""
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
