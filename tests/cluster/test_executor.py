"""Snakemake's executor `psld`: with stand-ins for Slurm's commands, whose sbatch runs the job."""

import asyncio
import inspect
import os
import shlex
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import snakemake_executor_plugin_slurm as plugin
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

from psld.cluster import head
from psld.cluster.executor import Executor
from psld.utils.errors import RunError
from tests.cluster.commands import Commands
from tests.cluster.runs import SNAKEFILE, wait

AWKWARD = 'it\'s $(touch expanded) `touch expanded` "$HOME"; touch expanded & \\ *\nzwei Zeilen ü'
"""What a user may call a folder; a shell must not read it."""

ON_SLURM = (
    *("--executor", "psld", "--jobs", "4", "--psld-init-seconds-before-status-checks", "1"),
    *("--default-resources", "slurm_account=lab", "slurm_partition=cpu", "runtime=1", "mem_mb=1"),
)


@pytest.fixture
def slurm(folder, tmp_path) -> Commands:
    """A cluster that runs jobs at once, or keeps them until scancel if the file `keep` is there."""
    commands = Commands(tmp_path / "bin")
    for command in ("scontrol", "sinfo", "sacctmgr"):
        commands.answer(command)
    commands.answer("sshare", "lab")
    jobs = shlex.quote(str(tmp_path / "jobs"))
    (tmp_path / "jobs").mkdir()
    commands.answer(
        "sbatch",
        first=f"n=$(ls {jobs}/*.sh 2>/dev/null | wc -l); cat > {jobs}/$n.sh\n"
        f"echo $n RUNNING None > {jobs}/$n.state; echo $n; [ ! -e {jobs}/keep ] || exit 0\n"
        f"sh {jobs}/$n.sh > {jobs}/$n.log 2>&1 && state=COMPLETED || state=FAILED\n"
        f"echo $n $state None > {jobs}/$n.state",
    )
    commands.answer("squeue", first=f"cat {jobs}/*.state 2>/dev/null")
    # A job runs on for a second.
    commands.answer("scancel", first=f"(sleep 1; rm -f {jobs}/*.state) >/dev/null 2>&1 &")
    folder.environment["PATH"] = f"{commands.folder}{os.pathsep}{os.environ['PATH']}"
    folder.options = [*ON_SLURM]
    return commands


@pytest.fixture
def keeping(slurm, tmp_path) -> Commands:
    """The same, and jobs only wait."""
    (tmp_path / "jobs/keep").touch()
    return slurm


def test_jobs_run_in_a_folder_of_any_name(slurm, folder, tmp_path):
    folder.path = folder.path.rename(tmp_path / AWKWARD)
    # The grid changes before the job's Snakemake reads it.
    record = "'planned' if workflow.is_main_process else 'edited'"
    folder.job = 'pwd > made; [ "${{PSLD_RUN-}},{params.record},$PSLD_RECORDS" = ,edited,planned ]'
    snakefile = SNAKEFILE.replace('config["job"]', repr(folder.job))
    params = f"rule made:\n    params: record={record}"
    (folder.path / "Snakefile").write_text(snakefile.replace("rule made:", params))
    done = folder.run()
    assert done.returncode == 0, done.stderr
    assert (folder.path / "made").read_text() == f"{folder.path}\n"
    calls = (slurm.folder / "sbatch.calls").read_text()
    assert "--output .snakemake/slurm_logs/" in calls, "relative, because sbatch expands %"
    assert list(tmp_path.rglob("expanded")) == []


def test_as_many_local_jobs_run_at_once_as_the_profile_says(slurm, folder):
    """Each waits for all. Snakemake has a thread for each core of this machine, and five more."""
    count = 5 + os.cpu_count() + 2
    (folder.path / "Snakefile").write_text(
        f"""
rule all:
    input: expand("began/{{i}}", i=range({count}))
    localrule: True

rule wait:
    output: "began/{{i}}"
    localrule: True
    shell: "touch {{output}}; until [ $(ls began | wc -l) = {count} ]; do sleep 0.1; done"
"""
    )
    done = folder.run("--jobs", "50", "--local-cores", "50")
    assert done.returncode == 0, done.stderr


def test_an_interrupt_of_snakemake_alone_ends_its_local_jobs(slurm, folder):
    """From a terminal, Ctrl-C reaches the jobs directly; this one ignores SIGINT."""
    local = SNAKEFILE.replace("rule made:", "rule made:\n    localrule: True")
    (folder.path / "Snakefile").write_text(local)
    with folder.started() as process:
        wait(lambda: folder.pids("began"), process)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 1
    assert folder.names() == ["began", "terminated"]
    assert "Traceback" not in (folder.path / "first.log").read_text(), "it waits for local jobs"


def test_an_interrupt_cancels_jobs_in_slurm_and_does_not_wait(keeping, folder):
    """The plugin alone would end when it asks for their states next."""
    folder.options += ["--psld-init-seconds-before-status-checks", "40"]
    with folder.started() as process:
        wait(lambda: "SLURM jobid 0" in (folder.path / "first.log").read_text(), process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 1
    [scancel] = keeping.calls("scancel")
    assert f"--job-name {scancel.removeprefix('--me --name=')} " in keeping.calls("sbatch")[0]


def test_a_refusal_of_slurm_ends_snakemake_and_leaves_the_jobs(keeping, folder, tmp_path):
    refuses = "{ echo Protocol authentication error >&2; exit 1; }"
    keeping.answer("squeue", first=f"[ ! -e {tmp_path}/jobs/0.sh ] || {refuses}")
    refused = folder.run()
    assert refused.returncode == 1
    assert refused.stderr.count("left as they are") == 1, refused.stderr
    assert "Traceback" not in refused.stderr
    assert keeping.calls("scancel") == []
    [left] = (folder.path / ".snakemake/psld").glob("*/")
    assert head.read_run(left).slurm_name, "the next run cancels them"


def test_jobs_of_a_killed_run_have_left_slurm_before_the_next_writes(
    keeping, folder, tmp_path, monkeypatch
):
    with folder.started() as process:
        wait(lambda: (tmp_path / "jobs/0.state").exists(), process)
        process.kill()
    [left] = (folder.path / ".snakemake/psld").glob("*/")
    name = head.read_run(left).slurm_name
    assert f"--job-name {name} " in keeping.calls("sbatch")[0]
    monkeypatch.setattr(head.shutil, "which", lambda command: None)
    with pytest.raises(RunError, match=f"no squeue .*{left}"):
        head._end_slurm_jobs(left)

    folder.options, folder.job = [], f"[ ! -e {tmp_path}/jobs/0.state ] && touch made"
    again = folder.run()
    assert again.returncode == 0, again.stderr
    assert "canceling what the last run left in Slurm: job 0" in again.stderr
    assert set(keeping.calls("scancel")) == {f"--me --name={name}"}

    late = ["sh", tmp_path / "jobs/0.sh"]
    done = subprocess.run(late, cwd=folder.path, env=folder.environment, capture_output=True)
    assert (done.returncode, done.stderr) == (1, b""), "a job that starts only now does nothing"


# --- the states of jobs ---------------------------------------------------------------------------


class Asking(Executor):
    """An executor that has submitted jobs, and notes what it reports of them."""

    next_seconds_between_status_checks = 20
    tmpdir = ""

    def __init__(self) -> None:
        self.run_uuid = "run-1"
        self.wait = True
        self.reports: dict[str, list[str]] = {}
        settings = SimpleNamespace(init_seconds_before_status_checks=20)
        ends = SimpleNamespace(executor_error_callback=lambda error: self.note("end", str(error)))
        self.workflow = SimpleNamespace(executor_settings=settings, scheduler=ends)
        self.logger = SimpleNamespace(
            warning=lambda text: self.note("warning", text),
            error=lambda text: self.note("error", text),
        )
        self._job_submission_executor = ThreadPoolExecutor(1)

    def note(self, kind: str, text: str) -> None:
        self.reports.setdefault(kind, []).append(text)

    def report_job_success(self, job_info: SimpleNamespace) -> None:
        self.note("success", job_info.external_jobid)

    def print_job_error(self, job_info: SimpleNamespace, msg: str, **_: object) -> None:
        self.note("failure", msg.split()[-1])
        self.workflow.scheduler.error_callback = lambda job: None

    def check(self, *jobs: SimpleNamespace) -> list[str]:
        """The jobs that go on."""

        async def collect() -> list[str]:
            return [job.external_jobid async for job in self.check_active_jobs(list(jobs))]

        return asyncio.run(collect())

    def _pause(self, seconds: float) -> None:
        self.note("pause", "")


def submitted_job(folder: Path, number: str) -> SimpleNamespace:
    log = folder / f"{number}.log"
    job = SimpleNamespace(output=[str(folder / f"output-{number}")])
    return SimpleNamespace(external_jobid=number, job=job, aux={"slurm_logfile": log})


def test_what_becomes_of_jobs(commands: Commands, tmp_path):
    states = {
        "1": "COMPLETED",
        "2": "NODE_FAIL",
        "3": "PREEMPTED",
        "4": "TIMEOUT",
        "5": "CANCELLED",
        "6": "A_STATE_OF_A_LATER_SLURM",
        "7": "PENDING",
    }
    listed = "".join(f"{job} {state} None\\n" for job, state in states.items())
    commands.answer("squeue", first=f"printf '{listed}'")
    log = tmp_path / "1.log"
    log.touch()
    asking = Asking()
    left = asking.check(*(submitted_job(tmp_path, number) for number in states))
    assert left == ["2", "3", "6", "7"]
    assert asking.reports == {"success": ["1"], "failure": ["TIMEOUT.", "CANCELLED."]}
    assert not log.exists(), "that of a successful job"


def test_a_job_that_slurm_has_forgotten_is_done_if_its_output_is_new(
    commands: Commands, tmp_path, monkeypatch
):
    """Its end was forgotten before the first question: the controller did not answer."""
    jobs = [submitted_job(tmp_path, number) for number in ("1", "2", "3")]
    monkeypatch.setattr(plugin.Executor, "report_job_submission", lambda *arguments: None)
    asking, now = Asking(), time.time()
    with monkeypatch.context() as earlier:
        earlier.setattr(time, "time", lambda: now - 1000)
        for job in jobs:
            asking.report_job_submission(job)
    for job, made in zip(jobs, (now - 900, now - 1100), strict=False):
        Path(job.job.output[0]).touch()
        os.utime(job.job.output[0], (made, made))
    commands.answer("squeue")
    assert asking.check(*jobs) == []
    assert asking.reports == {"success": ["1"], "failure": ["GONE.", "GONE."]}


AWAY = "Unable to contact slurm controller (connect failure)"


def answers_at_the_eighth_time(commands: Commands, folder: Path) -> None:
    away = f"echo >> {folder}/asked; [ $(/usr/bin/wc -l < {folder}/asked) -gt 7 ] && "
    commands.answer("squeue", stderr=AWAY, exit_code=1, first=f"{away} {{ echo 1 RUNNING; exit; }}")


def test_no_job_is_forgotten_while_the_controller_is_away(commands: Commands, tmp_path):
    answers_at_the_eighth_time(commands, tmp_path)
    asking = Asking()
    assert asking.check(submitted_job(tmp_path, "1")) == ["1"]
    assert asking.reports["warning"] == [f"{AWAY}; asking again until it answers"]
    assert len(commands.calls("squeue")) == 8


def test_a_submission_without_an_answer_is_repeated(commands: Commands, tmp_path, monkeypatch):
    """The job has not failed; it is submitted when the controller answers."""
    submissions = []

    def submit(asking: Asking, job: object) -> None:
        submissions.append(len(commands.calls("squeue")))
        if len(submissions) == 1:
            error = SimpleNamespace(job=job, external_jobid=None)
            asking.report_job_error(error, msg=f"sbatch: error: {AWAY}")

    monkeypatch.setattr(plugin.Executor, "run_job", submit)
    answers_at_the_eighth_time(commands, tmp_path)
    asking = Asking()
    asking.run_job("job")
    asking._job_submission_executor.shutdown(wait=True)
    assert submissions == [0, 8], "the number of questions before each"
    assert "failure" not in asking.reports


@pytest.mark.parametrize("answers", [True, False])
def test_ctrl_c_cancels_what_is_not_on_the_list_of_active_jobs(commands: Commands, answers):
    """The list is empty while states are asked for; sbatch may be under way."""
    commands.answer("sbatch")
    commands.answer(
        "scancel", stderr="" if answers else "Socket timed out", exit_code=int(not answers)
    )
    asking = Asking()
    asking._job_submission_executor.submit(
        subprocess.run, f"/bin/sleep 0.5; {commands.folder}/sbatch", shell=True
    )
    asking.cancel_jobs([])
    assert len(commands.calls("sbatch")) == 1
    assert commands.calls("scancel") == ["--me --name=run-1"]
    complaint = "Socket timed out; the jobs go on: scancel --me --name=run-1 ends them"
    assert asking.reports.get("error", []) == ([] if answers else [complaint])


# --- the inside of other libraries ----------------------------------------------------------------


def test_snakemake_finds_the_executor():
    assert ExecutorPluginRegistry().get_plugin("psld").executor is Executor


def test_the_plugin_has_what_the_executor_uses():
    """A failure says: the plugin has changed, see psld/cluster/executor.py."""
    changed = "snakemake-executor-plugin-slurm has changed; see psld/cluster/executor.py: "
    begins = inspect.getsource(plugin.Executor.__post_init__)
    for name in ("self.run_uuid = ", "self._job_submission_executor = ThreadPoolExecutor("):
        assert name in begins, f"{changed}__post_init__ does not set {name}"
    assert "self.slurm_logdir = " in begins, f"{changed}where are the logs?"
    submits = inspect.getsource(plugin.Executor.run_job)
    for text in (
        "pass_command_as_script",
        "params.run_uuid",
        "SubmittedJobInfo(job)",
        "_report_job_submission_",
    ):
        source = submits + inspect.getsource(plugin.get_submit_command)
        assert text in source, f"{changed}run_job has no {text}"
    for name in ("get_job_exec_prefix", "get_snakefile", "get_python_executable", "tmpdir"):
        assert hasattr(RemoteExecutor, name), f"{changed}a job's command has no {name}"
    schedules = inspect.getsource(JobScheduler.__init__)
    assert "self._local_executor = None" in schedules, f"{changed}what runs local jobs?"
