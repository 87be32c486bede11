"""Inside a training's job: the ranks, the requeue of a warned job, and the starts of a job."""

import os
import signal
import sys

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
    """Run the last minutes of a job, and return the requests to scontrol."""

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
        (AT_ONCE, {}, []),  # Slurm itself requeues a preempted job.
        (NOT_PREEMPTED, {"SLURM_PROCID": "1"}, []),
        # The last job of an array has the same number as the array.
        (NOT_PREEMPTED, {"SLURM_ARRAY_JOB_ID": "42", "SLURM_ARRAY_TASK_ID": "3"}, ["requeue 42_3"]),
    ],
)
def test_the_first_rank_requests_the_requeue_unless_slurm_preempts(
    warned, monkeypatch, description, variables, asked, capsys
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert warned(description) == asked
    assert capsys.readouterr().out.endswith(
        " is requeued; it resumes when Slurm schedules it again\n"
    )
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "Slurm ends this life"
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN, "one warning is enough"


@pytest.mark.parametrize(
    ("complaint", "said"),
    [
        ("Job is pending execution for job 42\n", "it resumes"),
        (
            "Requested operation is presently\ndisabled\n",
            "could not be requeued: Requested operation is presently disabled",
        ),
    ],
)
def test_a_failed_requeue_is_reported_unless_the_job_is_already_queued(
    warned, capsys, complaint, said
):
    warned(complaint=complaint, exit_code=1)
    assert said in capsys.readouterr().out


# --- a training that Slurm stops ------------------------------------------------------------------


def test_a_warning_before_the_first_step_requeues_the_job(commands):
    commands.answer("scontrol")
    with requeued_when_stopped(), pytest.raises(SystemExit) as ended:  # noqa: PT012
        os.kill(os.getpid(), signal.SIGUSR2)
        signal.sigtimedwait([], 1)
    assert ended.value.code == 128 + signal.SIGUSR2


@pytest.mark.parametrize("missing", ["SUBMITIT_EXECUTOR", "SLURM_JOB_ID"])
def test_outside_a_job_nothing_is_requeued_or_recorded(commands, tmp_path, monkeypatch, missing):
    monkeypatch.delenv(missing)
    before = signal.getsignal(signal.SIGUSR2)
    with pytest.raises(Stopped), requeued_when_stopped() as begins:  # noqa: PT012
        begins(tmp_path / "run", 7)
        assert signal.getsignal(signal.SIGUSR2) is before
        raise Stopped(signal.SIGUSR2, 7)
    assert not (tmp_path / "run").exists()
    assert commands.calls("scontrol") == []


# --- lives ----------------------------------------------------------------------------------------


def test_a_job_without_progress_fails_and_a_new_job_may_start(tmp_path, monkeypatch):
    """A user who has changed the time limit runs the same command again."""
    begun = [0, 0, 50, *[90] * FRUITLESS_LIVES]
    for step in begun:
        begin_life(tmp_path, step)
    with pytest.raises(RunError, match=r"started 2 times at step 90 .*checkpoint_every"):
        begin_life(tmp_path, 90)
    monkeypatch.setenv("SLURM_JOB_ID", "43")
    begin_life(tmp_path, 90)
    assert read_json(tmp_path / "lives.json") == {"42": begun, "43": [90]}


# --- ranks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chosen", "threads"), [("", "5"), ("2", "2")])
def test_a_rank_runs_with_its_arguments_and_threads(monkeypatch, chosen, threads):
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
    run_rank(["train", "name=x", "a b"])
    assert seen == [(["train", "name=x", "a b"], threads, True)]


def test_an_empty_variable_does_not_name_a_run(monkeypatch):
    monkeypatch.setenv("PSLD_RUN", "")
    end_with_snakemake("train")
