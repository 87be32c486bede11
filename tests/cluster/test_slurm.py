"""The answers of Slurm's commands, also while the controller is unavailable."""

import re
import time

import pytest

from psld.cluster import slurm
from psld.cluster.slurm import AccessDenied, SlurmJob, Unreachable, retry_until_reachable
from psld.utils.errors import RunError

AWAY = "slurm_load_jobs error: Unable to contact slurm controller\n(connect failure)\n"


@pytest.mark.parametrize(
    ("complaint", "available"),
    [
        ("", True),
        (AWAY, True),
        ("scontrol: fatal: Could not establish a configuration source\n", False),
    ],
)
def test_slurm_is_available_only_with_a_configured_cluster(commands, complaint, available):
    """Debian's package is installed, but no cluster is configured. A controller that is down counts
    as available."""
    assert not slurm.available(), "no sbatch"
    commands.answer("sbatch")
    commands.answer("scontrol", stderr=complaint, exit_code=1 if complaint else 0)
    assert slurm.available() is available
    assert commands.calls("scontrol") == ["ping"]


def test_jobs_named_returns_states_and_reasons(commands):
    answers = {
        "1 PENDING None": ("PENDING", ""),
        "22 PENDING Resources": ("PENDING", "Resources"),
        "3 PENDING ReqNodeNotAvail, UnavailableNodes:n1": ("PENDING", "ReqNodeNotAvail"),
        "4 PENDING launch failed requeued held": ("PENDING", "launch failed requeued held"),
        "5 RUNNING None": ("RUNNING", ""),
        "6 FAILED NonZeroExitCode": ("FAILED", ""),
        "7 OUT_OF_MEMORY": ("OUT_OF_MEMORY", ""),
    }
    commands.answer("squeue", "\n".join(answers) + "\n")
    expected = {answer.split()[0]: SlurmJob(*job) for answer, job in answers.items()}
    assert slurm.jobs_named("model-12") == expected
    assert slurm.active_jobs_named("model-12") == ["22", "5", "4", "3", "1"], "the newest first"
    assert set(commands.calls("squeue")) == {
        "--noheader --me --states=all --name=model-12 --format=%A %T %r"
    }
    commands.answer("squeue", "\n")
    assert slurm.jobs_named("model-12") == {}
    commands.answer("squeue", "7_1 RUNNING\n")
    with pytest.raises(Unreachable, match="squeue answered '7_1 RUNNING'"):
        slurm.jobs_named("model-12")


def test_a_job_is_active_until_it_has_ended(commands):
    """This also holds for a state that only a later version of Slurm has."""
    ended = "COMPLETED CANCELLED FAILED OUT_OF_MEMORY DEADLINE TIMEOUT NODE_FAIL PREEMPTED"
    ended = [*ended.split(), "BOOT_FAIL", "LAUNCH_FAILED", "REVOKED"]
    active = ["PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING", "NEW_ONE"]
    lines = [f"{number} {state}" for number, state in enumerate([*active, *ended], 1)]
    commands.answer("squeue", "\n".join(lines) + "\n")
    numbers = [str(number) for number in range(len(active), 0, -1)]
    assert slurm.active_jobs_named("x") == numbers


@pytest.mark.parametrize("complaint", [AWAY, "", "Could not establish a configuration source"])
def test_a_failed_command_raises_unreachable(commands, complaint):
    for name, ask in (
        ("squeue", lambda: slurm.jobs_named("x")),
        ("scancel", lambda: slurm.cancel_jobs_named("x")),
    ):
        commands.answer(name, stderr=complaint, exit_code=1)
        with pytest.raises(Unreachable) as refused:
            ask()
        assert type(refused.value) is Unreachable
        assert str(refused.value) == (" ".join(complaint.split()) or f"{name} failed")


def test_denied_access_raises_access_denied(commands):
    with pytest.raises(AccessDenied, match="squeue: No such file or directory"):
        slurm.jobs_named("x")
    for complaint in (
        "Protocol authentication error",
        "Munge decode failed: Invalid credential",
        "If munged is up, restart with --num-threads=10",
        "Access/permission denied",
        "Invalid user id: 1234",
        "Invalid account or account/partition combination specified",
        "No cluster hpc known by database.",
        "Invalid cluster name",
        "fatal: Unable to process configuration file",
        "Incompatible versions of client and server code",
        "squeue: invalid option -- me",
        "squeue: unrecognized option --me",
    ):
        commands.answer("squeue", stderr=f"squeue: error: {complaint}\n", exit_code=1)
        with pytest.raises(AccessDenied, match=re.escape(f"squeue: error: {complaint}")):
            slurm.jobs_named("x")


@pytest.mark.parametrize(
    ("kind", "seconds", "limit"),
    [
        (AccessDenied, slurm.REFUSED_SECONDS, "0:02:00"),
        (Unreachable, slurm.NO_ANSWER_SECONDS, "3 days, 0:00:00"),
    ],
)
def test_commands_are_retried_longer_without_an_answer_than_after_a_refusal(
    monkeypatch, kind, seconds, limit
):
    now, said = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def ask() -> None:
        raise kind("no" if now[0] < seconds / 2 else "no again")

    def pause(_: float) -> None:
        now[0] += seconds / 4

    with pytest.raises(RunError, match=rf"no again \(for {limit}\).*run the same command again"):
        retry_until_reachable(ask, said.append, pause)
    assert now[0] == seconds
    assert said == [f"{text}; retrying until Slurm answers" for text in ("no", "no again")]
    assert retry_until_reachable(lambda: 3, said.append) == 3


def test_a_slow_command_raises_unreachable(commands, monkeypatch):
    monkeypatch.setattr(slurm, "ANSWER_SECONDS", 0.2)
    commands.answer("squeue", first="exec /bin/sleep 20")
    begun = time.monotonic()
    with pytest.raises(Unreachable, match=r"squeue did not answer in 0\.2 seconds"):
        slurm.jobs_named("x")
    assert time.monotonic() - begun < 5
