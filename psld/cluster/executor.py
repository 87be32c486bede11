"""A repair of snakemake-executor-plugin-slurm 2.8, which submits Snakemake's jobs.

Of the plugin there remain its settings and the options of sbatch. Submission, the states of jobs
and Ctrl-C are here, because the plugin:

- loses jobs of arrays: it keeps a batch "to wait for more" jobs and never submits it. If the
  commands of an array are longer than a command line, every task runs the first task's command;
- lets a shell expand `$(…)` in the name of the working directory, and leaves Python's path without
  quotes. Here paths are relative, and sbatch reads a script with all commands of an array from its
  standard input;
- forgets its jobs if the controller does not answer five questions in a row, and waits forever for
  a job that the controller no longer knows. Here it asks again until Slurm answers
  (`psld.cluster.slurm.Patience`), before it submits, too. A job that Slurm has forgotten is done if
  its output is there and new, and else it has failed;
- ends up to three minutes after Ctrl-C, and cancels only the jobs on its list. Jobs are missing
  from this list while it asks Slurm for states or sbatch runs. Here all jobs of the run are
  canceled by their name, and Snakemake ends at once. The name is recorded for a killed run.

Snakemake itself starts a thread each second for every job that has ended, as long as others wait to
be started, and it ignores `local-cores`. The repair has one such thread, and as many local jobs. On
a cluster, Snakemake does not wait for local jobs before it closes their event loops, which is an
error ("Cannot close a running event loop"). The repair waits.
"""

import asyncio
import itertools
import operator
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from psld.cluster.slurm import FINAL, GONE, Patience, Unreachable, cancel_jobs_named, states_named
from psld.cluster.solo import record_slurm_name
from psld.utils.errors import RunError

FAILED = (FINAL - {"COMPLETED"}) | {"TIMEOUT", GONE}
"""States of a failed job. After the loss of a node or a preemption, Slurm queues a job again."""
LONGEST_PAUSE = 180
"""Seconds between two questions, at most. A controller forgets a job after some minutes."""
CLOCKS_DIFFER = 60
"""Seconds by which the clock of a file server may be behind this machine's."""


def repair_slurm_executor() -> None:
    """Repair the plugin, if Snakemake has loaded it."""
    plugin: Any = sys.modules.get("snakemake_executor_plugin_slurm")
    if plugin is None or plugin.Executor.run_jobs is _run_jobs:
        return
    kind = plugin.Executor
    begin, shutdown = kind.__post_init__, kind.shutdown

    def begin_recorded(executor: Any, *arguments: Any, **options: Any) -> None:
        begin(executor, *arguments, **options)
        resources = executor.workflow.resource_settings
        resources.cores = resources.local_cores  # Snakemake starts so many threads for local jobs.
        record_slurm_name(Path(executor.workflow.persistence.path), executor.run_uuid)

    def shutdown_after_local_jobs(executor: Any) -> None:
        shutdown(executor)
        executor.workflow.scheduler._local_executor.shutdown()

    kind.__post_init__ = begin_recorded
    kind.shutdown = shutdown_after_local_jobs
    kind.run_jobs = _run_jobs
    kind.check_active_jobs = _check_active_jobs
    kind.sleep = _sleep
    kind.cancel_jobs = _cancel_all
    kind.tmpdir = property(_temporary_folder)
    # The jobs of the plugin start a second Snakemake, with the other plugin.
    for each in (kind, sys.modules["snakemake_executor_plugin_slurm_jobstep"].Executor):
        each.get_python_executable = lambda executor: shlex.quote(sys.executable)
        each.get_snakefile = lambda executor: os.path.relpath(executor.snakefile)


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


def _run_jobs(executor: Any, jobs: list[Any]) -> None:
    """Submit jobs that can start: those of a rule in `slurm-array-jobs` as arrays."""
    name_of = operator.attrgetter("name")  # of a job's rule, or of its group
    for name, group in itertools.groupby(sorted(jobs, key=name_of), key=name_of):
        same = list(group)
        as_array = {name, "all"} & executor.array_jobs and not same[0].is_group()
        size = executor.max_array_size if as_array else 1
        for start in range(0, len(same), size):
            batch = same[start : start + size]
            for job in batch:
                executor.run_job_pre(job)
            executor._job_submission_executor.submit(_submit, executor, batch)


def _temporary_folder(executor: Any) -> str:
    if executor._tmpdir is None:
        executor._tmpdir = tempfile.mkdtemp(dir=".snakemake", prefix="tmp.")
    return os.path.relpath(executor._tmpdir)


def _submit(executor: Any, jobs: list[Any]) -> None:
    """Submit jobs of one rule together when the controller answers, and report the outcome.

    The jobs of a rule have the same resources.
    """
    from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

    if _states(executor) is None:
        return
    try:
        number = _call_sbatch(executor, jobs)
    except Exception as error:  # Snakemake would wait forever for a job of which it hears nothing.
        for job in jobs:
            executor.report_job_error(SubmittedJobInfo(job), msg=f"not submitted: {error}. ")
        return
    for index, job in enumerate(jobs, 1):
        name = f"{number}_{index}" if len(jobs) > 1 else number
        aux = {"slurm_logfile": _logs(executor, job) / f"{name}.log"}
        executor.report_job_submission(SubmittedJobInfo(job, external_jobid=name, aux=aux))
    executor.logger.info(f"Slurm job {number}: {len(jobs)} job(s) of rule {jobs[0].name}.")


def _call_sbatch(executor: Any, jobs: list[Any]) -> str:
    """Return the number of the job or array. Raises RunError if sbatch refuses it."""
    from snakemake_executor_plugin_slurm import submit_string, utils, validation

    logs = _logs(executor, jobs[0])
    logs.mkdir(parents=True, exist_ok=True)
    array = len(jobs) > 1
    validation.validate_slurm_extra(jobs[0])
    parameters = {
        "run_uuid": executor.run_uuid,
        "slurm_logfile": logs / ("%A_%a.log" if array else "%j.log"),
        "comment_str": jobs[0].name,
        "account": next(executor.get_account_arg(jobs[0])),
        "partition": executor.get_partition_arg(jobs[0]),
        "workdir": executor.workflow.workdir_init,
    }
    settings = executor.workflow.executor_settings
    call = submit_string.get_submit_command(jobs[0], parameters, settings=settings)
    call += utils.set_gres_string(jobs[0]) + (f" --array=1-{len(jobs)}" if array else "")
    script = _script([executor.format_job_exec(job) for job in jobs])
    done = subprocess.run(call, shell=True, input=script, capture_output=True, text=True)
    if done.returncode:
        raise RunError(" ".join(done.stderr.split()))
    return validation.validate_or_get_slurm_job_id(done.stdout.strip().split(";")[0], done.stdout)


def _logs(executor: Any, job: Any) -> Path:
    """The folder of a job's output. It is relative: sbatch would expand `%` in a path."""
    return Path(os.path.relpath(executor.slurm_logdir), job.name)


def _script(commands: list[str]) -> str:
    """Return a shell script that runs the command of a job, or of its part of an array."""
    if len(commands) == 1:
        return f"#!/bin/sh\n{commands[0]}\n"
    cases = "".join(f"{index})\n{command}\n;;\n" for index, command in enumerate(commands, 1))
    return f'#!/bin/sh\ncase "$SLURM_ARRAY_TASK_ID" in\n{cases}esac\n'


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
            job.aux["slurm_logfile"].unlink(missing_ok=True)
        elif state in FAILED:
            message = f"Slurm job {job.external_jobid} ended as {state}. "
            executor.report_job_error(job, msg=message, aux_logs=[str(job.aux["slurm_logfile"])])
        else:
            yield job
            continue
        executor.next_seconds_between_status_checks = shortest


def _states(executor: Any) -> dict[str, str] | None:
    """Ask Slurm for the states of all jobs of this run until it answers.

    Return None if Snakemake ends before that. It ends if Slurm does not answer for too long.
    """
    patience = Patience()
    while executor.wait:
        try:
            return states_named(executor.run_uuid)
        except Unreachable as error:
            try:
                is_new = patience.spend(error)
            except RunError as final:
                _give_up(executor, str(final))
                return None
            if is_new:
                executor.logger.warning(f"{error}; asking again until it answers")
        _pause(executor, 5)
    return None


def _give_up(executor: Any, message: str) -> None:
    """End Snakemake with exit code 1; its jobs in Slurm go on."""
    from snakemake_interface_common.exceptions import WorkflowError

    executor.wait = False
    executor.workflow.scheduler.executor_error_callback(WorkflowError(message))


def _has_new_output(job: Any) -> bool:
    made = [Path(file) for file in job.job.output]
    since = job.aux["first asked"] - CLOCKS_DIFFER
    return all(f.exists() and f.stat().st_mtime >= since for f in made)


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
