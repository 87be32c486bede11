"""The earlier starts of a training in wandb, and the id of its run."""

import shutil

import pytest

from psld.training import wandb_runs
from psld.training.wandb_runs import last_logged_step, records_in, training_id
from psld.utils.errors import RunError
from tests.report.lives import break_off, damage, live


def test_a_training_keeps_its_id_and_one_in_a_new_directory_gets_another(tmp_path):
    run = tmp_path / "psld-0123456789ab"
    run.mkdir()
    first = training_id(run)
    assert first.startswith("psld-0123456789ab-")
    assert training_id(run) == first
    assert (run / "wandb-id").read_text() == f"{first}\n"
    shutil.rmtree(run)
    assert training_id(run) != first


def test_the_last_step_of_all_lives(tmp_path):
    assert last_logged_step(tmp_path) is None
    file = live(tmp_path, [20, 40, 60])
    assert last_logged_step(tmp_path) == 60
    live(tmp_path, [80], begun=1)
    assert last_logged_step(tmp_path) == 80
    assert file.exists()


@pytest.mark.parametrize("end", [break_off, damage])
def test_of_a_broken_off_life_what_is_whole_counts(tmp_path, end):
    end(live(tmp_path, [20, 40, 60]))
    assert last_logged_step(tmp_path) == 40


@pytest.mark.parametrize("content", [b"", bytes(500)], ids=["empty", "lost in a power cut"])
def test_a_life_that_wrote_nothing_counts_as_nothing(tmp_path, content):
    file = live(tmp_path, [20])
    file.write_bytes(content)
    assert last_logged_step(tmp_path) == 0


def test_a_life_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path, monkeypatch):
    """The steps that it has would be logged again."""
    file = live(tmp_path, [20])
    broken = tmp_path / "wandb-core"
    broken.write_text("#!/bin/sh\necho 'Error: no core' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(wandb_runs, "get_core_path", lambda: str(broken))
    with pytest.raises(RunError, match=f"{file}.*: no core"):
        last_logged_step(tmp_path)


def test_a_life_that_is_cut_off_anywhere_has_what_is_whole(tmp_path):
    file = live(tmp_path, [20, 40, 60])
    content = file.read_bytes()
    whole = records_in(file)
    counts = []
    for end in (*range(0, len(content), len(content) // 40), len(content) - 1):
        file.write_bytes(content[:end])
        found = records_in(file)
        assert found == whole[: len(found)]
        counts.append(len(found))
    assert counts == sorted(counts)
    assert counts[-1] == len(whole) - 1
