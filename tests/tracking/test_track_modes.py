"""`psld track`: a result that was written offline is not yet online."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import psld.report.track
from psld.report.tracking import TrackedRun
from tests.commands import call, succeeded


@pytest.fixture
def written(monkeypatch) -> list[str]:
    """The modes in which the one result was written."""
    modes: list[str] = []
    result = TrackedRun("evaluate-1", job_type="evaluate", name="psld/em-3", config={})
    monkeypatch.setattr(psld.report.track, "load_grid", lambda *_: SimpleNamespace(name="demo"))
    monkeypatch.setattr(psld.report.track, "runs_of", lambda *_: [result])
    monkeypatch.setattr(psld.report.track, "write_run", lambda _, to: modes.append(to.wandb.mode))
    return modes


def track(folder: Path, mode: str) -> None:
    succeeded(call(folder, "track", "grid_name=demo", f"wandb.mode={mode}"))


def test_a_switch_to_online_writes_it_again_and_one_back_does_not(written, tmp_path):
    for mode in ("offline", "offline", "online", "online", "offline", "online"):
        track(tmp_path, mode)
    assert written == ["offline", "online"]


def test_what_is_online_need_not_be_written_offline(written, tmp_path):
    track(tmp_path, "online")
    track(tmp_path, "offline")
    assert written == ["online"]


def test_an_older_record_is_made_anew(written, tmp_path):
    """It told only the digest."""
    record = tmp_path / "results/tracked/demo/written.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"evaluate-1": "0" * 64}))
    track(tmp_path, "offline")
    track(tmp_path, "offline")
    assert written == ["offline"]
