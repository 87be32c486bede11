"""`psld wandb track`: a result written offline is not yet online."""

import json
from pathlib import Path

import pytest

import psld.report.track
from psld.report.track import TrackedRun
from psld.training.settings import WandbSettings


@pytest.fixture
def written(monkeypatch) -> list[str]:
    """The modes in which the one result was written."""
    modes: list[str] = []
    monkeypatch.setattr(
        psld.report.track, "write_run", lambda _run, _group, to, _: modes.append(to.mode)
    )
    return modes


def track(folder: Path, mode: str) -> None:
    result = TrackedRun("evaluate-1", job_type="evaluate", name="psld/em-3", config={})
    psld.report.track.track([result], "demo", WandbSettings(mode=mode), folder)


def test_a_switch_to_online_writes_it_again_and_one_back_does_not(written, tmp_path):
    for mode in ("offline", "offline", "online", "online", "offline", "online"):
        track(tmp_path, mode)
    assert written == ["offline", "online"]


def test_what_is_online_need_not_be_written_offline(written, tmp_path):
    track(tmp_path, "online")
    track(tmp_path, "offline")
    assert written == ["online"]


def test_an_older_record_is_made_again(written, tmp_path):
    """It held only the digest."""
    (tmp_path / "written.json").write_text(json.dumps({"evaluate-1": "0" * 64}))
    track(tmp_path, "offline")
    track(tmp_path, "offline")
    assert written == ["offline"]
