"""Three stages of a tiny project, one for each way of writing, with their inputs and outputs.

`start` writes a file of tensors. `evaluate_cell` writes a record and the data from which it was
computed. `train` writes checkpoints, from which it resumes, and then a folder.
"""

import json
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.torch import load_file

from psld.config.settings import DIGEST
from psld.utils.files import write_text
from tests.commands import TINY, Finished, call, files_below, succeeded
from tests.data.formats import encode, random_images, write_zip

WITHOUT_PREVIEWS = [*TINY, "training.checkpoint_every=2", "training.steps=4"]

DATASET = yaml.safe_load("""
name: tiny
channels: 1
image_size: 8
num_classes: 2
flip: false
filter: null
source: {kind: folder, root: pictures.zip, test_fraction: 0.25}
""")

METRIC = yaml.safe_load("""
defaults: [fd-classifier, _self_]
name: fd-classifier-tiny
extractor: {steps: 3, width: 4, features: 4}
""")

GRID = yaml.safe_load("""
defaults: [dataset=tiny, network=demo, training=demo]
metric: fd-classifier-tiny
samples: 6
shard_size: 3
shards_per_job: 2
batch_size: 3
gallery: few-8
models: {small: [process=psld]}
samplers: {few: {overrides: [sampler=few], budget: sampler.steps}}
tables:
  mine:
    title: Mine
    headings: [model]
    cell: {sampler: few, budget: 8}
    columns: [{label: few}]
    rows: [{label: [small], model: small}]
""")


@dataclass(frozen=True)
class Stage:
    """A command with its files; all stages share one project."""

    name: str
    """The command, a key of COMMANDS."""
    inputs: dict[str, str]
    """The files that the command reads; each value is the command that makes the file."""
    outputs: tuple[str, ...]
    """Patterns of the files that the command makes; `*` also matches folders."""
    work: tuple[str, ...] = ()
    """Patterns of the files from which the command resumes after an interruption."""

    @property
    def words(self) -> tuple[str, ...]:
        """The words after `psld`."""
        return (self.name, *COMMANDS[self.name])

    def run(self, project: Path) -> Finished:
        """Run the command in this process."""
        return call(project, *self.words)

    def made(self, project: Path) -> dict[str, bytes]:
        """Return the existing outputs, keyed by path."""
        files = files_below(project)
        return {name: files[name] for name in sorted(files) if _matches(name, self.outputs)}

    def result(self, project: Path) -> dict[str, Any]:
        """Return the existing outputs without durations; two complete runs have equal results."""
        return {name: without_durations(project / name) for name in self.made(project)}

    def forget(self, project: Path) -> None:
        """Remove the outputs and the work files, so that the stage starts from its beginning."""
        for name in files_below(project):
            if self.owns(name):
                (project / name).unlink()

    def owns(self, name: str) -> bool:
        """Return True if the stage may write this file, as an output or a work file."""
        return _matches(name, (*self.outputs, *self.work))


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


TIMED = {"time", "seconds", "sampling_seconds", "images_per_second", "git_revision"}
"""The keys of JSON files in which two complete runs may differ."""
DIGESTS_OF_TIMED = {"digest", "kept_sha256", DIGEST}
"""The keys of digests of contents that include durations."""


def without_durations(path: Path) -> Any:
    """Return the content of an output for a comparison."""
    match path.suffix, path.parts[-2]:
        case ".json", _:
            return without(json.loads(path.read_bytes()), TIMED | DIGESTS_OF_TIMED)
        case ".safetensors", "small" if "cells" in path.parts:
            return {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}
    return path.read_bytes()


def without(content: Any, keys: set[str]) -> Any:
    """Return the nested dictionaries and lists without these keys."""
    if isinstance(content, dict):
        return {k: without(value, keys) for k, value in content.items() if k not in keys}
    return [without(part, keys) for part in content] if isinstance(content, list) else content


COMMANDS = {
    "prepare": ("dataset=tiny",),
    "train": ("model=mine/small", "output=models/mine/small"),
    "train_extractor": ("dataset=tiny", "metric=fd-classifier-tiny"),
    "reference": ("dataset=tiny", "metric=fd-classifier-tiny"),
    "start": ("start=mine/tiny",),
    "sample": ("cell=mine/small/few-8", "shards=2"),
    "evaluate_cell": ("cell=mine/small/few-8",),
}
"""The commands that make the project, in this order, with their arguments."""

DATA = {"data/tiny.h5": "prepare"}
MODEL = {f"models/mine/small/{name}": "train" for name in ("manifest.json", "weights.safetensors")}
START = {"starts/tiny.safetensors": "start"}
EXTRACTOR = {
    f"features/tiny/fd-classifier-tiny/{name}": "train_extractor"
    for name in ("manifest.json", "weights.safetensors")
}
USED = {name: maker for name, maker in MODEL.items() if "weights" not in name}
"""The manifest, which identifies the weights that made a cell's images."""
REFERENCE = {
    f"features/tiny/fd-classifier-tiny/reference/{name}": "reference"
    for name in ("manifest.json", "features.safetensors")
}
SHARDS = {f"samples/mine/small/few-8/0000{i}.safetensors": "sample" for i in range(2)}
RECORD = "samples/mine/small/few-8/00000-00001.json"

STAGES = (
    Stage("start", DATA, ("starts/*",)),
    Stage(
        "evaluate_cell",
        SHARDS | REFERENCE | EXTRACTOR | USED | START,
        ("results/cells/mine/small/*",),
    ),
    Stage("train", DATA, ("models/mine/small/*",), ("runs/small-*/*",)),
)


def make_project(folder: Path, seed: int = 0) -> None:
    """Write the inputs, which depend on the seed, and run every command."""
    trained = {"models": {"small": [*GRID["models"]["small"], *WITHOUT_PREVIEWS]}}
    for name, content in {
        "dataset/tiny": DATASET,
        "metric/fd-classifier-tiny": METRIC,
        "grid/mine": GRID | trained,
    }.items():
        write_text(folder / f"configs/{name}.yaml", yaml.safe_dump(content, sort_keys=False))
    write_zip(folder / "pictures.zip", pictures(seed))
    for name, words in COMMANDS.items():
        succeeded(call(folder, name, *words))


def pictures(seed: int) -> dict[str, bytes]:
    """Return twelve random pictures of each of two classes."""
    random = random_images(24, 8, 8, seed=seed)
    return {f"{'ab'[i % 2]}/{i}.png": encode(np.asarray(one)) for i, one in enumerate(random)}
