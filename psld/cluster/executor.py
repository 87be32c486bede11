"""Snakemake's jobs on Slurm: a mend of snakemake-executor-plugin-slurm 2.8.

Snakemake hands an executor the jobs that may start now, and each of them once. With array jobs the
plugin does three things with them that cost jobs:

- It sets a batch aside "to wait for more" when more jobs of its rule are ready than the batch
  holds, and never comes back to it. Where a limit on jobs in flight cuts a batch short, Snakemake
  waits for ever for jobs that nobody submitted.
- A job's command line holds the commands of its whole array. Where it is longer than Linux takes,
  the plugin submits a script, in which every task runs the first job's command.
- It numbers the tasks of a large batch through, beyond the highest index that Slurm takes.

Here a batch is submitted as it comes, in arrays whose commands fit into a command line.

At Ctrl-C the plugin cancels the jobs on its list. While it asks Slurm for their states, the list is
empty, and what sbatch is about to submit is not on it yet: such jobs would run on. Here all jobs of
the run are cancelled, by their name. The run's record keeps that name, for a run that is killed.
"""

import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from psld.cluster.slurm import Unreachable, cancel_jobs_named
from psld.cluster.solo import note_slurm_name

COMMAND_BYTES = 100_000
"""What the tasks' commands may take of the 128 KiB that Linux allows one word of a command line."""


def mend_slurm_executor() -> None:
    """Mend the plugin, where Snakemake has loaded it."""
    plugin: Any = sys.modules.get("snakemake_executor_plugin_slurm")
    if plugin is None or plugin.pending_jobs_for_rule is _none_to_wait_for:
        return
    submit = plugin.Executor._submit_array_jobs
    begin = plugin.Executor.__post_init__

    def begin_noted(executor: Any, *arguments: Any, **options: Any) -> None:
        begin(executor, *arguments, **options)
        note_slurm_name(Path(executor.workflow.persistence.path), executor.run_uuid)

    def submit_arrays(executor: Any, jobs: list[Any]) -> None:
        for array in _arrays(executor, jobs):
            submit(executor, array)

    plugin.pending_jobs_for_rule = _none_to_wait_for
    plugin.Executor.__post_init__ = begin_noted
    plugin.Executor._submit_array_jobs = submit_arrays
    plugin.Executor.cancel_jobs = _cancel_all


def _cancel_all(executor: Any, active_jobs: list[Any]) -> None:
    executor._job_submission_executor.shutdown(wait=True, cancel_futures=True)
    try:
        cancel_jobs_named(executor.run_uuid)
    except Unreachable as error:
        name = executor.run_uuid
        executor.logger.error(f"{error}; the jobs go on: scancel --me --name={name} ends them")


def _none_to_wait_for(dag: Any, rule_name: str) -> int:
    return 0


def _arrays(executor: Any, jobs: list[Any]) -> Iterator[list[Any]]:
    array: list[Any] = []
    taken = 0
    for job in jobs:
        # Compressed; as hexadecimal digits, in JSON; and that in base64.
        command = len(zlib.compress(executor.format_job_exec(job).encode(), level=9))
        needed = (2 * command + len('"1000": "", ')) * 4 // 3
        if array and (taken + needed > COMMAND_BYTES or len(array) == executor.max_array_size):
            yield array
            array, taken = [], 0
        array.append(job)
        taken += needed
    yield array
