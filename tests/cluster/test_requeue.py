"""A warned job asks to be queued again: once for all its ranks, and only where Slurm does not."""

import os
import signal
import subprocess
import sys

import pytest

from psld.cluster import requeue
from psld.cluster.requeue import in_slurm_job, is_preempted, requeue_this_job
from tests.commands import started

THIS_LIFE = "JobId=42 StartTime=2026-01-02T10:00:00 PreemptTime=2026-01-02T11:00:00"
EARLIER_LIFE = "JobId=42 PreemptTime=2026-01-02T09:00:00 StartTime=2026-01-02T10:00:00"
NOT_PREEMPTED = "JobId=42 StartTime=2026-01-02T10:00:00 PreemptEligibleTime=2026-01-02T10:00:00"
UNKNOWN_START = "JobId=42 StartTime=Unknown PreemptTime=None"

CHILD = """
import time
from psld.cluster.requeue import requeue_when_warned
requeue_when_warned()
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def warned(commands, monkeypatch, signals):
    """Runs the last minutes of a job: gives the exit code and what scontrol was asked."""
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setattr(requeue, "FAREWELL_SECONDS", 0)

    def run(rank=0, description=NOT_PREEMPTED, complaint="", exit_code=0):
        monkeypatch.setenv("SLURM_PROCID", str(rank))
        show = f'case "$*" in *show*) echo "{description}"; exit 0 ;; esac'
        commands.answer("scontrol", stderr=complaint, exit_code=exit_code, first=show)
        with pytest.raises(SystemExit) as ended:
            requeue_this_job()
        assert ended.value.code == 128 + signal.SIGUSR2
        return [call for call in commands.calls("scontrol") if "show" not in call]

    return run


@pytest.mark.parametrize("description", [NOT_PREEMPTED, EARLIER_LIFE, UNKNOWN_START])
def test_the_first_rank_asks(warned, description, capsys):
    assert warned(description=description) == ["requeue 42"]
    assert capsys.readouterr().out == "job 42 goes on when it is scheduled again\n"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "Slurm ends this life"
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN, "one warning is enough"


def test_no_other_rank_asks(warned):
    assert warned(rank=1) == []


def test_a_job_of_an_array_is_queued_again_alone(warned, monkeypatch):
    """The array's last job has the array's number."""
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "42")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert warned() == ["requeue 42_3"]


def test_nobody_asks_where_slurm_preempts(warned):
    assert warned(description=THIS_LIFE) == []


@pytest.mark.parametrize(
    ("description", "preempted"),
    [
        (THIS_LIFE, True),
        (EARLIER_LIFE, False),
        (NOT_PREEMPTED, False),
        (UNKNOWN_START, False),
        ("", False),
    ],
)
def test_a_preemption_is_told_from_other_ends(commands, monkeypatch, description, preempted):
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    commands.answer("scontrol", f"{description}\n")
    assert is_preempted() is preempted


def test_a_job_that_is_queued_already_is_none_that_failed(warned, capsys):
    warned(complaint="Job is pending execution for job 42\n", exit_code=1)
    assert "goes on" in capsys.readouterr().out


def test_a_refusal_is_said(warned, capsys):
    warned(complaint="Requested operation is presently\ndisabled\n", exit_code=1)
    complaint = "could not be queued again: Requested operation is presently disabled"
    assert capsys.readouterr().out == f"job 42 {complaint}\n"


def test_a_process_that_is_warned(commands, tmp_path, monkeypatch):
    commands.answer("scontrol", first=f'case "$*" in *show*) echo "{NOT_PREEMPTED}" ;; esac')
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("SLURM_PROCID", "0")
    with started(tmp_path, [sys.executable, "-c", CHILD]) as process:
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGUSR2)
        assert process.stdout.readline() == "job 42 goes on when it is scheduled again\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)  # to leave would count as the job's end
        process.terminate()
        assert process.wait(timeout=120) == -signal.SIGTERM
    assert "requeue 42" in commands.calls("scontrol")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "42"}, False),
        ({"SUBMITIT_EXECUTOR": "slurm"}, False),
        ({"SUBMITIT_EXECUTOR": "local", "SLURM_JOB_ID": "42"}, False),
        ({"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "42"}, True),
    ],
)
def test_in_slurm_job(variables, expected, monkeypatch):
    for name in ("SUBMITIT_EXECUTOR", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert in_slurm_job() is expected
