"""The stages of a tiny project: their commands, and the files that they read and make."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from psld.sampling.shards import Shard
from psld.utils.files import write_text
from tests.commands import TINY, Finished, call, succeeded
from tests.data.formats import encode, random_images, write_zip
from tests.networks.test_import import TINY as OFFICIAL
from tests.networks.test_import import VECTOR, overrides
from tests.report.lives import live

WITHOUT_PREVIEWS = [*TINY, "training.checkpoint_every=2", "training.steps=4"]

DATASET = yaml.safe_load("""
name: tiny
channels: 1
image_size: 8
num_classes: 2
flip: false
filter: null
source: {kind: folder, root: pictures.zip, test_root: null, test_fraction: 0.25, broken: stop}
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
gallery: em-2
figures: {shown: small/guided-2}
models: {small: [process=psld]}
guides: {steer: [dataset=tiny, process=psld, network=guide-demo, training=guide-demo]}
samplers:
  em: {overrides: [sampler=em], budget: sampler.steps}
  guided:
    overrides: [sampler=em, guidance@sampler.guidance=classifier]
    guide: steer
    budget: sampler.steps
tables:
  mine:
    title: Mine
    headings: [model]
    cell: {budget: 2}
    columns: [{label: guided, sampler: guided}, {label: EM, sampler: em}]
    rows: [{label: [small], model: small}]
""")


@dataclass(frozen=True)
class Stage:
    """A command with its files, which lie in one project for all stages."""

    name: str
    """The row of the matrix."""
    command: tuple[str, ...]
    """The words after `psld`."""
    inputs: dict[str, str]
    """The files that it reads, and for each the command that makes it; `` for a user's own."""
    outputs: tuple[str, ...]
    """Patterns of the files that it makes, as for Path.glob."""
    work: tuple[str, ...] = ()
    """Patterns of the folders and files that it goes on from after an interruption."""

    def run(self, project: Path) -> Finished:
        """Run the command in this process."""
        return call(project, *self.command)

    def made(self, project: Path) -> dict[str, bytes]:
        """The outputs that are there, by their paths."""
        files = {file for pattern in self.outputs for file in project.glob(pattern)}
        return {str(file.relative_to(project)): file.read_bytes() for file in sorted(files)}

    def result(self, project: Path) -> dict[str, Any]:
        """The outputs that are there, without durations: two whole runs have equal results."""
        return {name: without_durations(project / name) for name in self.made(project)}

    def forget(self, project: Path) -> None:
        """Remove outputs and work, so that the stage has everything to do."""
        for pattern in (*self.outputs, *self.work):
            for path in list(project.glob(pattern)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


TIMED = {"seconds", "sampling_seconds", "images_per_second", "git_revision"}
"""The keys of JSON files in which two whole runs may differ."""
TIMED_DIGESTS = {"digest", "kept_sha256", "record_sha256"}
"""The digests of contents with durations."""


def without_durations(path: Path) -> Any:
    """The content of an output, for comparison."""
    if path.suffix == ".json":
        return _without(json.loads(path.read_bytes()), TIMED | TIMED_DIGESTS)
    if path.suffix == ".h5" and "samples" in path.parts:
        return Shard.load(path).content_digest()
    return path.read_bytes()


def _without(content: Any, keys: set[str]) -> Any:
    if isinstance(content, dict):
        return {k: _without(value, keys) for k, value in content.items() if k not in keys}
    return [_without(part, keys) for part in content] if isinstance(content, list) else content


DATA = {"data/tiny.h5": "prepare"}
MODEL = {f"models/mine/small/{n}": "train" for n in ("manifest.json", "weights.safetensors")}
GUIDE = {f"guides/mine/steer/{n}": "train_guide" for n in ("manifest.json", "weights.safetensors")}
EXTRACTOR = {
    f"features/tiny/fd-classifier-tiny/{name}": "train_extractor"
    for name in ("manifest.json", "weights.safetensors")
}
REFERENCE = {
    f"features/tiny/fd-classifier-tiny/reference/{name}": "reference"
    for name in ("manifest.json", "features.safetensors")
}
SHARDS = {f"samples/mine/small/guided-2/0000{i}.h5": "sample" for i in range(2)}
RECORD = {"samples/mine/small/guided-2/00000-00001.json": "sample"}
RESULT = {"results/cells/mine/small/guided-2.json": "evaluate"}
KEPT = {"results/cells/mine/small/guided-2.safetensors": "evaluate"}
SYNCED = "runs/synced/wandb/offline-run-20000101_000001-synced/run-synced.wandb"

STAGES = (
    Stage("prepare", ("prepare", "dataset=tiny"), {"pictures.zip": ""}, ("data/*",)),
    Stage(
        "train",
        ("train", "model=mine/small", "output=models/mine/small"),
        DATA,
        ("models/mine/small/*",),
        ("runs/small-*",),
    ),
    Stage(
        "train_guide",
        ("train_guide", "guide=mine/steer", "output=guides/mine/steer"),
        DATA,
        ("guides/mine/steer/*",),
        ("runs/steer-*",),
    ),
    Stage(
        "train_extractor",
        ("train_extractor", "dataset=tiny", "metric=fd-classifier-tiny"),
        DATA,
        ("features/tiny/fd-classifier-tiny/*.*",),
    ),
    Stage(
        "sample",
        ("sample", "cell=mine/small/guided-2", "shards=2"),
        MODEL | GUIDE,
        ("samples/mine/small/guided-2/*",),
    ),
    Stage(
        "evaluate",
        ("evaluate", "cell=mine/small/guided-2"),
        SHARDS | REFERENCE | EXTRACTOR,
        ("results/cells/mine/small/*",),
    ),
    Stage(
        "tabulate",
        ("tabulate", "grid_name=mine", "table=mine"),
        RESULT,
        ("results/tables/mine/*",),
    ),
    Stage(
        "figures",
        ("figure", "grid_name=mine", "figure=shown"),
        {next(iter(SHARDS)): "sample"},
        ("results/figures/mine/*",),
    ),
    Stage(
        "report",
        ("page", "grid_name=mine"),
        RESULT | {"results/figures/mine/shown.png": "figure"},
        ("results/mine.html",),
    ),
    Stage(
        "sync", ("wandb", "sync", "grid_name=mine"), {SYNCED: "train"}, (), (f"{SYNCED}.synced",)
    ),
    Stage(
        "import",
        ("import", "official.ckpt", *overrides(VECTOR), "output=models/imported"),
        {"official.ckpt": ""},
        ("models/imported/*",),
    ),
    Stage(
        "certify",
        ("certify", "grid_name=mine"),
        RESULT | KEPT | REFERENCE | RECORD,
        ("results/certificates/mine.zip",),
    ),
)
"""The rows of the matrix, in the order in which they run. Each reads what earlier ones made."""


def make_project(folder: Path) -> None:
    """Write the inputs, and run every stage."""
    trained = {
        "models": {"small": [*GRID["models"]["small"], *WITHOUT_PREVIEWS]},
        "guides": {"steer": [*GRID["guides"]["steer"], *WITHOUT_PREVIEWS]},
    }
    for name, content in {
        "dataset/tiny": DATASET,
        "metric/fd-classifier-tiny": METRIC,
        "grid/mine": GRID | trained,
    }.items():
        write_text(folder / f"configs/{name}.yaml", yaml.safe_dump(content, sort_keys=False))
    write_zip(folder / "pictures.zip", pictures(seed=0))
    shutil.copy(OFFICIAL, folder / "official.ckpt")
    live(folder / "runs/synced", range(1, 3), begun=1)
    for stage in STAGES:
        succeeded(stage.run(folder))
        if stage.name == "train_extractor":
            succeeded(call(folder, "reference", *stage.command[1:]))


def pictures(seed: int) -> dict[str, bytes]:
    """Twelve random pictures of each of two classes."""
    random = random_images(24, 8, 8, seed=seed)
    return {f"{'ab'[i % 2]}/{i}.png": encode(np.asarray(one)) for i, one in enumerate(random)}


def others(project: Path, stage: Stage) -> Iterator[Path]:
    """All files of a project that the stage may not touch."""
    own = {path for pattern in (*stage.outputs, *stage.work) for path in project.glob(pattern)}
    for path in project.rglob("*"):
        if path.is_file() and not own.intersection([path, *path.parents]):
            yield path
