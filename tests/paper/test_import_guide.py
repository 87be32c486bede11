"""The import of official guides, by hand and in the plan of the workflow."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from psld.models.manifest import GuideManifest, read_manifest
from psld.sampling.model import load_guide
from psld.utils.files import read_json
from tests.commands import call, refused, succeeded
from tests.data.formats import encode, random_images, write_files
from tests.paper.test_import import grid_of, overrides, prepare
from tests.reference import load, reference_files
from tests.workflow.project import GRID

CONFIGS = Path(__file__).parents[1] / "workflow" / "configs"
VECTORS = reference_files("net_classifier*.npz")


def write_checkpoint(path: Path, vector: dict[str, np.ndarray]) -> None:
    """Write the weights of the vector as a Lightning checkpoint of a guide, which has no EMA."""
    weights = {f"clf_fn.{k[2:]}": torch.from_numpy(v) for k, v in vector.items() if k[:2] == "w/"}
    torch.save({"state_dict": weights, "global_step": 9}, path)


@pytest.fixture(params=VECTORS, ids=lambda path: path.stem)
def vector(request, tmp_path) -> dict[str, np.ndarray]:
    """Return a reference vector; write a checkpoint of its weights and a matching dataset."""
    vector = load(request.param)
    write_checkpoint(tmp_path / "epoch=9.ckpt", vector)
    classes = json.loads(str(vector["spec"]))["n_cls"]
    pictures = {f"{i}/a.png": encode(random_images(16, 16, 3, seed=i)) for i in range(classes)}
    write_files(tmp_path / "pictures", pictures)
    prepare(tmp_path, vector)
    return vector


def test_reference_guide_by_hand(tmp_path, vector):
    given = (*overrides(vector), "output=guide")
    succeeded(call(tmp_path, "import_guide", "epoch=9.ckpt", *given))
    network = load_guide(tmp_path / "guide", torch.device("cpu")).network
    y = network(torch.from_numpy(vector["x"]), torch.from_numpy(vector["t"])).numpy()
    np.testing.assert_allclose(y, vector["y"], rtol=1e-4, atol=1e-5)
    manifest = read_json(tmp_path / "guide" / "manifest.json")
    assert (manifest["kind"], manifest["step"]) == ("guide", 9)
    assert manifest["imported"]["weights"] == "online"


def test_model_checkpoint_is_refused_as_a_guide(tmp_path, vector):
    model = reference_files("checkpoint_*.ckpt")[0]
    given = (str(model), *overrides(vector), "output=guide")
    refused(call(tmp_path, "import_guide", *given), 2, model.name, "all_modules.")
    assert not (tmp_path / "guide").exists()


def test_guide_of_a_grid_is_imported_by_name_without_its_dataset(tmp_path):
    vector = load(VECTORS[0])
    write_checkpoint(tmp_path / "epoch=9.ckpt", vector)
    shutil.copytree(CONFIGS, tmp_path / "configs")
    path = tmp_path / GRID
    grid, other = yaml.safe_load(path.read_text()), grid_of(tmp_path, vector)
    words = [word for word in other["defaults"] if not word.startswith("training")]
    path.write_text(yaml.safe_dump(grid | {"guides": {"official": words}}))
    succeeded(call(tmp_path, "import_guide", "epoch=9.ckpt", "guide=tiny/official"))
    guide = tmp_path / "guides" / "tiny" / "official"
    load_guide(guide, torch.device("cpu"))
    manifest = read_manifest(guide, GuideManifest)
    assert (manifest.grid, manifest.name, manifest.dataset_digest) == ("tiny", "official", None)
