"""A repair of snakemake-executor-plugin-slurm 2.8, which submits Snakemake's jobs.

Snakemake hands a job to the plugin once, when it may start. With array jobs the plugin loses some:

- If more jobs of a rule are ready than a batch holds, it keeps the batch "to wait for more" and
  never submits it. With a limit on jobs in flight, Snakemake then waits forever.
- The command line of an array holds the commands of all its tasks. If it is longer than Linux
  allows, the plugin submits a script in which every task runs the first task's command.
- It numbers the tasks of a large batch beyond the highest index that Slurm allows.

The repair submits each batch at once, in arrays whose commands fit into a command line.

On Ctrl-C the plugin cancels the jobs on its list. Jobs are missing from this list while the plugin
asks Slurm for states or sbatch runs. The repair cancels all jobs of the run by their name. It
records this name, for a run that is killed.
"""

import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from psld.cluster.slurm import Unreachable, cancel_jobs_named
from psld.cluster.solo import record_slurm_name

COMMAND_BYTES = 100_000
"""Limit for the commands of an array. Linux allows 128 KiB for one word of a command line."""


def repair_slurm_executor() -> None:
    """Repair the plugin, if Snakemake has loaded it."""
    plugin: Any = sys.modules.get("snakemake_executor_plugin_slurm")
    if plugin is None or plugin.pending_jobs_for_rule is _no_pending_jobs:
        return
    submit = plugin.Executor._submit_array_jobs
    begin = plugin.Executor.__post_init__

    def begin_recorded(executor: Any, *arguments: Any, **options: Any) -> None:
        begin(executor, *arguments, **options)
        record_slurm_name(Path(executor.workflow.persistence.path), executor.run_uuid)

    def submit_arrays(executor: Any, jobs: list[Any]) -> None:
        for array in _arrays(executor, jobs):
            submit(executor, array)

    plugin.pending_jobs_for_rule = _no_pending_jobs
    plugin.Executor.__post_init__ = begin_recorded
    plugin.Executor._submit_array_jobs = submit_arrays
    plugin.Executor.cancel_jobs = _cancel_all


def _cancel_all(executor: Any, active_jobs: list[Any]) -> None:
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
