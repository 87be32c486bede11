"""Snakemake's executor `psld`: with stand-ins for Slurm's commands, whose sbatch runs the job."""

import asyncio
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from psld.cluster import head
from psld.cluster.executor import LONGEST_PAUSE, Executor
from tests.cluster.commands import Commands
from tests.cluster.runs import SNAKEFILE, wait

AWKWARD = 'it\'s $(touch expanded) `touch expanded` "$HOME"; touch expanded & \\ *\nzwei Zeilen ü'
"""A possible name of a folder, which no shell may interpret."""

LOCAL_AND_SENT = """
rule all:
    input: "made", "sent"
    localrule: True

rule sent:
    output: "sent"
    shell: "touch sent"

rule made:
    localrule: True
"""

ON_SLURM = (
    *("--executor", "psld", "--jobs", "4", "--psld-init-seconds-before-status-checks", "1"),
    *("--default-resources", "slurm_account=lab", "slurm_partition=cpu", "runtime=1", "mem_mb=1"),
)


@pytest.fixture
def slurm(folder, tmp_path) -> Commands:
    """A cluster that runs jobs at once; if the file `keep` exists, it keeps them until scancel.

    It forgets finished jobs.
    """
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
        f"if sh {jobs}/$n.sh > {jobs}/$n.log 2>&1; then rm {jobs}/$n.state\n"
        f"else echo $n FAILED None > {jobs}/$n.state; fi",
    )
    commands.answer("squeue", first=f"cat {jobs}/*.state 2>/dev/null")
    # A canceled job runs for another second.
    commands.answer("scancel", first=f"(sleep 1; rm -f {jobs}/*.state) >/dev/null 2>&1 &")
    folder.environment["PATH"] = f"{commands.folder}{os.pathsep}{os.environ['PATH']}"
    folder.options = [*ON_SLURM]
    return commands


@pytest.fixture
def keeping(slurm, tmp_path) -> Commands:
    """The same cluster, whose jobs only wait."""
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


@pytest.mark.slow
def test_the_profile_sets_the_number_of_concurrent_local_jobs(slurm, folder):
    """Each job waits for all jobs. Snakemake itself has five threads, and one per core."""
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


def test_an_interrupt_ends_local_jobs_and_lists_the_jobs_that_continue(keeping, folder):
    """On a terminal, Ctrl-C reaches the local jobs directly; the local job of this test ignores
    SIGINT.

    Without psld, Snakemake's Slurm plugin would end only at its next query of job states, and
    sbatch may be running.
    """
    (folder.path / "Snakefile").write_text(f"{SNAKEFILE.replace('rule made:', LOCAL_AND_SENT)}")
    folder.job += " slow"
    folder.options += ["--psld-init-seconds-before-status-checks", "40"]
    keeping.answer("scancel", stderr="Socket timed out", exit_code=1)
    with folder.started() as process:
        wait(lambda: folder.pids("began") and keeping.calls("sbatch"), process)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        (folder.path / "saved").touch()
        assert process.wait(timeout=30) == 1
    assert folder.names() == ["began", "terminated"]
    [scancel] = keeping.calls("scancel")
    assert f"--job-name {scancel.removeprefix('--me --name=')} " in keeping.calls("sbatch")[0]
    said = (folder.path / "first.log").read_text()
    assert "Traceback" not in said, "it waits for local jobs"
    assert f"Socket timed out; the jobs continue; cancel them with scancel {scancel}" in said
    assert said.endswith("\ninterrupted; run the same command again to resume\n")


def test_denied_access_ends_snakemake_but_not_the_jobs(keeping, folder, tmp_path):
    refuses = "{ echo Protocol authentication error >&2; exit 1; }"
    keeping.answer("squeue", first=f"[ ! -e {tmp_path}/jobs/0.sh ] || {refuses}")
    refused = folder.run()
    assert refused.returncode == 1
    assert refused.stderr.count("jobs in Slurm are unchanged") == 1, refused.stderr
    assert "Traceback" not in refused.stderr
    assert keeping.calls("scancel") == []
    [left] = (folder.path / ".snakemake/psld").glob("*/")
    assert head.read_run(left).slurm_name, "the next run cancels them"


@pytest.mark.slow
def test_jobs_of_a_killed_run_end_before_the_next_run_writes(keeping, folder, tmp_path):
    with folder.started() as process:
        wait(lambda: (tmp_path / "jobs/0.state").exists(), process)
        process.kill()
    [left] = (folder.path / ".snakemake/psld").glob("*/")
    name = head.read_run(left).slurm_name
    assert f"--job-name {name} " in keeping.calls("sbatch")[0]
    folder.options, folder.job = [], f"[ ! -e {tmp_path}/jobs/0.state ] && touch made"
    again = folder.run()
    assert again.returncode == 0, again.stderr
    assert "canceling the Slurm jobs of the last run: 0" in again.stderr
    assert set(keeping.calls("scancel")) == {f"--me --name={name}"}

    late = ["sh", tmp_path / "jobs/0.sh"]
    done = subprocess.run(late, cwd=folder.path, env=folder.environment, capture_output=True)
    assert (done.returncode, done.stderr) == (1, b""), "a job that starts only now does nothing"


AWAY = "Unable to contact slurm controller (connect failure)"


@pytest.mark.slow
def test_no_job_is_lost_while_the_controller_is_down(slurm, folder, tmp_path):
    """The controller does not answer the submissions and the first seven queries. Later, the
    controller loses a node and the job on this node."""
    quick = "Executor._pause = lambda self, seconds: time.sleep(min(seconds, 0.2))"
    imports = "import time\nfrom psld.cluster.executor import Executor"
    (folder.path / "Snakefile").write_text(f"{imports}\n{quick}\n{SNAKEFILE}")
    folder.job, asked = "touch made", tmp_path / "asked"
    sbatch = (slurm.folder / "sbatch").read_text()
    away = f"{{ echo '{AWAY}' >&2; exit 1; }}"
    (slurm.folder / "sbatch").write_text(f"{sbatch[:10]}[ -e {asked} ] || {away}\n{sbatch[10:]}")
    slurm.answer(
        "squeue",
        first=f"echo >> {asked}; n=$(wc -l < {asked}); [ $n -gt 7 ] || {away}\n"
        f"[ $n -gt 9 ] || [ ! -e {tmp_path}/jobs/0.state ] || echo 0 NODE_FAIL None",
    )
    done = folder.run()
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"{AWAY}; retrying until Slurm answers") == 1
    assert len(slurm.calls("sbatch")) == 1, "of those that were answered"


@pytest.mark.slow
def test_a_job_that_reached_slurm_without_an_answer_is_not_submitted_again(slurm, folder, tmp_path):
    quick = "Executor._pause = lambda self, seconds: time.sleep(min(seconds, 0.2))"
    imports = "import time\nfrom psld.cluster.executor import Executor"
    (folder.path / "Snakefile").write_text(f"{imports}\n{quick}\n{SNAKEFILE}")
    folder.job = "touch made"
    sbatch = (slurm.folder / "sbatch").read_text().replace("echo $n;", 'echo "$*" > called; :;')
    (slurm.folder / "sbatch").write_text(
        f"{sbatch.rpartition('exit')[0]}echo 'sbatch: error: Socket timed out' >&2; exit 1\n"
    )
    asked = f"echo 1 another; echo 0 $(sed 's/.*--comment //; s/ .*//' {folder.path}/called)"
    slurm.answer("squeue", first=f'case "$*" in *%k*) {asked};; *) echo 0 COMPLETED None;; esac')
    done = folder.run()
    assert done.returncode == 0, done.stderr
    assert "was already submitted to Slurm as job 0" in done.stderr
    assert len(slurm.calls("sbatch")) == 1


def test_a_forgotten_job_without_output_has_failed(keeping, folder):
    keeping.answer("squeue")
    ended = folder.run()
    assert ended.returncode == 1
    assert "Slurm job 0 ended as GONE" in ended.stderr


# --- the ends of jobs, without a run of Snakemake -------------------------------------------------


class Waiting:
    """An executor whose jobs are in these states in Slurm; it records its reports."""

    def __init__(self, states: dict[str, str]) -> None:
        settings = SimpleNamespace(init_seconds_before_status_checks=7)
        self.workflow = SimpleNamespace(executor_settings=settings)
        self.next_seconds_between_status_checks = 30
        self._states = lambda: states
        self.done: list[str] = []
        self.failed: list[str] = []

    def report_job_success(self, job: SimpleNamespace) -> None:
        self.done.append(job.external_jobid)

    def report_job_error(self, job: SimpleNamespace, msg: str, aux_logs: list[str]) -> None:
        assert aux_logs == [str(job.aux["slurm_logfile"])]
        self.failed.append(msg)

    def left(self, *jobs: SimpleNamespace) -> list[str]:
        """Return the jobs that are still active after a query of all jobs."""

        async def look() -> list[str]:
            found = Executor.check_active_jobs(self, list(jobs))
            return [job.external_jobid async for job in found]

        return asyncio.run(look())


def job_of(folder: Path, number: str, age: float | None = None) -> SimpleNamespace:
    """A job that is submitted now, and whose outputs are `age` seconds old."""
    outputs = [folder / f"{number}.{kind}" for kind in ("json", "png")]
    for output in outputs if age is not None else ():
        output.touch()
        os.utime(output, (time.time() - age,) * 2)
    log = folder / f"{number}.log"
    log.touch()
    aux = {"slurm_logfile": log, "submitted": time.time()}
    return SimpleNamespace(external_jobid=number, aux=aux, job=SimpleNamespace(output=outputs))


def test_a_forgotten_job_is_done_if_all_its_output_is_newer_than_its_submission(tmp_path):
    """A failed rerun leaves the output of the previous run."""
    executor = Waiting({})
    jobs = [job_of(tmp_path, "1", age=0), job_of(tmp_path, "2", age=90)]
    jobs += [job_of(tmp_path, "3"), job_of(tmp_path, "4", age=0)]
    (tmp_path / "4.png").unlink()
    assert executor.left(*jobs) == []
    assert executor.done == ["1"]
    assert executor.failed == [f"Slurm job {n} ended as GONE. " for n in (2, 3, 4)]
    assert [job.aux["slurm_logfile"].exists() for job in jobs] == [False, True, True, True]


def test_jobs_that_slurm_requeues_are_awaited(tmp_path):
    """Slurm requeues a job after a node failure or a preemption."""
    again = ("NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "REQUEUED", "PENDING", "RUNNING", "COMPLETING")
    failed = ("FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE")
    states = (*again, "COMPLETED", *failed)
    executor = Waiting({str(number): state for number, state in enumerate(states)})
    jobs = [job_of(tmp_path, str(number)) for number in range(len(states))]
    assert executor.left(*jobs) == [str(number) for number in range(len(again))]
    assert executor.done == [str(len(again))]
    assert [message.split()[-1].rstrip(".") for message in executor.failed] == list(failed)


def test_the_interval_between_queries_grows_until_a_job_ends(tmp_path):
    executor, job = Waiting({"1": "RUNNING"}), job_of(tmp_path, "1")
    pauses = []
    for _ in range(17):
        assert executor.left(job) == ["1"]
        pauses.append(executor.next_seconds_between_status_checks)
    assert pauses == [*range(40, LONGEST_PAUSE, 10), LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]
    executor._states = lambda: {"1": "COMPLETED"}
    executor.left(job)
    assert executor.next_seconds_between_status_checks == 7
    executor.next_seconds_between_status_checks = 50
    assert executor.left() == []
    assert executor.next_seconds_between_status_checks == 7


@pytest.mark.parametrize(
    ("message", "states", "repeated"),
    [("Socket timed out", {}, True), ("invalid partition", {}, False), ("", None, None)],
)
def test_a_submission_is_repeated_if_slurm_did_not_answer_it(
    monkeypatch, message, states, repeated
):
    """With the states None, Snakemake has ended in the meantime and reports no error of the job."""
    reported = Mock()
    monkeypatch.setattr("psld.cluster.executor.SlurmExecutor.report_job_error", reported)
    executor = object.__new__(Executor)
    executor._states, executor._pause = lambda: states, Mock()
    executor._job_submission_executor, executor._submit_again = Mock(), Mock()
    job, said = SimpleNamespace(external_jobid=None, job="job"), f"sbatch: error: {message}"
    executor.report_job_error(job, msg=said)
    again = executor._job_submission_executor.submit
    asked = [call.args[:3] for call in again.call_args_list]
    assert asked == ([(executor._submit_again, "job", said)] if repeated else [])
    assert reported.called is (repeated is False)
