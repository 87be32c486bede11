"""A launcher that is killed or started twice, and the messages of failures."""

import os
import signal

from tests.slurm.training import EVERY, RECIPE

HELD = "slurm_additional_parameters=hold"
"""A job that is submitted and waits until it is released."""


def test_killed_while_the_job_waits_and_again_while_it_runs(training):
    """The second launcher waits for the first launcher; both return to the same job."""
    with training.launched(HELD) as first:
        training.says("is pending")
        with training.launched(HELD) as second:
            training.says("waiting for another launcher of the same training")
            first.kill()
            training.says(f"waiting for job {training.job} of an earlier launcher")
            training.cluster.run("scontrol", "release", training.job)
            training.is_in("RUNNING")
            second.kill()
    with training.launched(HELD) as third:
        training.finishes(third)
    assert (
        training.log.read_text().count(f"waiting for job {training.job} of an earlier launcher")
        == 2
    )
    assert [life["state"] for life in training.ended_lives()] == ["COMPLETED"]
    assert len(training.jobs()) == 1


def test_killed_and_the_job_gone_when_it_comes_back(training):
    with training.launched() as launcher:
        training.reaches(EVERY)
        launcher.kill()
        launcher.wait()
        training.cluster.run("scancel", training.job)
        training.wait(lambda: not training.cluster.queue(), "end of the job")
    reached = training.step()
    with training.launched("nodes=1", "tasks_per_node=1") as launcher:
        training.finishes(launcher)
    first, second = training.begun()
    assert first == 0
    assert second >= reached > 0, "it went on from the checkpoint"


def test_a_broken_rank_ends_the_job_with_its_traceback_in_the_log(training):
    """A rank raises at SIGALRM. Without a checkpoint, the launcher does not try again."""
    (training.folder / "sitecustomize.py").write_text(
        "import signal\n"
        "def fail(*_):\n"
        "    signal.alarm(10)\n"  # again: torch's imports catch exceptions
        "    raise ArithmeticError('a rank is broken')\n"
        "signal.signal(signal.SIGALRM, fail)\n"
    )
    recipe = (*RECIPE, "training.steps=100000", "training.checkpoint_every=100000")
    with training.launched(recipe=recipe) as launcher:
        training.wait(lambda: list(training.folder.glob("runs/*/lives.json")), "begin of a life")
        os.kill(training.ranks_on(training.nodes()[1])[0], signal.SIGALRM)
        training.fails_within_a_minute()
        said = training.finishes(launcher, code=1)
    assert "Traceback (most recent call last)" in said
    assert "ArithmeticError: a rank is broken" in said
    assert "ended as FAILED without saving a checkpoint" in said.splitlines()[-1]
    assert [life["state"] for life in training.ended_lives()] == ["FAILED"]
