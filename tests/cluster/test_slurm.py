"""The answers of Slurm's commands, also while the controller is unavailable."""

import os
import time

import pytest

from psld.cluster import slurm
from psld.cluster.slurm import Patience, Refused, Unreachable
from psld.utils.errors import RunError

AWAY = "slurm_load_jobs error: Unable to contact slurm controller\n(connect failure)\n"


def test_no_sbatch_is_no_slurm(commands):
    assert not slurm.available()


@pytest.mark.parametrize(
    ("complaint", "available"),
    [
        ("", True),
        (AWAY, True),
        ("scontrol: fatal: Could not establish a configuration source\n", False),
    ],
)
def test_sbatch_needs_a_cluster_that_it_knows(commands, complaint, available):
    """Debian's package alone knows of none; a controller that is down comes back."""
    commands.answer("sbatch")
    commands.answer("scontrol", stderr=complaint, exit_code=1 if complaint else 0)
    assert slurm.available() is available
    assert commands.calls("scontrol") == ["ping"]


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ("PENDING None", ("PENDING", "")),
        ("PENDING Resources", ("PENDING", "Resources")),
        ("PENDING ReqNodeNotAvail, UnavailableNodes:n1", ("PENDING", "ReqNodeNotAvail")),
        ("PENDING launch failed requeued held", ("PENDING", "launch failed requeued held")),
        ("RUNNING None", ("RUNNING", "")),
        ("FAILED NonZeroExitCode", ("FAILED", "")),
        ("OUT_OF_MEMORY", ("OUT_OF_MEMORY", "")),
    ],
)
def test_state(commands, answer, state):
    commands.answer("squeue", f"{answer}\n")
    assert slurm.state_of("42") == state
    [call] = commands.calls("squeue")
    assert "--jobs=42" in call
    assert "--states=all" in call


def test_a_job_that_the_controller_has_forgotten(commands):
    commands.answer("squeue", stderr="slurm_load_jobs error: Invalid job id specified", exit_code=1)
    assert slurm.state_of("42") == (slurm.GONE, "")
    commands.answer("squeue", "\n")
    assert slurm.state_of("42") == (slurm.GONE, "")
    assert slurm.GONE in slurm.ENDED - slurm.FINAL


def test_states_of_all_jobs_of_a_name(commands):
    commands.answer("squeue", first="printf '7_1 RUNNING\\n7_2 PENDING\\n8 COMPLETED\\n'")
    assert slurm.states_named("run") == {"7_1": "RUNNING", "7_2": "PENDING", "8": "COMPLETED"}
    [call] = commands.calls("squeue")
    assert {"--array", "--states=all", "--me", "--name=run"} <= set(call.split())
    commands.answer("squeue", "7_1 RUNNING and more\n")
    with pytest.raises(Unreachable, match="squeue answered '7_1 RUNNING and more'"):
        slurm.states_named("run")


@pytest.mark.parametrize(
    "complaint",
    [AWAY, "squeue: error: Socket timed out\n", "", "Could not establish a configuration source"],
)
def test_no_answer(commands, complaint):
    for name, ask in (
        ("squeue", lambda: slurm.state_of("42")),
        ("squeue", lambda: slurm.active_jobs_named("x")),
        ("scancel", lambda: slurm.cancel_jobs_named("x")),
    ):
        commands.answer(name, stderr=complaint, exit_code=1)
        with pytest.raises(Unreachable) as refused:
            ask()
        assert type(refused.value) is Unreachable
        assert str(refused.value) == (" ".join(complaint.split()) or f"{name} failed")


@pytest.mark.parametrize(
    "complaint",
    [
        "slurm_load_jobs error: Protocol authentication error",
        "slurm_load_jobs error: Authentication credential expired",
        'error: Munge encode failed: Failed to access "/run/munge/munge.socket.2"',
        "squeue: error: No cluster 'x' known by database.",
        "squeue: error: Invalid user: nobody",
        "slurm_load_jobs error: Access/permission denied",
        "slurm_load_jobs error: Incompatible versions of client and server code",
        "squeue: fatal: Unable to process configuration file",
        "squeue: unrecognized option '--me'",
    ],
)
def test_a_refusal(commands, complaint):
    commands.answer("squeue", first=f"/bin/cat <<'E' >&2\n{complaint}\nE", exit_code=1)
    with pytest.raises(Refused) as refused:
        slurm.state_of("42")
    assert complaint in str(refused.value)


def test_a_command_that_is_gone(commands):
    with pytest.raises(Refused, match="squeue: No such file or directory"):
        slurm.state_of("42")


def test_patience_is_long_without_an_answer_and_short_with_a_refusal(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    patience = Patience()
    for now[0] in (0, slurm.REFUSED_SECONDS, slurm.NO_ANSWER_SECONDS - 1):
        patience.spend(Unreachable("connection refused"))
    patience.spend(Refused("authentication"))  # The first one.
    now[0] += slurm.REFUSED_SECONDS
    with pytest.raises(RunError, match="the same command goes on"):
        patience.spend(Refused("authentication"))
    with pytest.raises(RunError, match=r"connection refused \(for 3 days, 0:00:00\)"):
        patience.spend(Unreachable("connection refused"))


def test_no_answer_in_time(commands, monkeypatch):
    monkeypatch.setattr(slurm, "ANSWER_SECONDS", 0.2)
    commands.answer("squeue", first="exec /bin/sleep 20")
    begun = time.monotonic()
    with pytest.raises(Unreachable, match=r"squeue did not answer in 0\.2 seconds"):
        slurm.state_of("42")
    assert time.monotonic() - begun < 5


def test_active_jobs_are_the_newest_first(commands):
    listed = "9 RUNNING\\n100 PENDING\\n8 COMPLETED\\n10 OF_A_LATER_SLURM\\n7 CANCELLED\\n"
    commands.answer("squeue", first=f"printf '{listed}'")
    assert slurm.active_jobs_named("model-12") == ["100", "10", "9"]
    assert commands.calls("squeue") == ["--noheader --me --name=model-12 --format=%A %T"]
    commands.answer("squeue")
    assert slurm.active_jobs_named("model-12") == []


def test_only_own_jobs_are_cancelled(commands):
    commands.answer("scancel")
    slurm.cancel_jobs_named("model-12")
    assert commands.calls("scancel") == ["--me --name=model-12"]


def test_a_clean_environment_and_what_comes_back(monkeypatch):
    surrounding = {
        "SLURM_JOB_ID": "1",
        "SLURM_MEM_PER_NODE": "8000",
        "SBATCH_PARTITION": "cpu",
        "CUDA_VISIBLE_DEVICES": "0",
        "SLURM_CONF": "/etc/slurm.conf",
        "HOME_OF_DATA": "/data",
    }
    for name, value in surrounding.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    for variables, kept in ((), {"CUDA_VISIBLE_DEVICES"}), (slurm.INHERITED, set()):
        with slurm.clean_environment(*variables):
            left = {name for name in surrounding if name in os.environ}
            assert left == {"SLURM_CONF", "HOME_OF_DATA"} | kept
    assert dict(os.environ) == before
