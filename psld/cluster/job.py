"""The ranks of a training: started as one Slurm job or on this machine, and their exit codes."""

import os
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from psld.cluster.faults import is_transient
from psld.cluster.requeue import LAUNCH, requeue_when_warned
from psld.cluster.settings import LaunchSettings
from psld.cluster.slurm import INHERITED, NO_ANSWER, Unreachable, clean_environment
from psld.config.settings import Settings
from psld.utils.errors import UserError
from psld.utils.files import read_json, write_json
from psld.utils.gpus import take_gpus, visible_gpus

FIRST_SIGNAL = 128
"""Exit codes from here on mean that a signal ended the rank; it did not fail."""


class Outcome(Settings):
    """The end of a rank that was not killed, as the rank writes it to a file."""

    exit_code: int


@dataclass(frozen=True)
class RankCommand:
    """Run `psld COMMAND ARGUMENT …` as one rank of a job.

    A rank that ends by itself writes its exit code. A rank writes nothing if it was killed, or if
    its GPU or the exchange with another rank failed. So the launcher can tell a failed training,
    which would fail again, from an interrupted one.
    """

    words: tuple[str, ...]
    """The command and its overrides."""
    folder: Path
    launch: str

    def __call__(self) -> None:
        # submitit is slow to import; a training on this machine does without it.
        from submitit import JobEnvironment

        requeue_when_warned()
        os.environ[LAUNCH] = self.launch
        # Without core binding, ranks that each use all cores are very slow.
        os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        job = JobEnvironment()
        outcome = outcome_file(self.folder, job.raw_job_id, job.global_rank)
        outcome.unlink(missing_ok=True)  # of an earlier life
        sys.argv = ["psld", *self.words]
        try:
            runpy.run_module("psld", run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            if code < FIRST_SIGNAL:
                write_json(outcome, {"exit_code": code})
            raise
        except Exception as error:
            if not is_transient(error):
                write_json(outcome, {"exit_code": 1})
            raise
        write_json(outcome, {"exit_code": 0})


def outcome_file(folder: Path, job: str, rank: int) -> Path:
    return folder / f"{job}_{rank}_outcome.json"


def read_outcomes(folder: Path, job: str) -> dict[int, int]:
    """The exit code of each rank that ended by itself."""
    files = {int(file.name.split("_")[1]): file for file in folder.glob(f"{job}_*_outcome.json")}
    return {rank: read_json(file, Outcome).exit_code for rank, file in files.items()}


def submit(settings: LaunchSettings, command: RankCommand, name: str, folder: Path) -> str:
    """Submit one job of all ranks and return its id. `folder` gets its script, logs and pickle.

    Raises:
        UserError: Slurm refuses the options, or the path of `folder`.
        Unreachable: the controller does not answer; it may have taken the job.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError

    if set("%\\\n\r") & set(str(folder)):
        raise UserError(
            f"launch: {str(folder)!r}: Slurm writes no logs to a path with %, a backslash or a "
            "line break; name another folder (runs=…)"
        )
    executor = SlurmExecutor(folder)
    executor.update_parameters(job_name=name, **options(settings))
    try:
        with clean_environment(*INHERITED):
            return executor.submit(command).job_id
    except FailedJobError as error:
        answer = " ".join(str(error).split())
        if any(sign in answer for sign in NO_ANSWER):
            raise Unreachable(answer) from None
        given = " ".join(f"{name}={value}" for name, value in options(settings).items())
        raise UserError(f"launch: {answer}; the options were {given}") from None


def ensure_command(command: RankCommand, job: str, folder: Path) -> None:
    """Write the pickle that the job's ranks wait for, if submitit did not.

    submitit writes it after sbatch has answered. If there was no answer, or the launcher was
    killed before it, the file is missing.
    """
    from submitit.core.utils import DelayedSubmission, JobPaths

    pickled = JobPaths(folder, job).submitted_pickle
    if not pickled.exists():
        DelayedSubmission(command).dump(pickled)


def options(settings: LaunchSettings) -> dict[str, Any]:
    """The options of sbatch, in submitit's names."""
    names = ("partition", "account", "qos", "constraint", "exclude", "gpus_per_node", "gres")
    optional = {name: getattr(settings, name) for name in names}
    optional["mem"] = settings.memory_mb and f"{settings.memory_mb}M"
    return {
        "time": settings.minutes,
        "nodes": settings.nodes,
        "ntasks_per_node": settings.ranks_of_slurm_node,
        "cpus_per_task": settings.cpus_per_rank,
        "signal_delay_s": settings.warning_seconds,
        "srun_args": [
            "--kill-on-bad-exit=1",  # A dead rank ends the others; they would wait for it.
            "--wait=0",  # No limit (WaitTime) for the first rank, which exports the model last.
            # Since Slurm 22.05 srun does not take this from sbatch.
            f"--cpus-per-task={settings.cpus_per_rank}",
        ],
        "additional_parameters": {"requeue": True, **settings.additional_options},
        **{name: value for name, value in optional.items() if value is not None},
    }


def run_here(settings: LaunchSettings) -> NoReturn:
    """Replace this process by the training, or by torchrun with one process per rank.

    It keeps the GPUs and the number of threads that this process was given. Several ranks wait for
    GPUs that other trainings, or samplings, on this machine use.
    """
    if settings.nodes > 1:
        raise UserError(
            f"launch: nodes={settings.nodes} needs Slurm; on this machine use nodes=1 "
            "with ranks_per_node"
        )
    gpus = visible_gpus()
    ranks = settings.ranks_per_node or len(gpus) or 1
    if 1 < ranks <= len(gpus):
        # A single rank chooses a GPU itself.
        taken = take_gpus(list(gpus.values()), ranks, past_exec=True)
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(list(gpus)[i] for i in taken)
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    command = [*(torchrun if ranks > 1 else ()), "psld", *settings.command]
    sys.stdout.flush()
    with clean_environment():
        os.execv(sys.executable, [sys.executable, "-m", *command])
