"""`psld wandb sync`: each step and each result reaches the server, also after failures."""

from collections.abc import Iterator

import pytest
import wandb

from psld.training.files import HISTORY, preview_path
from psld.utils.locks import sole_holder
from tests.commands import call, refused, succeeded
from tests.report.server import WandbServer, wandb_server
from tests.report.trainings import write_training


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with wandb_server() as server:
        yield server


def sync(project) -> list[str]:
    """Return the output line of each run, without the last line, which counts the runs."""
    *lines, _ = succeeded(call(project, "wandb", "sync")).stdout.splitlines()
    return lines


def test_a_training_is_uploaded_with_its_times_and_pictures(tmp_path, server):
    training = write_training(tmp_path, [10, 20, 30])
    assert sync(tmp_path) == ["runs/model: uploaded"]
    online = server.runs["model-id"]
    assert online.steps == [10, 20, 30]
    assert [row["_timestamp"] for row in online.history.values()] == [1e9 + s for s in (10, 20, 30)]
    assert [row["loss"] for row in online.history.values()] == [1 / s for s in (10, 20, 30)]
    assert [step for step, row in online.history.items() if "samples" in row] == [20]
    assert online.logged_file("samples") == preview_path(training, 20).read_bytes()
    names = {"displayName": "model", "groupName": "mine", "jobType": "train", "project": "psld"}
    assert names.items() <= online.options.items()
    assert online.config["process"] == {"gamma": 0.02}
    assert online.stats == 0, "not of the machine that uploads"
    assert online.exit_code == 1, "it was killed"


def test_each_step_is_uploaded_once(tmp_path, server):
    training = write_training(tmp_path, [10, 20])
    sync(tmp_path)
    (training / "model").mkdir()
    (training / "model/manifest.json").touch()
    write_training(tmp_path, [10, 20, 30, 40])
    server.runs["model-id"].history[10]["loss"] = "of the first upload"
    assert sync(tmp_path) == ["runs/model: uploaded"]
    online = server.runs["model-id"]
    assert online.steps == [10, 20, 30, 40]
    assert online.lines == 4
    assert online.history[10]["loss"] == "of the first upload"
    assert online.exit_code == 0


def test_a_training_before_its_first_checkpoint_has_nothing_to_upload(tmp_path, server):
    (write_training(tmp_path, [10]) / HISTORY).unlink()
    assert sync(tmp_path) == []
    assert not server.runs


@pytest.mark.parametrize("verb", ["sync", "dashboard"])
def test_wandb_may_be_disabled(tmp_path, server, monkeypatch, verb):
    write_training(tmp_path, [10])
    monkeypatch.setenv("WANDB_MODE", "disabled")
    said = succeeded(call(tmp_path, "wandb", verb)).stdout
    assert said == "nothing is uploaded: WANDB_MODE=disabled\n"
    assert not server.runs


def test_a_running_training_is_left_for_the_next_sync(tmp_path, server):
    with sole_holder(write_training(tmp_path, [10]) / "lock", "waiting"):
        said = succeeded(call(tmp_path, "wandb", "sync")).stdout
    assert said.startswith("runs/model: left for the next sync, because the training is running\n")
    assert not server.runs


TRIED_AGAIN = [pytest.mark.slow]  # until wandb's time limit for an upload ends


@pytest.mark.parametrize(
    ("refuses", "status", "exit_code"),
    [
        ("file_stream", 401, 0),  # wandb reports no error
        pytest.param("file_stream", 500, 1, marks=TRIED_AGAIN),
        pytest.param("PUT /file", 500, 1, marks=TRIED_AGAIN),
    ],
)
def test_the_next_sync_uploads_what_did_not_arrive(tmp_path, server, refuses, status, exit_code):
    write_training(tmp_path, [10, 20])
    server.refuses, server.status = refuses, status
    finished = call(tmp_path, "wandb", "sync")
    if exit_code:
        refused(finished, 1, "wandb: 1 uploads failed; the reasons are above")
        assert finished.stdout.startswith("runs/model: not uploaded: ")
        assert finished.stdout.count("\n") == 1
    else:
        assert succeeded(finished).stdout.endswith("1 runs of runs uploaded\n")
    server.refuses = ""
    sync(tmp_path)
    assert server.runs["model-id"].steps == [10, 20]


def test_a_damaged_history_is_named_and_the_others_are_uploaded(tmp_path, server):
    damaged = write_training(tmp_path, [10, 20], "damaged") / HISTORY
    write_training(tmp_path, [10])
    damaged.write_bytes(damaged.read_bytes().replace(b"0.1", b"0.2"))
    failed = call(tmp_path, "wandb", "sync")
    refused(failed, 1, "wandb: 1 uploads failed;")
    assert "runs/damaged: not uploaded: runs/damaged/history.json: not a training" in failed.stdout
    assert list(server.runs) == ["model-id"]


@pytest.mark.slow  # wandb waits 20 seconds.
def test_a_missing_server_is_reported_in_one_line(tmp_path, server, monkeypatch):
    write_training(tmp_path, [10])
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    wandb.teardown()
    refused(call(tmp_path, "wandb", "sync"), 1, "wandb: 1 uploads failed; the reasons are above")


def test_a_missing_login_is_reported_in_one_line(tmp_path, server, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY")
    wandb.teardown()  # wandb reads the environment only once.
    finished = call(tmp_path, "wandb", "sync")
    refused(finished, 2, "wandb: ", "API key")
    assert finished.stdout == ""
