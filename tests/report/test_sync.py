"""`psld wandb sync`: each step reaches the server once, for any end of the earlier starts."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from psld.report.sync import mark_of
from psld.utils.locks import sole_holder
from tests.commands import Finished, call, refused, succeeded
from tests.report.lives import break_off, damage, live
from tests.report.server import QUICK, WandbServer, wandb_server


@pytest.fixture(autouse=True)
def server(monkeypatch) -> Iterator[WandbServer]:
    """A server for wandb, with a login and short pauses between retries."""
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        for name, value in QUICK.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(scope="module")
def two_lives(tmp_path_factory) -> Path:
    """A project in which the training `model` had two lives."""
    folder = tmp_path_factory.mktemp("lives")
    live(folder / "runs/model", range(1, 4), begun=1)
    live(folder / "runs/model", range(4, 7), begun=2)
    return folder


@pytest.fixture
def project(two_lives, tmp_path) -> Path:
    return shutil.copytree(two_lives, tmp_path / "project", symlinks=True)


def files(project: Path) -> list[Path]:
    return sorted(project.glob("runs/model/wandb/*/*.wandb"))


def sync(project: Path) -> Finished:
    return call(project, "wandb", "sync", "grid_name=mine")


def says(finished: Finished) -> list[str]:
    """What became of each file, without its path."""
    return [line.partition(": ")[2] for line in succeeded(finished).stdout.splitlines()]


NOTHING = "nothing to upload in runs and results/tracked/mine\n"


def test_trainings_and_results_are_uploaded_once(project, server):
    live(project / "results/tracked/mine", [1], run_id="evaluate-1")
    live(project / "results/tracked/other", [1], run_id="evaluate-2")
    assert says(sync(project)) == ["uploaded"] * 3
    assert server.steps("model") == [1, 2, 3, 4, 5, 6]
    assert server.uploads == ["model", "model", "evaluate-1"]
    assert succeeded(sync(project)).stdout == NOTHING
    assert len(server.uploads) == 3


@pytest.mark.parametrize("end", [break_off, pytest.param(damage, marks=pytest.mark.slow)])
def test_what_is_whole_of_a_broken_off_life_is_uploaded_once(project, server, end):
    end(files(project)[0])
    cut_off = "uploaded up to an incomplete record"
    assert says(sync(project)) == [cut_off, "uploaded"]
    assert server.steps("model") == [1, 2, 4, 5, 6]
    assert succeeded(sync(project)).stdout == NOTHING
    assert server.steps("model") == [1, 2, 4, 5, 6]


@pytest.mark.parametrize("size", [0, 7, 100])
def test_a_life_that_wrote_no_run_is_passed_over(project, server, size):
    """0: wandb had opened the file; 7: LevelDB's header stood there; 100: wandb's as well."""
    first, second = files(project)
    first.write_bytes(first.read_bytes()[:size])
    shutil.rmtree(second.parent)
    assert succeeded(sync(project)).stdout == NOTHING
    assert server.uploads == []


def test_a_training_that_runs_is_left_for_later(project, server):
    with sole_holder(project / "runs/model/lock", "waiting"):
        assert says(sync(project)) == ["left for the next sync, the training is running"]
    assert server.uploads == []
    assert not any(mark_of(file).exists() for file in files(project))


@pytest.mark.slow
def test_what_the_server_refuses_is_uploaded_by_the_next_sync(project, server):
    """wandb itself would mark it. If an upload fails, later files of its training wait."""
    server.refuses = "/file_stream"
    failed = sync(project)
    refused(failed, 1, "wandb: uploads that failed: 1,")
    assert failed.stdout.startswith(f"{files(project)[0].parent.relative_to(project)}: not upl")
    assert failed.stdout.count("\n") == 1
    assert not any(mark_of(file).exists() for file in files(project))
    server.refuses = ""
    assert says(sync(project)) == ["uploaded"] * 2
    assert server.steps("model") == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
@pytest.mark.parametrize("refuses", ["/graphql", "/file_stream"])
def test_a_broken_off_life_that_is_refused_is_not_marked_and_others_go_on(project, server, refuses):
    break_off(files(project)[0])
    live(project / "runs/other", [1])
    server.refuses = refuses
    failed = sync(project)
    refused(failed, 1, "wandb: uploads that failed: 2,")
    assert failed.stdout.count("\n") == failed.stdout.count(": not uploaded: ") == 2
    server.refuses = ""
    assert len(says(sync(project))) == 3
    assert server.steps("model") == [1, 2, 4, 5, 6]
    assert server.steps("other") == [1]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(404, "uploaded, without 4 files that the server rejects"), (500, "not uploaded: ")],
)
@pytest.mark.slow
def test_images_that_the_server_does_not_take_are_said(tmp_path, server, status, outcome):
    file = live(tmp_path / "runs/model", [1])
    for name in ("a.png", "b.png"):
        (file.parent / "files" / name).write_bytes(b"picture")
    server.refuses, server.status = "PUT /file", status
    said = sync(tmp_path).stdout
    assert f": {outcome}" in said
    assert said.count("\n") == 1
    assert mark_of(file).exists() == (status == 404)


@pytest.mark.slow
def test_a_life_without_its_files_is_uploaded_without_them(project, server):
    for file in files(project):
        shutil.rmtree(file.parent / "files")
    assert says(sync(project)) == ["uploaded"] * 2
    assert server.steps("model") == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("key", [None, "short"])
def test_without_a_login_there_is_one_line(project, monkeypatch, key):
    monkeypatch.setenv("HOME", str(project))
    monkeypatch.delenv("WANDB_API_KEY")
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    finished = sync(project)
    refused(finished, 2, "wandb: ", "API key", *([] if key else ["wandb login"]))
    assert finished.stdout == ""
    shutil.rmtree(project / "runs")
    assert succeeded(sync(project)).stdout == NOTHING


def test_a_clock_that_was_set_back_does_not_change_the_order(project, server):
    first, second = (file.parent for file in files(project))
    second.rename(second.with_name(second.name.replace("20000101", "19991231")))
    assert says(sync(project)) == ["uploaded"] * 2
    assert server.steps("model") == [1, 2, 3, 4, 5, 6]
    assert first.exists()


@pytest.mark.slow
def test_a_file_whose_mark_was_lost_is_uploaded_again_under_its_steps(tmp_path, server):
    """As after a kill between the upload and the mark. Later files keep their steps, too."""
    first = live(tmp_path / "runs/model", [1, 2], begun=1)
    assert says(sync(tmp_path)) == ["uploaded"]
    uploaded = dict(server.histories["model"])
    mark_of(first).unlink()
    live(tmp_path / "runs/model", [3, 4], begun=2)
    assert says(sync(tmp_path)) == ["uploaded"] * 2
    assert server.steps("model") == [1, 2, 3, 4]
    assert {step: server.histories["model"][step] for step in uploaded} == uploaded
    assert server.lines["model"] == 6
