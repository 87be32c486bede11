"""The import of official guides, by hand and in the plan of the workflow."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from psld.training.manifest import GuideManifest, read_manifest
from psld.training.model import load_guide
from psld.utils.files import read_json
from tests.commands import call, refused, succeeded
from tests.data.formats import encode, random_images, write_files
from tests.networks.official_options import settings_from_spec
from tests.reference import load, reference_files

CONFIGS = Path(__file__).parents[1] / "workflow" / "configs"
VECTORS = reference_files("net_classifier*.npz")


def write_checkpoint(path: Path, vector: dict[str, np.ndarray]) -> None:
    """The vector's weights as Lightning wrote those of a guide: without a moving average."""
    weights = {f"clf_fn.{k[2:]}": torch.from_numpy(v) for k, v in vector.items() if k[:2] == "w/"}
    torch.save({"state_dict": weights, "global_step": 9}, path)


def dataset_of(vector: dict[str, np.ndarray]) -> tuple[int, int, int]:
    """The channels, the size and the classes of its images."""
    spec = json.loads(str(vector["spec"]))
    return 1 if spec["in_ch"] < 3 else 3, int(vector["size"]), spec["n_cls"]


def overrides(vector: dict[str, np.ndarray]) -> list[str]:
    spec = json.loads(str(vector["spec"]))
    channels, size, classes = dataset_of(vector)
    network = settings_from_spec(spec).model_dump(mode="json")
    momentum = spec["in_ch"] in (2, 6)
    return [
        "dataset=folder",
        "dataset.name=noise",
        "dataset.source.root=pictures",
        f"dataset.num_classes={classes}",
        f"dataset.image_size={size}",
        f"dataset.channels={channels}",
        f"process={'psld' if momentum else 'vp-sde'}",
        *(f"network.{key}={json.dumps(value)}" for key, value in network.items()),
    ]


def prepare(folder: Path, vector: dict[str, np.ndarray]) -> None:
    """A checkpoint of the vector's weights, and a dataset that its network fits."""
    write_checkpoint(folder / "epoch=9.ckpt", vector)
    classes = json.loads(str(vector["spec"]))["n_cls"]
    pictures = {f"{i}/a.png": encode(random_images(16, 16, 3, seed=i)) for i in range(classes)}
    write_files(folder / "pictures", pictures)
    dataset = [o for o in overrides(vector) if o.startswith("dataset")]
    succeeded(call(folder, "prepare", *dataset, "output=data/noise.h5"))


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_reference_guide_by_hand(tmp_path, path):
    vector = load(path)
    prepare(tmp_path, vector)
    given = (*overrides(vector), "output=guide")
    succeeded(call(tmp_path, "import_guide", "epoch=9.ckpt", *given))
    network = load_guide(tmp_path / "guide", torch.device("cpu")).network
    y = network(torch.from_numpy(vector["x"]), torch.from_numpy(vector["t"])).numpy()
    np.testing.assert_allclose(y, vector["y"], rtol=1e-4, atol=1e-5)
    manifest = read_json(tmp_path / "guide" / "manifest.json")
    assert (manifest["kind"], manifest["step"]) == ("guide", 9)
    assert manifest["imported"]["weights"] == "online"


def test_a_checkpoint_of_a_model_is_refused_as_a_guide(tmp_path):
    vector, model = load(VECTORS[0]), reference_files("checkpoint_*.ckpt")[0]
    prepare(tmp_path, vector)
    given = (str(model), *overrides(vector), "output=guide")
    refused(call(tmp_path, "import_guide", *given), 2, model.name, "all_modules.")
    assert not (tmp_path / "guide").exists()


def test_a_guide_of_a_grid_is_imported_by_its_name_without_its_dataset(tmp_path):
    vector = load(VECTORS[0])
    write_checkpoint(tmp_path / "epoch=9.ckpt", vector)
    grid = yaml.safe_load((CONFIGS / "grid" / "tiny.yaml").read_text())
    given = [override for override in overrides(vector) if not override.startswith("dataset")]
    grid["guides"] = {"official": ["dataset=noise", *given]}
    # The tests' own configs, and the grid among them.
    shutil.copytree(CONFIGS, tmp_path / "configs")
    (tmp_path / "configs" / "grid" / "tiny.yaml").write_text(yaml.safe_dump(grid))
    channels, size, classes = dataset_of(vector)
    dataset = {"channels": channels, "image_size": size, "num_classes": classes}
    named = {"defaults": ["folder", "_self_"], "name": "noise", "source": {"root": "pictures"}}
    (tmp_path / "configs" / "dataset").mkdir()
    (tmp_path / "configs" / "dataset" / "noise.yaml").write_text(yaml.safe_dump(named | dataset))
    succeeded(call(tmp_path, "import_guide", "epoch=9.ckpt", "guide=tiny/official"))
    guide = tmp_path / "guides" / "tiny" / "official"
    load_guide(guide, torch.device("cpu"))
    manifest = read_manifest(guide, GuideManifest)
    assert (manifest.grid, manifest.name, manifest.dataset_digest) == ("tiny", "official", None)
