"""The import of official checkpoints as models, by hand and through the workflow."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from psld.grid.cache import load_grid
from psld.grid.figures import trained_models
from psld.models.manifest import ModelManifest, read_manifest
from psld.sampling.model import load_model
from psld.sampling.shards import Shard, shard_path
from psld.utils.files import read_json, sha256_of_file, write_text
from tests.commands import call, files_below, refused, succeeded
from tests.data.formats import encode, random_images, write_files
from tests.paper.official_options import settings_from_spec
from tests.reference import DEFAULT, load, reference_files
from tests.workflow.project import GRID, Project

CHECKPOINTS = reference_files("checkpoint_*.ckpt")
TINY = DEFAULT / "checkpoint_tiny.ckpt"
VECTOR = load(TINY.with_suffix(".npz"))
OFFICIAL_NAME = "psld-hsm_gamma=0.02_nu=4.02-epoch=2349-loss=0.0201.ckpt"
CPU = torch.device("cpu")


def network_of(vector: dict[str, np.ndarray]) -> dict[str, object]:
    """Return the settings of the network of a reference vector."""
    return settings_from_spec(json.loads(str(vector["spec"]))).model_dump(mode="json")


def dataset_of(vector: dict[str, np.ndarray]) -> list[str]:
    size, channels = int(vector["size"]), 1 if vector["x"].shape[1] < 3 else 3
    classes = json.loads(str(vector["spec"])).get("n_cls", 0)
    source = ["dataset=folder", "dataset.name=noise", "dataset.source.root=pictures"]
    shape = [f"dataset.image_size={size}", f"dataset.channels={channels}"]
    return [*source, *shape, f"dataset.num_classes={classes}"]


def process_of(vector: dict[str, np.ndarray]) -> str:
    """Infer the process from the channels: VP-SDE has no momentum, CLD predicts half the noise."""
    spec = json.loads(str(vector["spec"]))
    if spec["in_ch"] in (1, 3):
        return "vp-sde"
    return "psld" if spec.get("out_ch", spec["in_ch"]) == spec["in_ch"] else "cld"


def overrides(vector: dict[str, np.ndarray]) -> list[str]:
    network = [f"network.{key}={json.dumps(value)}" for key, value in network_of(vector).items()]
    return [*dataset_of(vector), f"process={process_of(vector)}", "output=model", *network]


def write_pictures(folder: Path) -> None:
    pictures = {f"{i}.png": encode(random_images(16, 16, 3, seed=i)) for i in range(4)}
    write_files(folder / "pictures", pictures)


def check_weights(folder: Path, vector: dict[str, np.ndarray], kind: str) -> None:
    network = load_model(folder, CPU).network
    with torch.no_grad():
        y = network(torch.from_numpy(vector["x"]), torch.from_numpy(vector["t"])).numpy()
    np.testing.assert_allclose(y, vector[f"y_{kind}"], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Return a folder with the prepared dataset of the tiny checkpoint."""
    folder = tmp_path_factory.mktemp("prepared")
    write_pictures(folder)
    prepare(folder, VECTOR)
    return folder


@pytest.fixture
def workplace(prepared, tmp_path) -> Path:
    return shutil.copytree(prepared, tmp_path / "workplace")


def grid_of(folder: Path, vector: dict[str, np.ndarray]) -> dict[str, Any]:
    """Write configs for a vector's dataset and network, and return the tests' grid with these
    configs."""
    shape = dict(word.removeprefix("dataset.").split("=") for word in dataset_of(vector)[3:])
    dataset = {"defaults": ["folder", "_self_"], "name": "noise", "source": {"root": "pictures"}}
    dataset |= {key: int(value) for key, value in shape.items()}
    for path, content in (("dataset/noise", dataset), ("network/official", network_of(vector))):
        write_text(folder / f"configs/{path}.yaml", yaml.safe_dump(content))
    process = f"process={process_of(vector)}"
    defaults = ["dataset=noise", "network=official", "training=tiny", process]
    return yaml.safe_load((folder / GRID).read_text()) | {"defaults": defaults}


def prepare(folder: Path, vector: dict[str, np.ndarray]) -> None:
    succeeded(call(folder, "prepare", *dataset_of(vector), "output=data/noise.h5"))


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("kind", ["ema", "online"])
def test_reference_checkpoint_by_hand(workplace, path, kind):
    vector = load(path.with_suffix(".npz"))
    prepare(workplace, vector)
    file = shutil.copy(path, workplace / OFFICIAL_NAME)
    chosen = [] if kind == "ema" else ["weights=online"]
    succeeded(call(workplace, "import_model", str(file), *overrides(vector), *chosen))
    check_weights(workplace / "model", vector, kind)
    manifest = read_json(workplace / "model" / "manifest.json")
    assert manifest["imported"] == {
        "file": OFFICIAL_NAME,
        "sha256": sha256_of_file(path),
        "weights": kind,
    }


def test_imported_manifest_has_steps_and_dataset_but_no_run(workplace):
    checkpoint = torch.load(TINY, weights_only=True)
    torch.save({**checkpoint, "global_step": 7}, workplace / "seven.ckpt")
    succeeded(call(workplace, "import_model", "seven.ckpt", *overrides(VECTOR)))
    imported = read_manifest(workplace / "model", ModelManifest)
    assert (imported.run, imported.seconds, imported.device) == (None, None, None)
    assert imported.step == 7
    assert imported.images_seen == 7 * imported.settings.training.batch_size
    assert imported.dataset_digest == (workplace / "data/noise.digest").read_text().strip()


def without_ema(state):
    return {name: w for name, w in state.items() if not name.startswith("ema_score_fn.")}


def broken(state):
    name = next(name for name in state if name.startswith("ema_score_fn."))
    return {**state, name: torch.full_like(state[name], torch.nan)}


def beyond_float32(state):
    """Return weights that overflow in float32."""
    return {name: torch.full_like(w, 1e300, dtype=torch.float64) for name, w in state.items()}


@pytest.mark.parametrize(
    ("change", "more", "words"),
    [
        (without_ema, [], ["contains no moving average", "weights=online"]),
        (broken, [], ["NaN or infinity", "all_modules."]),
        (beyond_float32, [], ["NaN or infinity", "all_modules."]),
        (dict, ["process.gamma=0"], ["(6,", "should be (3,"]),
        (dict, ["weights=averaged"], ["weights", "'ema' or 'online'"]),
        (dict, ["training.objective=denoiser"], ["training.objective", "use epsilon"]),
        (dict, ["dataset.num_classes=2"], ["noise.h5: has num_classes 0"]),
    ],
)
def test_checkpoint_that_does_not_fit_writes_no_model(workplace, change, more, words):
    checkpoint = torch.load(TINY, weights_only=True)
    torch.save({"state_dict": change(checkpoint["state_dict"])}, workplace / "changed.ckpt")
    arguments = ("changed.ckpt", *overrides(VECTOR), *more)
    refused(call(workplace, "import_model", *arguments), 2, *words)
    assert not (workplace / "model").exists()


def test_failed_import_keeps_the_existing_model(workplace):
    succeeded(call(workplace, "import_model", str(TINY), *overrides(VECTOR)))
    before = files_below(workplace / "model")
    for name, content in (("cut.ckpt", TINY.read_bytes()[:-100]), ("none.ckpt", None)):
        if content is not None:
            (workplace / name).write_bytes(content)
        refused(call(workplace, "import_model", name, *overrides(VECTOR)), 2, name)
    assert files_below(workplace / "model") == before


def test_model_imported_without_its_dataset_can_be_sampled(tmp_path):
    """The manifest has no digest of the dataset."""
    succeeded(call(tmp_path, "import_model", str(TINY), *overrides(VECTOR)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    check_weights(tmp_path / "model", VECTOR, "ema")
    assert read_json(tmp_path / "model" / "manifest.json")["dataset_digest"] is None

    cell = ("model=model", "sampler.steps=2", "shard_size=4")
    succeeded(call(tmp_path, "sample", *cell, "shards=2", "output=cell", "png=cell.png"))
    size = int(VECTOR["size"])
    assert Shard.load(tmp_path / "cell" / "00001.safetensors").images.shape == (4, 3, size, size)
    assert (tmp_path / "cell.png").exists()


# --- through the workflow --------------------------------------------------------------------


@pytest.fixture
def project(tmp_path) -> Project:
    """Return a project whose model `official` is imported and whose model `trained` is not."""
    return project_with(TINY, tmp_path / "project")


def project_with(checkpoint: Path, folder: Path) -> Project:
    project = Project.create(folder)
    vector = load(checkpoint.with_suffix(".npz"))
    write_pictures(folder)
    (folder / "files").mkdir()
    shutil.copy(checkpoint, folder / "files" / OFFICIAL_NAME)
    grid = grid_of(folder, vector)
    official = {"overrides": [], "checkpoint": f"files/{OFFICIAL_NAME}"}
    grid["metric"] = "fid"  # the pictures have no labels for a classifier
    grid["models"] = {"official": official, "trained": []}
    rows = [{"label": [model], "model": model} for model in grid["models"]]
    for table in grid["tables"].values():
        table["rows"] = rows
    (folder / GRID).write_text(yaml.safe_dump(grid))
    return project


@pytest.mark.slow
@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.stem)
def test_reference_checkpoint_through_the_workflow(tmp_path, path):
    project = project_with(path, tmp_path / "project")
    vector = load(path.with_suffix(".npz"))
    shards = project.folder / "samples/tiny/official/em-3"
    record = "samples/tiny/official/em-3/00000-00001.json"
    assert project.plan(record) == {"prepare": 1, "import_model": 1, "sample": 1}
    project.run(record)
    check_weights(project.folder / "models/tiny/official", vector, "ema")
    size = int(vector["size"])
    for index in range(2):
        assert Shard.load(shard_path(shards, index)).images.shape == (5, 3, size, size)
    assert project.plan(record) == {}, "nothing is imported twice"


def test_model_imported_by_hand_is_not_trained(project):
    record = "samples/tiny/trained/em-3/00000-00001.json"
    succeeded(call(project.folder, "import_model", str(TINY), "model=tiny/trained"))
    assert project.plan(record) == {"sample": 1}
    with contextlib.chdir(project.folder):
        grid = load_grid("tiny")
    assert grid.models["trained"].checkpoint == TINY.name, "certificates state it"
    assert trained_models(grid) == [], "no figure waits for a history"
    shutil.rmtree(project.folder / "models/tiny/trained")
    assert project.plan(record) == {"prepare": 1, "train": 1, "sample": 1}


def test_weights_of_another_origin_need_replace(workplace):
    shutil.copy(TINY, workplace / "earlier.ckpt")
    content = torch.load(TINY, weights_only=True)
    torch.save({**content, "epoch": 3}, workplace / "later.ckpt")
    succeeded(call(workplace, "import_model", "earlier.ckpt", *overrides(VECTOR)))
    before = files_below(workplace / "model")
    later = ("import_model", "later.ckpt", *overrides(VECTOR))
    complaint = (
        "model: has weights from the checkpoint earlier.ckpt; set replace=true to replace them"
    )
    refused(call(workplace, *later), 2, complaint)
    assert files_below(workplace / "model") == before
    succeeded(call(workplace, *later, "replace=true"))
    assert read_json(workplace / "model/manifest.json")["imported"]["file"] == "later.ckpt"


@pytest.mark.slow
def test_model_with_a_missing_checkpoint_is_not_trained(project):
    (project.folder / "files" / OFFICIAL_NAME).unlink()
    done = project.snakemake("--dry-run", "models/tiny/official/manifest.json")
    assert done.returncode != 0
    assert "Missing input files for rule import_model" in done.stdout
    assert OFFICIAL_NAME in done.stdout
