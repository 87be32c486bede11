"""Inside a training's job: its ranks, the requeue of a warned job, and its lives."""

import json
import os
import signal
import subprocess
import sys

import pytest

from psld.cluster import job
from psld.cluster.job import (
    FRUITLESS_LIVES,
    begin_life,
    is_preempted,
    requeue_this_job,
    requeued_when_stopped,
    run_rank,
)
from psld.training.stop import Stopped
from psld.utils.errors import RunError
from psld.utils.files import read_json
from tests.commands import started

THIS_LIFE = "JobId=42 StartTime=2026-01-02T10:00:00 PreemptTime=2026-01-02T11:00:00"
EARLIER_LIFE = "JobId=42 PreemptTime=2026-01-02T09:00:00 StartTime=2026-01-02T10:00:00"
NOT_PREEMPTED = "JobId=42 StartTime=2026-01-02T10:00:00 PreemptEligibleTime=2026-01-02T10:00:00"
UNKNOWN_START = "JobId=42 StartTime=Unknown PreemptTime=None"

CHILD = """
import time
from psld.cluster.job import requeue_when_warned
requeue_when_warned()
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def warned(commands, monkeypatch, signals):
    """Runs the last minutes of a job: gives the exit code and what scontrol was asked."""
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setattr(job, "END_SECONDS", 0)

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
    complaint = "could not be requeued: Requested operation is presently disabled"
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


# --- a training that Slurm stops ------------------------------------------------------------------


@pytest.fixture
def stops(commands, monkeypatch, signals):
    """Ends a training in a job by a signal; gives its exit code and what scontrol was asked."""
    monkeypatch.setattr(job, "END_SECONDS", 0)
    for name, value in (("SUBMITIT_EXECUTOR", "slurm"), ("SLURM_JOB_ID", "42")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_PROCID", "0")

    def run(number: int, description: str = NOT_PREEMPTED) -> tuple[int, list[str]]:
        commands.answer("scontrol", first=f'case "$*" in *show*) echo "{description}" ;; esac')
        with pytest.raises((Stopped, SystemExit)) as ended, requeued_when_stopped():
            raise Stopped(number, 5)
        error = ended.value
        code = error.exit_code if isinstance(error, Stopped) else error.code
        return code, [call for call in commands.calls("scontrol") if "requeue" in call]

    return run


def test_a_warned_training_is_queued_again(stops):
    assert stops(signal.SIGUSR2) == (128 + signal.SIGUSR2, ["requeue 42"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_that_is_cancelled_is_not(stops, number):
    assert stops(number) == (128 + number, [])


def test_one_that_is_preempted_without_a_warning_waits_for_slurm(stops):
    """Slurm queues it again: to leave before would count as its end."""
    assert stops(signal.SIGTERM, THIS_LIFE) == (128 + signal.SIGUSR2, [])


def test_other_errors_of_a_training_pass(stops, commands):
    stops(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), requeued_when_stopped():
        raise ZeroDivisionError
    assert not [call for call in commands.calls("scontrol") if "requeue" in call]


def test_a_warning_before_there_is_something_to_save_queues_the_job_again(stops):
    stops(signal.SIGTERM)
    with requeued_when_stopped(), pytest.raises(SystemExit) as ended:  # noqa: PT012
        os.kill(os.getpid(), signal.SIGUSR2)
        signal.sigtimedwait([], 1)
    assert ended.value.code == 128 + signal.SIGUSR2


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_JOB_ID": "42"},
        {"SUBMITIT_EXECUTOR": "slurm"},
        {"SUBMITIT_EXECUTOR": "local", "SLURM_JOB_ID": "42"},
    ],
)
def test_outside_of_a_job_nothing_is_asked_or_noted(
    commands, tmp_path, monkeypatch, signals, variables
):
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before = signal.getsignal(signal.SIGUSR2)
    with pytest.raises(Stopped), requeued_when_stopped() as begins:  # noqa: PT012
        begins(tmp_path / "run", 7)
        assert signal.getsignal(signal.SIGUSR2) is before
        raise Stopped(signal.SIGUSR2, 7)
    assert not (tmp_path / "run").exists()
    assert commands.calls("scontrol") == []


# --- lives ----------------------------------------------------------------------------------------


def test_a_life_is_noted_when_a_training_begins_in_a_job(stops, tmp_path):
    stops(signal.SIGTERM)
    with requeued_when_stopped() as begins:
        begins(tmp_path, 7)
    assert read_json(tmp_path / "lives.json") == {"42": [7]}


def test_a_job_that_gets_nowhere_gives_up_and_another_begins_from_nothing(tmp_path, monkeypatch):
    """Somebody who has changed the time limit runs the same command again."""
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    begun = [0, 0, 50, *[90] * FRUITLESS_LIVES]
    for step in begun:
        begin_life(tmp_path, step)
    with pytest.raises(RunError, match=r"began at step 90 .*checkpoint_every"):
        begin_life(tmp_path, 90)
    monkeypatch.setenv("SLURM_JOB_ID", "43")
    begin_life(tmp_path, 90)
    assert read_json(tmp_path / "lives.json") == {"42": begun, "43": [90]}


# --- ranks ----------------------------------------------------------------------------------------

LOOK = """
import json, os, signal, sys
seen = {"argv": sys.argv[1:], "threads": os.environ["OMP_NUM_THREADS"],
        "warned": signal.getsignal(signal.SIGUSR2) is not signal.SIG_DFL}
json.dump(seen, open("seen.json", "w"))
"""


@pytest.mark.parametrize(("chosen", "threads"), [(None, "5"), ("2", "2")])
def test_what_a_rank_runs_with(tmp_path, monkeypatch, signals, chosen, threads):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "5")
    monkeypatch.setenv("OMP_NUM_THREADS", chosen or "")
    if chosen is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["submitit"])
    monkeypatch.setattr("psld.commands.main.main", lambda: exec(LOOK, {}))
    run_rank(["train", "name=x", "a b"])
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen == {"argv": ["train", "name=x", "a b"], "threads": threads, "warned": True}
