"""Inside a training's job: its ranks, the requeue of a warned job, and its lives."""

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from psld.cluster import job
from psld.cluster.job import (
    FRUITLESS_LIVES,
    begin_life,
    end_with_snakemake,
    requeue_this_job,
    requeued_when_stopped,
    run_rank,
)
from psld.utils.errors import RunError, Stopped
from psld.utils.files import read_json
from tests.cluster.runs import until

AT_ONCE = "JobId=42 StartTime=2026-01-02T10:00:00 PreemptTime=2026-01-02T10:00:00"
EARLIER_LIFE = "JobId=42 PreemptTime=2026-01-02T09:00:00 StartTime=2026-01-02T10:00:00"
NOT_PREEMPTED = "JobId=42 StartTime=2026-01-02T10:00:00 PreemptEligibleTime=2026-01-02T10:00:00"
UNKNOWN_START = "JobId=42 StartTime=Unknown PreemptTime=None"


@pytest.fixture(autouse=True)
def _in_a_job(commands, monkeypatch):
    variables = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "42", "SLURM_PROCID": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(job, "END_SECONDS", 0)


@pytest.fixture
def warned(commands):
    """Runs the last minutes of a job: gives what scontrol was asked."""

    def run(description=NOT_PREEMPTED, complaint="", exit_code=0):
        show = f'case "$*" in *show*) echo "{description}"; exit 0 ;; esac'
        commands.answer("scontrol", stderr=complaint, exit_code=exit_code, first=show)
        with pytest.raises(SystemExit) as ended:
            requeue_this_job()
        assert ended.value.code == 128 + signal.SIGUSR2
        return [call for call in commands.calls("scontrol") if "show" not in call]

    return run


@pytest.mark.parametrize(
    ("description", "variables", "asked"),
    [
        (NOT_PREEMPTED, {}, ["requeue 42"]),
        (EARLIER_LIFE, {}, ["requeue 42"]),
        (UNKNOWN_START, {}, ["requeue 42"]),
        (AT_ONCE, {}, []),  # Slurm queues a preempted job itself.
        (NOT_PREEMPTED, {"SLURM_PROCID": "1"}, []),
        # The array's last job has the array's number.
        (NOT_PREEMPTED, {"SLURM_ARRAY_JOB_ID": "42", "SLURM_ARRAY_TASK_ID": "3"}, ["requeue 42_3"]),
    ],
)
def test_the_first_rank_asks_unless_slurm_preempts(
    warned, monkeypatch, description, variables, asked, capsys
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert warned(description) == asked
    assert capsys.readouterr().out.endswith(" goes on when it is scheduled again\n")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "Slurm ends this life"
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN, "one warning is enough"


@pytest.mark.parametrize(
    ("complaint", "said"),
    [
        ("Job is pending execution for job 42\n", "goes on"),
        (
            "Requested operation is presently\ndisabled\n",
            "could not be requeued: Requested operation is presently disabled",
        ),
    ],
)
def test_a_job_that_is_queued_already_has_not_failed_and_a_refusal_is_said(
    warned, capsys, complaint, said
):
    warned(complaint=complaint, exit_code=1)
    assert said in capsys.readouterr().out


# --- a training that Slurm stops ------------------------------------------------------------------


def test_a_warning_before_there_is_something_to_save_queues_the_job_again(commands):
    commands.answer("scontrol")
    with requeued_when_stopped(), pytest.raises(SystemExit) as ended:  # noqa: PT012
        os.kill(os.getpid(), signal.SIGUSR2)
        signal.sigtimedwait([], 1)
    assert ended.value.code == 128 + signal.SIGUSR2


@pytest.mark.parametrize("missing", ["SUBMITIT_EXECUTOR", "SLURM_JOB_ID"])
def test_outside_of_a_job_nothing_is_asked_or_noted(commands, tmp_path, monkeypatch, missing):
    monkeypatch.delenv(missing)
    before = signal.getsignal(signal.SIGUSR2)
    with pytest.raises(Stopped), requeued_when_stopped() as begins:  # noqa: PT012
        begins(tmp_path / "run", 7)
        assert signal.getsignal(signal.SIGUSR2) is before
        raise Stopped(signal.SIGUSR2, 7)
    assert not (tmp_path / "run").exists()
    assert commands.calls("scontrol") == []


# --- lives ----------------------------------------------------------------------------------------


def test_a_job_that_gets_nowhere_gives_up_and_another_begins_from_nothing(tmp_path, monkeypatch):
    """Somebody who has changed the time limit runs the same command again."""
    begun = [0, 0, 50, *[90] * FRUITLESS_LIVES]
    for step in begun:
        begin_life(tmp_path, step)
    with pytest.raises(RunError, match=r"began at step 90 .*checkpoint_every"):
        begin_life(tmp_path, 90)
    monkeypatch.setenv("SLURM_JOB_ID", "43")
    begin_life(tmp_path, 90)
    assert read_json(tmp_path / "lives.json") == {"42": begun, "43": [90]}


# --- a program of yours ---------------------------------------------------------------------------

SAVES = """
[ ! -e runs/step ] || { echo ok > DONE; exit; }
trap '/bin/sleep 0.2; echo 7 > runs/step; exit 3' TERM
: > ready
while :; do /bin/sleep 0.05; done
"""
"""A stopped program may end as it likes."""


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_stopped_program_saves_and_goes_on(commands, tmp_path, monkeypatch, capsys, number):
    """Slurm warns all processes, and the job is queued again. The other one is on this machine.

    What the program gets is SIGTERM, and so does its shell, which then ends at once.
    """
    if is_here := number == signal.SIGTERM:
        monkeypatch.delenv("SLURM_JOB_ID")
    commands.answer("scontrol")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job, "rank_of_environment", lambda: 0)
    Path("save.sh").write_text(SAVES)
    words = ["/bin/sh", "-c", "/bin/sh save.sh; true"]

    def stop() -> None:
        until(Path("ready").exists)
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for pid in (*map(int, [] if is_here else children), os.getpid()):
            os.kill(pid, number)

    threading.Thread(target=stop).start()
    with pytest.raises(SystemExit) as ended:
        run_rank(words, "runs", "DONE")
    assert ended.value.code == 128 + number
    said = "error: stopped by SIGTERM; step 7 is saved; " if is_here else ""
    assert capsys.readouterr().err.startswith(said)
    assert ("requeue 42" in commands.calls("scontrol")) != is_here
    for _ in range(2):  # Slurm may run it once more after its end.
        run_rank(words, "runs", "DONE")
        assert Path("DONE").exists()
    if not is_here:
        assert read_json("runs/lives.json") == {"42": [0, 7]}


def test_a_program_that_fails_or_saves_nothing_in_its_lives_is_one_line(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job, "rank_of_environment", lambda: 0)
    said = []
    for _ in range(FRUITLESS_LIVES + 1):
        with pytest.raises(SystemExit) as ended:
            run_rank(["/bin/sh", "-c", "exit 5"], "runs", "DONE")
        assert ended.value.code == 1
        said.append(capsys.readouterr().err)
    failed = "error: /bin/sh: ended with exit code 5; its output says why\n"
    assert said[:-1] == [failed] * FRUITLESS_LIVES
    assert said[-1].startswith("error: runs: no progress in 2 lives, which began at step 0")
    for wrong in ("epoch 3", "9" * 5000):
        Path("runs/step").write_text(wrong)
        with pytest.raises(SystemExit):
            run_rank(["true"], "runs", "DONE")
        printed = capsys.readouterr()
        assert printed.out.startswith(f"runs/step: holds {wrong[:20]!r}, not a number of steps; ")
        assert printed.err == said[-1], "it counts as 0"


# --- ranks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chosen", "threads"), [("", "5"), ("2", "2")])
def test_what_a_rank_runs_with(monkeypatch, chosen, threads):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "5")
    monkeypatch.setenv("OMP_NUM_THREADS", chosen)
    if not chosen:
        monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("sys.argv", ["submitit"])
    seen = []

    def look() -> None:
        is_warned = signal.getsignal(signal.SIGUSR2) is not signal.SIG_DFL
        seen.append((sys.argv[1:], os.environ["OMP_NUM_THREADS"], is_warned))

    monkeypatch.setattr("psld.commands.main.main", look)
    run_rank(["train", "name=x", "a b"], None, None)
    assert seen == [(["train", "name=x", "a b"], threads, True)]


def test_an_empty_variable_names_no_run(monkeypatch):
    monkeypatch.setenv("PSLD_RUN", "")
    end_with_snakemake("train")
