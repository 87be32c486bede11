"""The states of Slurm jobs that Snakemake waits for, as the fix of its plugin reports them."""

import asyncio
import os
import threading
import time
from types import SimpleNamespace

from psld.cluster import executor as repaired
from tests.cluster.commands import Commands


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
    log = folder / f"{number}.log"
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
    log = tmp_path / "1_1.log"
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


def test_a_pause_ends_with_snakemake():
    asking = Asking()
    threading.Timer(0.1, lambda: setattr(asking, "wait", False)).start()
    began = time.monotonic()
    asyncio.run(repaired._sleep(asking))
    assert time.monotonic() - began < 5
