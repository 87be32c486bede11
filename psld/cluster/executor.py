"""A repair of snakemake-executor-plugin-slurm 2.8, which submits Snakemake's jobs.

Snakemake hands a job to the plugin once, when it may start. With array jobs the plugin loses some:

- If more jobs of a rule are ready than a batch holds, it keeps the batch "to wait for more" and
  never submits it. With a limit on jobs in flight, Snakemake then waits forever.
- The command line of an array holds the commands of all its tasks. If it is longer than Linux
  allows, the plugin submits a script in which every task runs the first task's command.
- It numbers the tasks of a large batch beyond the highest index that Slurm allows.

The repair submits each batch at once, in arrays whose commands fit into a command line.

If the controller does not answer five questions in a row, the plugin forgets its jobs, and
Snakemake waits forever; it also waits forever for a job that the controller no longer knows. The
repair asks again until Slurm answers (`psld.cluster.slurm.Patience`), before it submits, too. It
takes a job that Slurm has forgotten as done if its output is there and new, and else as failed.

On Ctrl-C the plugin cancels the jobs on its list, and ends when it would next ask for their states,
up to three minutes later. Jobs are missing from this list while the plugin asks Slurm for states or
sbatch runs. The repair cancels all jobs of the run by their name, and ends at once. It records this
name, for a run that is killed.

Snakemake itself starts a thread each second for every job that has ended, as long as others wait to
be started, and it ignores `local-cores`. The repair has one such thread, and as many local jobs.
"""

import asyncio
import sys
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from psld.cluster.slurm import FINAL, GONE, Patience, Unreachable, cancel_jobs_named, states_named
from psld.cluster.solo import record_slurm_name
from psld.utils.errors import RunError

T = TypeVar("T")

COMMAND_BYTES = 100_000
"""Limit for the commands of an array. Linux allows 128 KiB for one word of a command line."""

FAILED = (FINAL - {"COMPLETED"}) | {"TIMEOUT", GONE}
"""States of a failed job. After the loss of a node or a preemption, Slurm queues a job again."""
LONGEST_PAUSE = 180
"""Seconds between two questions, at most. A controller forgets a job after some minutes."""


def repair_slurm_executor() -> None:
    """Repair the plugin, if Snakemake has loaded it."""
    plugin: Any = sys.modules.get("snakemake_executor_plugin_slurm")
    if plugin is None or plugin.pending_jobs_for_rule is _no_pending_jobs:
        return
    kind = plugin.Executor
    begin, submit = kind.__post_init__, kind._submit_array_jobs
    run_job, run_array_jobs = kind.run_job, kind.run_array_jobs

    def begin_recorded(executor: Any, *arguments: Any, **options: Any) -> None:
        begin(executor, *arguments, **options)
        resources = executor.workflow.resource_settings
        resources.cores = resources.local_cores  # Snakemake starts so many threads for local jobs.
        record_slurm_name(Path(executor.workflow.persistence.path), executor.run_uuid)

    def submit_arrays(executor: Any, jobs: list[Any]) -> None:
        for array in _arrays(executor, jobs):
            submit(executor, array)

    def when_answered(run: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def run_when_answered(executor: Any, jobs: Any) -> None:
            if _states(executor) is not None:
                run(executor, jobs)

        return run_when_answered

    plugin.pending_jobs_for_rule = _no_pending_jobs
    kind.__post_init__ = begin_recorded
    kind._submit_array_jobs = submit_arrays
    kind.run_job = when_answered(run_job)
    kind.run_array_jobs = when_answered(run_array_jobs)
    kind.check_active_jobs = _check_active_jobs
    kind.sleep = _sleep
    kind.cancel_jobs = _cancel_all


def repair_scheduler() -> None:
    """Make Snakemake's scheduler, which looks for jobs each second, start one timer at a time."""
    from snakemake.scheduling.job_scheduler import JobScheduler

    def look_again_once(scheduler: Any, seconds: float) -> None:
        def look_again() -> None:
            scheduler.will_look_again = False
            scheduler._open_jobs.release()

        if not getattr(scheduler, "will_look_again", False):
            scheduler.will_look_again = True
            threading.Timer(seconds, look_again).start()

    JobScheduler._schedule_reevalutation = look_again_once


async def _check_active_jobs(executor: Any, jobs: list[Any]) -> AsyncIterator[Any]:
    """Report the jobs that have ended; yield the others."""
    shortest = executor.workflow.executor_settings.init_seconds_before_status_checks
    executor.next_seconds_between_status_checks = min(
        executor.next_seconds_between_status_checks + 10, LONGEST_PAUSE
    )
    if not jobs:
        executor.next_seconds_between_status_checks = shortest
        return
    for job in jobs:
        job.aux.setdefault("first asked", time.time())
    states = await asyncio.to_thread(_states, executor)
    if states is None:
        return
    for job in jobs:
        state = states.get(job.external_jobid, GONE)
        if state == "COMPLETED" or (state == GONE and _has_new_output(job)):
            executor.report_job_success(job)
            _log(job).unlink(missing_ok=True)
        elif state in FAILED:
            message = f"Slurm job {job.external_jobid} ended as {state}. "
            executor.report_job_error(job, msg=message, aux_logs=[str(_log(job))])
        else:
            yield job
            continue
        executor.next_seconds_between_status_checks = shortest


def _states(executor: Any) -> dict[str, str] | None:
    """Ask Slurm for the states of all jobs of this run until it answers.

    Return None if Snakemake ends before that. It ends if Slurm does not answer for too long.
    """
    patience, complaint = Patience(), ""
    while executor.wait:
        try:
            return states_named(executor.run_uuid)
        except Unreachable as error:
            try:
                patience.spend(error)
            except RunError as final:
                _give_up(executor, str(final))
                return None
            if str(error) != complaint:
                complaint = str(error)
                executor.logger.warning(f"{complaint}; asking again until it answers")
        _pause(executor, 5)
    return None


def _give_up(executor: Any, message: str) -> None:
    """End Snakemake with exit code 1; its jobs in Slurm go on."""
    from snakemake_interface_common.exceptions import WorkflowError

    executor.wait = False
    executor.workflow.scheduler.executor_error_callback(WorkflowError(message))


def _has_new_output(job: Any) -> bool:
    made = [Path(file) for file in job.job.output]
    return all(f.exists() and f.stat().st_mtime >= job.aux["first asked"] for f in made)


def _log(job: Any) -> Path:
    """The file of a job's output in Slurm. For an array, the plugin names a folder too many."""
    log = job.aux["slurm_logfile"]
    return log.parent.parent / log.name if "_" in job.external_jobid else log


async def _sleep(executor: Any) -> None:
    await asyncio.to_thread(_pause, executor, executor.next_seconds_between_status_checks)


def _pause(executor: Any, seconds: float) -> None:
    """Wait until the time is over or Snakemake ends."""
    end = time.monotonic() + seconds
    while executor.wait and time.monotonic() < end:
        time.sleep(0.2)


def _cancel_all(executor: Any, active_jobs: list[Any]) -> None:
    executor.wait = False
    executor._job_submission_executor.shutdown(wait=True, cancel_futures=True)
    name = executor.run_uuid
    try:
        cancel_jobs_named(name)
    except Unreachable as error:
        executor.logger.error(f"{error}; the jobs go on: scancel --me --name={name} ends them")


def _no_pending_jobs(dag: Any, rule_name: str) -> int:
    return 0


def _arrays(executor: Any, jobs: list[Any]) -> Iterator[list[Any]]:
    array: list[Any] = []
    size = 0
    for job in jobs:
        # The plugin compresses a command, writes it as hexadecimal digits in JSON, in base64.
        command = len(zlib.compress(executor.format_job_exec(job).encode(), level=9))
        needed = (2 * command + len('"1000": "", ')) * 4 // 3
        if array and (size + needed > COMMAND_BYTES or len(array) == executor.max_array_size):
            yield array
            array, size = [], 0
        array.append(job)
        size += needed
    yield array
