"""Repeated starts of one launch at the same step count, which are counted."""

import pytest

from psld.cluster.job import FRUITLESS_LIVES, LAUNCH, begin_life, read_lives
from psld.utils.errors import RunError


@pytest.fixture(autouse=True)
def launch(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv(LAUNCH, "mine")


def test_every_life_is_noted(tmp_path):
    assert read_lives(tmp_path, "mine") == []
    for step in (0, 50, 50, 80):
        begin_life(tmp_path, step)
    assert read_lives(tmp_path, "mine") == [0, 50, 50, 80]


def test_one_that_gets_nowhere_gives_up(tmp_path):
    begin_life(tmp_path, 0)
    for _ in range(FRUITLESS_LIVES):
        begin_life(tmp_path, 50)
    with pytest.raises(RunError, match=r"began at step 50 .*checkpoint_every"):
        begin_life(tmp_path, 50)
    assert read_lives(tmp_path, "mine") == [0, *[50] * FRUITLESS_LIVES], "the refused one is none"


def test_progress_and_then_none_is_counted_anew(tmp_path):
    for step in (0, 0, 50, 50, 90, 90):
        begin_life(tmp_path, step)
    with pytest.raises(RunError, match="step 90"):
        begin_life(tmp_path, 90)


def test_another_launch_starts_from_nothing(tmp_path, monkeypatch):
    """Somebody who has changed the time limit runs the same command again."""
    for _ in range(FRUITLESS_LIVES):
        begin_life(tmp_path, 50)
    monkeypatch.setenv(LAUNCH, "another")
    begin_life(tmp_path, 50)
    assert read_lives(tmp_path, "another") == [50]


def test_without_a_launcher_the_job_is_the_launch(tmp_path, monkeypatch):
    monkeypatch.delenv(LAUNCH)
    begin_life(tmp_path, 3)
    assert read_lives(tmp_path, "7") == [3]
    assert read_lives(tmp_path, "mine") == []
