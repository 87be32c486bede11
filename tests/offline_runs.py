"""Offline runs of wandb, read by wandb's own command."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class OfflineRun:
    """One file of wandb's: a run, or one life of it."""

    file: Path
    records: list[dict[str, Any]]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [record[kind] for record in self.records if record["type"] == kind]

    @property
    def start(self) -> dict[str, Any]:
        """Id, name, group, job type, configuration."""
        [start] = self.of_kind("run")
        return start

    @property
    def config(self) -> dict[str, Any]:
        return self.start["config"]["update"]

    @property
    def history(self) -> list[dict[str, Any]]:
        return [record["item"] for record in self.of_kind("history")]

    @property
    def summary(self) -> dict[str, Any]:
        """Nested names are joined by dots."""
        updates = [record.get("update", {}) for record in self.of_kind("summary")]
        return {key: value for update in updates for key, value in update.items()}

    def logged_file(self, name: str) -> Path:
        """The file that was logged under a name: a picture, a table."""
        return self.file.parent / "files" / self.summary[f"{name}.path"]


def offline_runs(folder: Path) -> list[OfflineRun]:
    """Those below `folder`/wandb, oldest first; one that was killed at once has no records."""
    return [OfflineRun(file, _read(file)) for file in sorted(folder.glob("wandb/*run-*/*.wandb"))]


_known: dict[bytes, list[dict[str, Any]]] = {}
"""The records in each content of a file: wandb's command takes half a second."""


def _read(file: Path) -> list[dict[str, Any]]:
    content = file.read_bytes()
    if content not in _known:
        inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", file]
        lines = subprocess.check_output(inspect, text=True).splitlines()
        _known[content] = list(map(json.loads, lines))
    return _known[content]
