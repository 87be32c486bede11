"""The fix of Snakemake's Slurm plugin, tested on the plugin's own code without submission."""

import asyncio
import base64
import json
import os
import random
import subprocess
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from types import SimpleNamespace

import pytest
import snakemake_executor_plugin_slurm as plugin

from psld.cluster import executor as repaired
from psld.cluster.executor import COMMAND_BYTES, repair_scheduler, repair_slurm_executor
from tests.cluster.commands import Commands


class Submitted(list):
    """What the plugin's executor submits: an array as the list of its jobs, or a job."""

    array_jobs = {"sample"}
    logger = SimpleNamespace(debug=lambda text: None)
    max_array_size = 500
    run_jobs = plugin.Executor.run_jobs
    _main_event_loop = None

    def __init__(self, ready: int, letters: int = 100) -> None:
        rule = SimpleNamespace(name="sample")
        self.workflow = SimpleNamespace(
            dag=SimpleNamespace(ready_jobs=[SimpleNamespace(rule=rule)] * ready)
        )
        self.letters = letters

    def format_job_exec(self, job: SimpleNamespace) -> str:
        """A command that does not compress."""
        return random.Random(job.number).randbytes(self.letters).hex()

    def _submit_job(self, job: SimpleNamespace) -> None:
        self.append(job.number)


REPLACED = ("cancel_jobs", "check_active_jobs", "sleep", "run_job", "run_array_jobs")


@pytest.fixture
def submit(monkeypatch):
    """Hand a batch to a plugin that was repaired twice, as by a Snakefile that is read again."""
    monkeypatch.setattr(plugin, "pending_jobs_for_rule", plugin.pending_jobs_for_rule)
    for name in (*REPLACED, "__post_init__"):
        monkeypatch.setattr(plugin.Executor, name, getattr(plugin.Executor, name))

    def submit_array(executor: Submitted, jobs: list) -> None:
        executor.append([job.number for job in jobs])

    monkeypatch.setattr(plugin.Executor, "_submit_array_jobs", submit_array)
    repair_slurm_executor()
    repair_slurm_executor()
    monkeypatch.setattr(
        Submitted, "_submit_array_jobs", plugin.Executor._submit_array_jobs, raising=False
    )

    def submit_batch(size: int, ready: int, **executor) -> Submitted:
        submitted = Submitted(ready, **executor)
        rule = SimpleNamespace(name="sample")
        submitted.run_jobs(
            [SimpleNamespace(rule=rule, number=n, is_group=lambda: False) for n in range(size)]
        )
        return submitted

    return submit_batch


@pytest.mark.parametrize("ready", [0, 1, 5, 1000])
def test_a_batch_is_submitted_whatever_else_is_ready(submit, ready):
    assert submit(1, ready) == [0]
    assert submit(3, ready) == [[0, 1, 2]]


def test_no_array_is_larger_than_slurm_takes(submit):
    submitted = submit(1200, 0, letters=1)
    assert [len(array) for array in submitted] == [500, 500, 200]
    assert list(chain(*submitted)) == list(range(1200))


def test_no_array_is_larger_than_a_command_line_takes(submit):
    submitted = submit(100, 0, letters=1000)
    assert list(chain(*submitted)) == list(range(100))
    sizes = [payload(submitted, array) for array in submitted]
    assert all(0.9 * COMMAND_BYTES < size <= COMMAND_BYTES for size in sizes[:-1])
    assert submit(2, 0, letters=COMMAND_BYTES) == [[0], [1]]


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.usefixtures("submit")
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


class Asking:
    """A plugin's executor that has submitted jobs, and notes what it reports of them."""

    run_uuid = "run-1"
    next_seconds_between_status_checks = 20

    def __init__(self) -> None:
        self.wait = True
        self.reports: dict[str, list[str]] = {"success": [], "error": [], "end": [], "warning": []}
        settings = SimpleNamespace(init_seconds_before_status_checks=20)
        scheduler = SimpleNamespace(
            executor_error_callback=lambda error: self.reports["end"].append(str(error))
        )
        self.workflow = SimpleNamespace(executor_settings=settings, scheduler=scheduler)
        self.logger = SimpleNamespace(warning=self.reports["warning"].append)

    def report_job_success(self, job: SimpleNamespace) -> None:
        self.reports["success"].append(job.external_jobid)

    def report_job_error(self, job: SimpleNamespace, msg: str, aux_logs: list[str]) -> None:
        self.reports["error"].append(msg.split()[-1])

    def check(self, *jobs: SimpleNamespace) -> list[str]:
        """The jobs that go on."""

        async def collect() -> list[str]:
            return [j.external_jobid async for j in repaired._check_active_jobs(self, list(jobs))]

        return asyncio.run(collect())


def submitted_job(folder, number: str) -> SimpleNamespace:
    log = folder / "rule_sample" / "wildcards" / f"{number}.log"
    job = SimpleNamespace(output=[str(folder / f"output-{number}")])
    return SimpleNamespace(external_jobid=number, job=job, aux={"slurm_logfile": log})


def test_what_becomes_of_jobs(slurm: Commands, tmp_path):
    states = {
        "1_1": "COMPLETED",
        "1_2": "PENDING",
        "2": "NODE_FAIL",
        "3": "PREEMPTED",
        "4": "TIMEOUT",
        "5": "CANCELLED",
        "6": "A_STATE_OF_A_LATER_SLURM",
    }
    listed = "".join(f"{job} {state}\\n" for job, state in states.items())
    slurm.answer("squeue", first=f"printf '{listed}'")
    (tmp_path / "rule_sample").mkdir()
    log = tmp_path / "rule_sample" / "1_1.log"
    log.touch()
    asking = Asking()
    left = asking.check(*(submitted_job(tmp_path, number) for number in states))
    assert left == ["1_2", "2", "3", "6"]
    assert asking.reports["success"] == ["1_1"]
    assert asking.reports["error"] == ["TIMEOUT.", "CANCELLED."]
    assert not log.exists(), "that of a successful job"


def test_a_job_that_slurm_has_forgotten_is_done_if_its_output_is_new(slurm: Commands, tmp_path):
    """Its end was forgotten while the controller did not answer."""
    jobs = [submitted_job(tmp_path, number) for number in ("1", "2", "3")]
    slurm.answer("squeue", first="printf '1 RUNNING\\n2 RUNNING\\n3 RUNNING\\n'")
    asking = Asking()
    (tmp_path / "output-2").touch()
    os.utime(tmp_path / "output-2", (0, 0))
    assert asking.check(*jobs) == ["1", "2", "3"]
    (tmp_path / "output-1").touch()
    slurm.answer("squeue")
    assert asking.check(*jobs) == []
    assert asking.reports["success"] == ["1"]
    assert asking.reports["error"] == ["GONE.", "GONE."]


def test_no_job_is_forgotten_while_the_controller_is_away(slurm: Commands, tmp_path, monkeypatch):
    monkeypatch.setattr(repaired, "_pause", lambda executor, seconds: None)
    away = f"echo >> {tmp_path}/asked; [ $(/usr/bin/wc -l < {tmp_path}/asked) -gt 7 ] && "
    away += "{ echo 1 RUNNING; exit; }"
    complaint = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    slurm.answer("squeue", stderr=complaint, exit_code=1, first=away)
    asking = Asking()
    assert asking.check(submitted_job(tmp_path, "1")) == ["1"]
    assert asking.reports["warning"] == [f"{complaint}; asking again until it answers"]
    assert len(slurm.calls("squeue")) == 8


@pytest.mark.parametrize("name", ["run_job", "run_array_jobs"])
def test_nothing_is_submitted_before_the_controller_answers(slurm: Commands, monkeypatch, name):
    """Not even after that, if Snakemake has ended meanwhile."""
    submitted: list[str] = []
    for replaced in (*REPLACED, "__post_init__", "_submit_array_jobs"):
        monkeypatch.setattr(plugin.Executor, replaced, getattr(plugin.Executor, replaced))
    monkeypatch.setattr(plugin, "pending_jobs_for_rule", None)
    monkeypatch.setattr(plugin.Executor, name, lambda executor, job: submitted.append(job))
    repair_slurm_executor()
    monkeypatch.setattr(repaired, "_pause", lambda executor, seconds: slurm.answer("squeue"))
    for waits, expected in ((True, ["job"]), (False, [])):
        slurm.answer("squeue", stderr="Socket timed out", exit_code=1)
        submitted.clear()
        asking = Asking()
        asking.wait = waits
        getattr(plugin.Executor, name)(asking, "job")
        assert submitted == expected


def test_a_pause_ends_with_snakemake():
    asking = Asking()
    threading.Timer(0.1, lambda: setattr(asking, "wait", False)).start()
    began = time.monotonic()
    asyncio.run(repaired._sleep(asking))
    assert time.monotonic() - began < 5


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


def payload(executor: Submitted, array: list[int]) -> int:
    """The length of the commands of an array's tasks, as the plugin writes them."""
    commands = {
        f"{n}": zlib.compress(
            executor.format_job_exec(SimpleNamespace(number=n)).encode(), level=9
        ).hex()
        for n in array
    }
    return len(base64.b64encode(json.dumps(commands).encode()))
