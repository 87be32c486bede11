"""Submitting a training through submitit: what sbatch is asked for."""

from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.core.utils import DelayedSubmission, FailedJobError, JobPaths

from psld.cluster.job import RankCommand
from psld.cluster.settings import LaunchSettings
from psld.cluster.slurm import NO_ANSWER, OF_A_JOB, OF_A_RULE, Unreachable, clean_environment
from psld.utils.errors import UserError


def submit(settings: LaunchSettings, command: RankCommand, name: str, folder: Path) -> str:
    """Submit one job of all ranks; its id. Its script, logs and pickle lie in `folder`.

    Raises:
        UserError: Slurm refuses the options.
        Unreachable: its controller does not answer; the job may have been submitted.
    """
    executor = SlurmExecutor(folder)
    executor.update_parameters(job_name=name, **options(settings))
    try:
        with clean_environment(*OF_A_JOB, *OF_A_RULE):
            return executor.submit(command).job_id
    except FailedJobError as error:
        answer = " ".join(str(error).split())
        if any(sign in answer for sign in NO_ANSWER):
            raise Unreachable(answer) from None
        given = " ".join(f"{name}={value}" for name, value in options(settings).items())
        raise UserError(f"launch: {answer}; it was asked for {given}") from None


def ensure_command(command: RankCommand, job: str, folder: Path) -> None:
    """Put the pickle where the job's ranks look for it.

    submitit does so after sbatch has answered. A job whose sbatch did not, or whose launcher was
    killed before, would wait for it in vain.
    """
    pickled = JobPaths(folder, job).submitted_pickle
    if not pickled.exists():
        DelayedSubmission(command).dump(pickled)


def options(settings: LaunchSettings) -> dict[str, Any]:
    """The options of sbatch, in submitit's names."""
    given = {
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "exclude": settings.exclude,
        "gpus_per_node": settings.gpus_per_node,
        "gres": settings.gres,
        "mem": settings.memory_mb and f"{settings.memory_mb}M",
    }
    return {
        "time": settings.minutes,
        "nodes": settings.nodes,
        "ntasks_per_node": settings.ranks_of_slurm_node,
        "cpus_per_task": settings.cpus_per_rank,
        "signal_delay_s": settings.warning_seconds,
        # A rank that dies takes the others along instead of letting them wait for it. Since Slurm
        # 22.05 srun does not know by itself how many cores sbatch was given for a task. The first
        # rank ends last, since it exports the model: some sites would kill it for that (WaitTime).
        "srun_args": [
            "--kill-on-bad-exit=1",
            "--wait=0",
            f"--cpus-per-task={settings.cpus_per_rank}",
        ],
        "additional_parameters": {"requeue": True, **settings.additional_options},
        **{name: value for name, value in given.items() if value is not None},
    }
