"""A training goes on whatever wandb's server answers; `psld wandb sync` uploads what it lacks."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import wandb

from tests.commands import call
from tests.report.server import QUICK, WandbServer, wandb_server
from tests.training.test_wandb import log_of

HISTORY = [{"step": step, "loss": 1 / step} for step in (20, 40, 60)]


@pytest.fixture
def server() -> Iterator[WandbServer]:
    login = {"WANDB_API_KEY": "0" * 40, "WANDB_INIT_TIMEOUT": "2", "WANDB_FINISH_TIMEOUT": "2"}
    with wandb_server() as server, mock.patch.dict(os.environ, {**QUICK, **login}):
        os.environ["WANDB_BASE_URL"] = server.url
        wandb.teardown()  # it reads the environment once
        yield server
        wandb.teardown()


def train(folder: Path, server: WandbServer, **later: object) -> float:
    """Log a history online; the server changes once the run began. Seconds that the loop waited."""
    with log_of(folder / "runs/model", "wandb.mode=online") as log:
        if later:
            deadline = time.monotonic() + 60
            while not server.started and time.monotonic() < deadline:
                time.sleep(0.05)
            vars(server).update(later)
        begun = time.monotonic()
        log.previews[40] = {"samples": np.zeros((8, 8, 3), np.uint8)}
        for entries in (1, 2, 3):
            log.saved(HISTORY[:entries])
        return time.monotonic() - begun


def sync(folder: Path) -> str:
    finished = call(folder, "wandb", "sync", "grid_name=mine")
    assert finished.returncode == 0, finished.stdout
    return finished.stdout


def test_what_the_server_took_is_not_uploaded_again(tmp_path, server, capsys):
    assert train(tmp_path, server) < 1
    assert capsys.readouterr().out == ""
    assert server.all_steps == [20, 40, 60]
    assert sync(tmp_path).startswith("nothing to upload")


REFUSED = [
    *({"refuses": "/", "status": status} for status in (500, 429, 401)),
    {"delay": 1e6},
    {"delay": 0.7},
]


@pytest.mark.parametrize(
    "answers", [pytest.param(each, id=str(each), marks=pytest.mark.slow) for each in REFUSED]
)
def test_a_run_that_the_server_does_not_begin_is_written_offline(tmp_path, server, capsys, answers):
    vars(server).update(answers)
    assert train(tmp_path, server) < 1
    said = capsys.readouterr().out
    assert said.count("\n") <= 1
    vars(server).update(refuses="", delay=0)
    sync(tmp_path)
    assert sorted(server.all_steps) == [20, 40, 60]
    assert sync(tmp_path).startswith("nothing to upload")


def test_a_closed_port_is_one_line_and_the_run_is_offline(tmp_path, server, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    wandb.teardown()
    assert train(tmp_path, server) < 1
    said = capsys.readouterr().out
    assert "the run is written offline; `psld wandb sync` uploads it" in said
    assert said.count("\n") == 1
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    assert ": uploaded" in sync(tmp_path)
    assert server.all_steps == [20, 40, 60]


@pytest.mark.slow
@pytest.mark.parametrize(
    "later",
    [
        {"refuses": "file_stream", "status": 401},
        {"refuses": "file_stream", "status": 500},
        {"refuses": "PUT /file", "status": 500},
        {"delay": 1e6},
    ],
    ids=str,
)
def test_what_the_server_refuses_later_is_uploaded_by_sync(tmp_path, server, capsys, later):
    begun = time.monotonic()
    assert train(tmp_path, server, **later) < 1
    assert time.monotonic() - begun < 60
    assert capsys.readouterr().out.count("\n") <= 1
    vars(server).update(refuses="", delay=0)
    assert ": uploaded" in sync(tmp_path)
    assert sorted(server.all_steps) == [20, 40, 60]
    assert sync(tmp_path).startswith("nothing to upload")
