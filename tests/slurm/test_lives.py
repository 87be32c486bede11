"""Trainings under cluster failures: all end with the weights of an undisturbed training."""

import os
import signal
import time

import pytest
import torch

from psld.training.files import HISTORY, TrainingHistory
from psld.utils.files import read_json
from tests.slurm.training import EVERY, RECIPE, STEPS, Training


def check_same_weights(training: Training, undisturbed: Training) -> None:
    """Assert that the weights are bit-identical. Dropout is on, and the number of ranks is the
    same."""
    expected, found = undisturbed.weights(), training.weights()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def check_one_job(training: Training, end: str | None, lives: int) -> None:
    """Assert that there was one job that was requeued at least `lives` times, each time with the
    state `end`, and then completed."""
    assert len(training.jobs()) == 1
    states = [life["state"].split()[0] for life in training.ended_lives()]
    assert states[-1] == "COMPLETED"
    assert len(states) > lives
    assert set(states[:-1]) <= {end}, states


def test_undisturbed(undisturbed):
    check_one_job(undisturbed, None, 0)
    assert "2 node(s) with 1 rank(s) each" in undisturbed.log.read_text()
    assert f"step {STEPS}/{STEPS}" in undisturbed.log.read_text(), "progress is passed on"


@pytest.mark.parametrize(
    ("partition", "signal"), [("low", "USR2"), ("low", "TERM"), ("low-now", "USR2")]
)
def test_preemption(training, undisturbed, partition, signal):
    """A job in a partition of higher priority preempts the training, with and without ten seconds
    of grace.

    If Slurm sends no warning (PreemptParameters), it sends SIGTERM to every process of the job;
    ranks that handle SIGTERM can save during KillWait.
    """
    where = (f"slurm_partition={partition}", f"slurm_additional_parameters=signal={signal}@60")
    with training.launched(*where) as launcher:
        training.reaches(EVERY)
        asked = ("--partition=high", "--nodes=4", "--exclusive", "--output=/dev/null")
        training.cluster.run("sbatch", *asked, "--wrap=sleep 2")
        training.finishes(launcher)
    check_same_weights(training, undisturbed)
    check_one_job(training, "PREEMPTED", 1)
    assert training.begun()[1] % EVERY, "it saved when it was told to stop"
    steps = [entry.step for entry in TrainingHistory.read(training.run / HISTORY).entries]
    assert len(steps) == len(set(steps))
    assert {*range(50, STEPS + 1, 50)} <= set(steps)


def test_time_limit_three_times(training, undisturbed):
    with training.launched() as launcher:
        for life in (1, 2, 3):
            training.wait(lambda life=life: len(training.begun()) >= life, "begin of a life")
            training.reaches(40 * life)
            training.ends_within_its_warning_time()
            training.wait(lambda life=life: len(training.lives()) > life, "next life")
        training.finishes(launcher)
    check_same_weights(training, undisturbed)
    check_one_job(training, "REQUEUED", 3)
    assert all(step % EVERY for step in training.begun()[1:4]), "each warning saved a checkpoint"


OWN = """
from pathlib import Path
from psld.parts import Logger, Network, Schedule

class Same(Network):
    def build(self, in_channels, out_channels, image_size, num_classes):
        from psld.networks.settings import NetworkSettings
        same = NetworkSettings(base_channels=8, channel_multipliers=(1, 2), blocks_per_level=1,
            block="ddpm", embedding="fourier", fourier_scale=1.0, resample_with_conv=False,
            progressive_input="residual")
        return same.build(in_channels, out_channels, image_size, num_classes)

class Flat(Schedule):
    def factor(self, step, steps):
        return 1

class Steps(Logger):
    def start(self, run, settings, from_step):
        def log(entry):
            with Path("steps.txt").open("a") as file:
                file.write(f"{entry['step']}\\n" if entry else "")
        return log
"""
PARTS = ("network=own:Same", "training.schedule=own:Flat", "logger=own:Steps")


def test_requeue_by_an_administrator_with_parts_of_ones_own(training, undisturbed):
    """The network equals the network of the other trainings, and each step is logged once."""
    (training.folder / "own.py").write_text(OWN)
    recipe = (*(word for word in RECIPE if not word.startswith("network.")), *PARTS)
    with training.launched(recipe=recipe) as launcher:
        training.reaches(EVERY)
        training.cluster.run("scontrol", "requeue", training.job)
        training.finishes(launcher)
    check_same_weights(training, undisturbed)
    check_one_job(training, "REQUEUED", 1)
    steps = [int(line) for line in (training.folder / "steps.txt").read_text().split()]
    assert steps == sorted(set(steps))
    assert {*range(50, STEPS + 1, 50)} <= set(steps)
    assert (
        read_json(training.folder / "model/manifest.json")["settings"]["network"]["kind"]
        == "own:Same"
    )


def test_a_killed_rank(training, undisturbed):
    """All other ranks end within a minute, and a new job resumes from the last checkpoint."""
    with training.launched() as launcher:
        training.reaches(EVERY)
        node = training.nodes()[1]
        victim = training.ranks_on(node)[0]
        os.kill(victim, signal.SIGKILL)
        training.fails_within_a_minute()
        training.finishes(launcher)
    check_same_weights(training, undisturbed)
    assert [life["state"] for life in training.ended_lives()] == ["FAILED", "COMPLETED"]
    assert len(training.jobs()) == 2


def test_a_killed_slurmd(training, undisturbed):
    """The ranks continue without slurmd."""
    with training.launched() as launcher:
        training.reaches(EVERY)
        node = training.nodes()[1]
        training.cluster.kill_slurmd(node)
        training.reaches(training.step() + 1)
        training.cluster.start_node(node)
        training.finishes(launcher)
    check_same_weights(training, undisturbed)
    check_one_job(training, None, 0)


def test_a_node_that_never_comes_back(training, undisturbed):
    with training.launched() as launcher:
        training.reaches(EVERY)
        lost = training.nodes()[1]
        training.cluster.kill_node(lost)
        training.finishes(launcher)
    check_same_weights(training, undisturbed)
    last = training.ended_lives()[-1]
    assert last["state"] == "COMPLETED"
    assert lost not in training.cluster.host_names(last["nodelist"])


def test_a_controller_that_is_down_for_half_a_minute(training, undisturbed):
    with training.launched() as launcher:
        training.reaches(EVERY)
        training.cluster.stop_controller()
        time.sleep(30)
        training.cluster.start_controller()
        printed = training.finishes(launcher)
    assert "retrying until Slurm answers" in printed
    check_same_weights(training, undisturbed)
    check_one_job(training, None, 0)
