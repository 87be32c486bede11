"""Snakemake's executor `psld`, which extends the Slurm plugin for workflows that run for weeks.

Only this file depends on internals of snakemake-executor-plugin-slurm 2.8. The plugin builds the
options of sbatch and submits jobs. This executor replaces the plugin's queries of job states, its
reaction to Ctrl-C, and the command of a job, for the following reasons:

- The plugin loses its jobs if five queries in a row fail, and waits forever for a job that the
  controller no longer knows. This executor repeats a query until Slurm answers. It also repeats an
  unanswered submission, unless the submission has reached Slurm. A job that Slurm no longer knows
  counts as successful if its output is new, and as failed otherwise.
- The plugin exits up to three minutes after Ctrl-C, and cancels only the jobs on its list. During a
  query and during sbatch, jobs are missing from the list. This executor cancels all jobs of the run
  by name, and Snakemake exits at once.
- The plugin starts a second Snakemake in each job (the jobstep plugin). It quotes paths in such a
  way that a shell expands `$(…)` and `%` in the name of the working directory. This executor starts
  one Snakemake per job, uses relative paths, and passes the command to sbatch on standard input.

On a cluster, Snakemake itself ignores `local-cores`. It also closes its event loop while local jobs
still use it ("Cannot close a running event loop"). This executor runs as many local jobs as
`local-cores` allows, and waits until they end.
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
"""States of a failed job. They do not include a node failure and a preemption, after which Slurm
requeues the job."""
LONGEST_PAUSE = 180
"""The longest interval between two queries, in seconds. The controller forgets an ended job after a
few minutes."""
CLOCKS_DIFFER = 60
"""The number of seconds by which the clock of a file server may be behind the local clock."""


class Executor(SlurmExecutor):
    """Submits the jobs of Snakemake to Slurm and waits until they end."""

    workflow: Any
    logger: Any

    def __post_init__(self) -> None:
        settings = self.workflow.executor_settings
        settings.pass_command_as_script = True
        settings.array_jobs = None
        settings.status_command = (
            None  # This executor uses squeue. For other values, the plugin prints a warning.
        )
        super().__post_init__()
        self.submitted: set[str] = set()
        self.slurm_logdir = Path(os.path.relpath(self.slurm_logdir))
        resources = self.workflow.resource_settings
        resources.cores = resources.local_cores  # the number of threads for local jobs

    @cached_property
    def run_folder(self) -> Path | None:
        """The folder of this run. The first access records the name of the Slurm jobs in it."""
        return record_slurm_name(self.run_uuid)

    # -- the command of a job

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
        """Return the shell code that precedes the command of a job.

        If this run was killed and the next run has begun, the code ends the job at its start. It
        also passes the digests of the planned records to the job, because the Snakemake in the job
        reads the grids again, and the grids may have changed since the submission.
        """
        jobs = job.jobs if job.is_group() else [job]
        records = ",".join(str(each.params.get("record", "")) for each in jobs)
        prefix = f"unset {RUN} && export {RECORDS}={shlex.quote(records)}"
        if self.run_folder is None:
            return prefix
        return f"test -d {shlex.quote(os.path.relpath(self.run_folder))} && {prefix}"

    # -- submission and job states

    def report_job_submission(self, job_info: Any, register_job: bool = True) -> None:
        job_info.aux.setdefault("submitted", time.time())
        self.submitted.add(job_info.external_jobid)
        super().report_job_submission(job_info, register_job)

    def report_job_error(self, job_info: Any, msg: Any = "", **options: Any) -> None:
        """Report a failed job. Repeat a submission instead if Slurm did not answer it."""
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
        """Submit a job again, unless Slurm has received the first submission without answering it.

        Args:
            error: the error text of the plugin, which contains the call of sbatch.
            since: a time before the first attempt.
        """
        try:
            call = error.partition("sbatch call:")[2].partition("sbatch script:")[0]
            options = dict(pairwise(shlex.split(call)))
            named = partial(slurm.jobs_with_comment, self.run_uuid, options.get("--comment"))
            numbers = self._query(named)
            if numbers is None:
                return
            if not (new := numbers - self.submitted):
                self.run_job(job)
                return
            number = max(new, key=int)
            log = Path(options["--output"].replace("%j", number))
            self.logger.info(
                f"Job {job.jobid} was already submitted to Slurm as job {number} (log: {log})."
            )
            aux = {"slurm_logfile": log, "submitted": since}
            info = SubmittedJobInfo(job, external_jobid=number, aux=aux)
            self._report_job_submission_threadsafe(info)
        except Exception as failure:  # Report it, because nobody sees exceptions of this thread.
            self._report_job_error_threadsafe(SubmittedJobInfo(job), f"submission: {failure}")

    async def check_active_jobs(self, active_jobs: list[Any]) -> AsyncGenerator[Any, None]:
        """Report the jobs that have ended, and yield all other jobs."""
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
        """Return the states of all Slurm jobs of this run; None if Snakemake exits first."""
        jobs = self._query(partial(slurm.jobs_named, self.run_uuid))
        return None if jobs is None else {number: job.state for number, job in jobs.items()}

    def _query(self, question: Callable[[], T]) -> T | None:
        """Query Slurm until it answers. Returns None if Snakemake exits before the answer.

        If Slurm does not answer for too long, Snakemake exits with code 1. Its Slurm jobs continue.
        """

        def ask() -> T:
            if not self.wait:
                raise RunError("Snakemake exits")
            return question()

        try:
            return slurm.retry_until_reachable(ask, self.logger.warning, self._pause)
        except RunError as error:
            if self.wait:
                self.wait = False
                self.workflow.scheduler.executor_error_callback(WorkflowError(str(error)))
            return None

    # -- the end of Snakemake

    async def sleep(self) -> None:
        await asyncio.to_thread(self._pause, self.next_seconds_between_status_checks)

    def _pause(self, seconds: float) -> None:
        """Wait for this time, or until Snakemake exits."""
        end = time.monotonic() + seconds
        while self.wait and time.monotonic() < end:
            time.sleep(0.2)

    def cancel_jobs(self, active_jobs: list[Any]) -> None:
        """Cancel all jobs of this run, after running calls of sbatch have finished."""
        self.wait = False
        self._job_submission_executor.shutdown(wait=True, cancel_futures=True)
        try:
            slurm.cancel_jobs_named(self.run_uuid)
        except slurm.Unreachable as error:
            remedy = f"cancel them with scancel --me --name={self.run_uuid}"
            self.logger.error(f"{error}; the jobs continue; {remedy}")

    def shutdown(self) -> None:
        super().shutdown()
        self.workflow.scheduler._local_executor.shutdown()


def _has_new_output(job: Any) -> bool:
    files = [Path(file) for file in job.job.output]
    since = job.aux["submitted"] - CLOCKS_DIFFER
    return all(file.exists() and file.stat().st_mtime >= since for file in files)
