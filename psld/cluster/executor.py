"""Snakemake's executor `psld`: the Slurm plugin's, with what it lacks for runs of weeks.

This is the one file that depends on the inside of snakemake-executor-plugin-slurm 2.8. The plugin
builds the options of sbatch and submits. Here are the states of jobs, Ctrl-C and the command of a
job, because the plugin

- forgets its jobs if the controller does not answer five questions in a row, and waits forever for
  a job that the controller no longer knows. Here Slurm is asked until it answers, and a submission
  is repeated until then, unless the one without an answer has reached Slurm. A job that Slurm has
  forgotten is done if its output is there and new, else it has failed;
- ends up to three minutes after Ctrl-C, and cancels only the jobs on its list. Jobs are missing
  from this list while it asks for states or sbatch runs. Here all jobs of the run are canceled by
  their name, and Snakemake ends at once;
- starts a second Snakemake in each job (the jobstep plugin), and quotes paths so that a shell
  expands `$(…)` and `%` in the name of the working directory. Here a job is one Snakemake, its
  paths are relative, and sbatch reads its command from the standard input.

Snakemake itself ignores `local-cores` on a cluster, and closes its event loop while local jobs
still use it ("Cannot close a running event loop"). Here there are as many local jobs as
`local-cores`, and Snakemake waits for them.
"""

import asyncio
import os
import shlex
import sys
import time
from collections.abc import AsyncGenerator, Callable
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from snakemake_executor_plugin_slurm import Executor as SlurmExecutor
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from psld.cluster import slurm
from psld.cluster.head import record_slurm_name
from psld.cluster.job import RECORDS, RUN
from psld.utils.errors import RunError

T = TypeVar("T")

FAILED = (slurm.FINAL - {"COMPLETED"}) | {"TIMEOUT", slurm.GONE}
"""States of a failed job. After the loss of a node or a preemption, Slurm queues a job again."""
LONGEST_PAUSE = 180
"""Seconds between two questions, at most. A controller forgets a job after some minutes."""
CLOCKS_DIFFER = 60
"""Seconds by which the clock of a file server may be behind this machine's."""


class Executor(SlurmExecutor):
    """Submits Snakemake's jobs to Slurm and waits for their ends."""

    workflow: Any
    logger: Any

    def __post_init__(self) -> None:
        settings = self.workflow.executor_settings
        settings.pass_command_as_script = True
        settings.array_jobs = None
        settings.status_command = None  # The plugin would warn of it; `squeue` is used.
        super().__post_init__()
        self.submitted: set[str] = set()
        self.slurm_logdir = Path(os.path.relpath(self.slurm_logdir))
        resources = self.workflow.resource_settings
        resources.cores = resources.local_cores  # Snakemake starts so many threads for local jobs.

    @cached_property
    def run_folder(self) -> Path | None:
        """The folder of this run; the run's jobs are in Slurm under its name from now on."""
        return record_slurm_name(self.run_uuid)

    # The command of a job.

    def additional_general_args(self) -> Any:
        return "--executor local"

    def get_python_executable(self) -> str:
        return shlex.quote(sys.executable)

    def get_snakefile(self) -> Any:
        return os.path.relpath(self.snakefile)

    @property
    def tmpdir(self) -> str:
        return os.path.relpath(super().tmpdir)

    def get_job_exec_prefix(self, job: Any) -> Any:
        """Return shell that comes before the job's command.

        A job of a killed run that reaches Slurm after the next run has begun must do nothing. The
        job's own Snakemake reads the grids again; they may have changed while it waited.
        """
        jobs = job.jobs if job.is_group() else [job]
        records = ",".join(str(each.params.get("record", "")) for each in jobs)
        prefix = f"unset {RUN} && export {RECORDS}={shlex.quote(records)}"
        if self.run_folder is None:
            return prefix
        return f"test -d {shlex.quote(os.path.relpath(self.run_folder))} && {prefix}"

    # Submission, and the ends of jobs.

    def report_job_submission(self, job_info: Any, register_job: bool = True) -> None:
        job_info.aux.setdefault("submitted", time.time())
        self.submitted.add(job_info.external_jobid)
        super().report_job_submission(job_info, register_job)

    def report_job_error(self, job_info: Any, msg: Any = "", **options: Any) -> None:
        """Report a failed job. If Slurm did not answer its submission, repeat that instead."""
        if job_info.external_jobid is None:
            since = time.time() - slurm.ANSWER_SECONDS
            if self._states() is None:
                return
            if any(sign in msg for sign in slurm.NO_ANSWER):
                self._pause(5)
                self._job_submission_executor.submit(self._submit_again, job_info.job, msg, since)
                return
        super().report_job_error(job_info, msg=msg, **options)

    def _submit_again(self, job: Any, error: str, since: float) -> None:
        """Submit a job again, unless Slurm has it: the answer to sbatch may have been lost.

        Args:
            error: the plugin's, with the call of sbatch.
            since: a time before the first attempt.
        """
        try:
            call = error.partition("sbatch call:")[2].partition("sbatch script:")[0]
            options = dict(pairwise(shlex.split(call)))
            named = partial(slurm.jobs_with_comment, self.run_uuid, options.get("--comment"))
            numbers = self._answer(named)
            if numbers is None:
                return
            if not (new := numbers - self.submitted):
                self.run_job(job)
                return
            number = max(new, key=int)
            log = Path(options["--output"].replace("%j", number))
            self.logger.info(f"Job {job.jobid} had reached Slurm as job {number} (log: {log}).")
            aux = {"slurm_logfile": log, "submitted": since}
            info = SubmittedJobInfo(job, external_jobid=number, aux=aux)
            self._report_job_submission_threadsafe(info)
        except Exception as failure:  # Nobody looks at what this thread raises.
            self._report_job_error_threadsafe(SubmittedJobInfo(job), f"submission: {failure}")

    async def check_active_jobs(self, active_jobs: list[Any]) -> AsyncGenerator[Any, None]:
        """Report the jobs that have ended; yield the others."""
        shortest = self.workflow.executor_settings.init_seconds_before_status_checks
        longer = min(self.next_seconds_between_status_checks + 10, LONGEST_PAUSE)
        self.next_seconds_between_status_checks = longer if active_jobs else shortest
        states = await asyncio.to_thread(self._states) if active_jobs else None
        if states is None:
            return
        for job in active_jobs:
            state = states.get(job.external_jobid, slurm.GONE)
            log = job.aux["slurm_logfile"]
            if state == "COMPLETED" or (state == slurm.GONE and _has_new_output(job)):
                self.report_job_success(job)
                log.unlink(missing_ok=True)
            elif state in FAILED:
                message = f"Slurm job {job.external_jobid} ended as {state}. "
                self.report_job_error(job, msg=message, aux_logs=[str(log)])
            else:
                yield job
                continue
            self.next_seconds_between_status_checks = shortest

    def _states(self) -> dict[str, str] | None:
        """Return the states of all jobs of this run in Slurm, or None, as `_answer`."""
        jobs = self._answer(partial(slurm.jobs_named, self.run_uuid))
        return None if jobs is None else {number: job.state for number, job in jobs.items()}

    def _answer(self, question: Callable[[], T]) -> T | None:
        """Ask Slurm until it answers.

        Return None if Snakemake ends before that. It ends if Slurm does not answer for too long:
        with exit code 1, and its jobs in Slurm go on.
        """

        def ask() -> T:
            if not self.wait:
                raise RunError("Snakemake ends")
            return question()

        try:
            return slurm.until_answered(ask, self.logger.warning, self._pause)
        except RunError as error:
            if self.wait:
                self.wait = False
                self.workflow.scheduler.executor_error_callback(WorkflowError(str(error)))
            return None

    # The end of Snakemake.

    async def sleep(self) -> None:
        await asyncio.to_thread(self._pause, self.next_seconds_between_status_checks)

    def _pause(self, seconds: float) -> None:
        """Wait until the time is over or Snakemake ends."""
        end = time.monotonic() + seconds
        while self.wait and time.monotonic() < end:
            time.sleep(0.2)

    def cancel_jobs(self, active_jobs: list[Any]) -> None:
        """Cancel all jobs of this run, after the calls of sbatch that are under way."""
        self.wait = False
        self._job_submission_executor.shutdown(wait=True, cancel_futures=True)
        try:
            slurm.cancel_jobs_named(self.run_uuid)
        except slurm.Unreachable as error:
            ends = f"scancel --me --name={self.run_uuid} ends them"
            self.logger.error(f"{error}; the jobs go on: {ends}")

    def shutdown(self) -> None:
        super().shutdown()
        self.workflow.scheduler._local_executor.shutdown()


def _has_new_output(job: Any) -> bool:
    files = [Path(file) for file in job.job.output]
    since = job.aux["submitted"] - CLOCKS_DIFFER
    return all(file.exists() and file.stat().st_mtime >= since for file in files)
