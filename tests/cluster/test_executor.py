"""The fix of Snakemake's Slurm plugin, tested on the plugin's own code without submission."""

import contextlib
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import snakemake_executor_plugin_slurm as plugin
import snakemake_executor_plugin_slurm_jobstep as jobstep
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from psld.cluster import executor as repaired
from psld.cluster.executor import repair_scheduler, repair_slurm_executor
from tests.cluster.commands import Commands

AWKWARD = 'it\'s $(touch expanded) `touch expanded` "$HOME"; touch expanded & \\ *\nzwei Zeilen ü'
"""What a user may call a folder; a shell must not read it."""


class Submitted:
    """An executor of the plugin that submits to a stand-in for sbatch."""

    run_uuid = "run-1"
    array_jobs = frozenset({"sample"})
    max_array_size = 500
    run_jobs = repaired._run_jobs

    def __init__(self, folder: Path) -> None:
        self.wait = True
        self.slurm_logdir = folder / "logs"
        settings = SimpleNamespace(requeue=True, no_requeue=False, qos=None, reservation=None)
        self.workflow = SimpleNamespace(executor_settings=settings, workdir_init=folder)
        self.logger = SimpleNamespace(info=lambda text: None, warning=lambda text: None)
        self.reported: list[tuple[int, str]] = []
        self.failed: list[str] = []
        # Submission in a thread of its own, as in the plugin, would hide its errors.
        self._job_submission_executor = SimpleNamespace(submit=lambda do, *given: do(*given))

    def run_job_pre(self, job: SimpleNamespace) -> None:
        """Print the job."""

    def get_account_arg(self, job: SimpleNamespace) -> Iterator[str]:
        yield ""

    def get_partition_arg(self, job: SimpleNamespace) -> str:
        return ""

    def format_job_exec(self, job: SimpleNamespace) -> str:
        words = ["printf", "%s|", str(job.number), AWKWARD]
        return shlex.join(words)

    def report_job_submission(self, info: SubmittedJobInfo) -> None:
        self.reported.append((info.job.number, info.external_jobid))

    def report_job_error(self, info: SubmittedJobInfo, msg: str) -> None:
        self.failed.append(msg)


def ready(count: int, name: str = "sample") -> list[SimpleNamespace]:
    resources = Resources(runtime=1, mem_mb=1)
    return [
        SimpleNamespace(name=name, number=n, resources=resources, threads=1, is_group=lambda: False)
        for n in range(count)
    ]


class Resources(dict):
    """The resources of a job: a mapping with attributes."""

    __getattr__ = dict.get


@pytest.fixture
def sbatch(slurm: Commands, tmp_path, monkeypatch) -> Commands:
    """An sbatch that keeps the script, in a working directory with an awkward name."""
    folder = tmp_path / AWKWARD
    folder.mkdir()
    monkeypatch.chdir(folder)
    slurm.answer("sbatch", "7", first=f"/bin/cat > {tmp_path}/script")
    slurm.answer("squeue")
    return slurm


def calls_of_sbatch(sbatch: Commands) -> list[str]:
    """The name of the working directory has two lines."""
    lines = "\n".join(sbatch.calls("sbatch"))
    return [call for call in lines.split("--parsable") if call]


def test_jobs_of_an_array_rule_are_submitted_together(sbatch):
    submitted = Submitted(Path.cwd())
    submitted.run_jobs([*ready(1200), *ready(2, "evaluate")])
    arrays = [re.findall(r"--array=\S+", call) for call in calls_of_sbatch(sbatch)]
    assert arrays == [[], [], ["--array=1-500"], ["--array=1-500"], ["--array=1-200"]]
    assert [number for number, _ in submitted.reported] == [0, 1, *range(1200)]
    assert submitted.reported[1:4] == [(1, "7"), (0, "7_1"), (1, "7_2")]


@pytest.mark.parametrize("count", [1, 3])
def test_a_shell_runs_the_command_of_a_job_and_sees_no_name_unquoted(sbatch, tmp_path, count):
    submitted = Submitted(Path.cwd())
    submitted.run_jobs(ready(count))
    for index, (number, _) in enumerate(submitted.reported, 1):
        done = subprocess.run(
            ["/bin/sh", tmp_path / "script"],
            env={"SLURM_ARRAY_TASK_ID": str(index)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == f"{number}|{AWKWARD}|"
    calls = (sbatch.folder / "sbatch.calls").read_text()
    assert calls.rstrip("\n").endswith(f"-D {Path.cwd()}" + (" --array=1-3" if count > 1 else ""))
    assert "--output logs/sample/" in calls, "relative, because sbatch expands %"
    assert list(tmp_path.rglob("expanded")) == []


def test_a_job_that_sbatch_refuses_is_reported(sbatch):
    sbatch.answer("sbatch", stderr="sbatch: error: invalid partition\n", exit_code=1)
    submitted = Submitted(Path.cwd())
    submitted.run_jobs(ready(2))
    assert submitted.failed == ["not submitted: sbatch: error: invalid partition. "] * 2
    assert submitted.reported == []


def test_nothing_is_submitted_before_the_controller_answers(sbatch, monkeypatch):
    """Not even after that, if Snakemake has ended meanwhile."""
    sbatch.answer("squeue", stderr="Socket timed out", exit_code=1)
    monkeypatch.setattr(repaired, "_pause", lambda executor, seconds: sbatch.answer("squeue"))
    submitted = Submitted(Path.cwd())
    submitted.run_jobs(ready(1))
    assert submitted.reported == [(0, "7")]
    submitted.wait = False
    submitted.run_jobs(ready(1))
    assert len(calls_of_sbatch(sbatch)) == 1


def test_the_commands_of_both_plugins_have_quoted_and_relative_paths(repaired_plugin, tmp_path):
    executor = SimpleNamespace(snakefile=Path.cwd() / "Snakefile", _tmpdir=None)
    for kind in (plugin.Executor, jobstep.Executor):
        assert kind.get_snakefile(executor) == "Snakefile"
        assert shlex.split(kind.get_python_executable(executor)) == [sys.executable]
    (tmp_path / ".snakemake").mkdir()
    with contextlib.chdir(tmp_path):
        assert plugin.Executor.tmpdir.fget(executor).startswith(".snakemake/tmp.")


@pytest.mark.usefixtures("repaired_plugin")
def test_as_many_local_jobs_run_at_once_as_the_profile_says(tmp_path):
    """Snakemake has a thread for each core of this machine, and five more."""
    resources = SimpleNamespace(cores=2, local_cores=512)
    persistence = SimpleNamespace(path=tmp_path)
    workflow = SimpleNamespace(resource_settings=resources, persistence=persistence)
    plugin.Executor.__post_init__(SimpleNamespace(workflow=workflow, run_uuid="run-1"))
    assert resources.cores == 512


REPLACED = (
    *("__post_init__", "run_jobs", "check_active_jobs", "sleep", "cancel_jobs", "tmpdir"),
    *("shutdown", "get_python_executable", "get_snakefile"),
)


@pytest.fixture
def repaired_plugin(monkeypatch) -> None:
    """A plugin that was repaired twice, as by a Snakefile that is read again."""
    for name in REPLACED:
        monkeypatch.setattr(plugin.Executor, name, getattr(plugin.Executor, name))
    monkeypatch.setattr(plugin.Executor, "__post_init__", lambda executor: None)
    for name in REPLACED[-2:]:
        monkeypatch.setattr(jobstep.Executor, name, getattr(jobstep.Executor, name))
    repair_slurm_executor()
    repair_slurm_executor()


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.usefixtures("repaired_plugin")
def test_ctrl_c_cancels_what_is_not_on_the_list_of_active_jobs(slurm: Commands, answers):
    """The list is empty while the plugin asks for their states; sbatch may be under way."""
    if not answers:
        slurm.answer("scancel", stderr="Socket timed out", exit_code=1)
    complaints: list[str] = []
    with ThreadPoolExecutor(1) as submissions:
        submissions.submit(subprocess.run, "/bin/sleep 0.5; sbatch", shell=True)
        plugin.Executor.cancel_jobs(
            SimpleNamespace(
                _job_submission_executor=submissions,
                run_uuid="run-1",
                logger=SimpleNamespace(error=complaints.append),
            ),
            [],
        )
        assert len(slurm.calls("sbatch")) == 1
        assert slurm.calls("scancel") == ["--me --name=run-1"]
    assert complaints == (
        [] if answers else ["Socket timed out; the jobs go on: scancel --me --name=run-1 ends them"]
    )


def test_the_scheduler_has_one_timer(monkeypatch):
    from snakemake.scheduling.job_scheduler import JobScheduler

    name = "_schedule_reevalutation"
    monkeypatch.setattr(JobScheduler, name, getattr(JobScheduler, name))
    repair_scheduler()
    scheduler = SimpleNamespace(_open_jobs=threading.Semaphore(0))
    before = threading.active_count()
    for _ in range(100):
        JobScheduler._schedule_reevalutation(scheduler, 0.2)
    assert threading.active_count() == before + 1
    assert scheduler._open_jobs.acquire(timeout=10)
    JobScheduler._schedule_reevalutation(scheduler, 0)
    assert scheduler._open_jobs.acquire(timeout=10), "it can look again"
    assert not scheduler._open_jobs.acquire(blocking=False)
