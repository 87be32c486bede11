"""The project of `psld init latents=true`, from pictures to tables, and tensors with single
commands."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from psld.data.store import ImageStore
from psld.evaluation.folders import load_reference
from psld.sampling.shards import read_shard
from tests.commands import call, refused, run, succeeded
from tests.data.formats import encode, random_images, write_files
from tests.workflow.test_outside import Outside

PICTURES = {f"{i:02d}.png": encode(each) for i, each in enumerate(random_images(60, 20, 20, 3))}
WORDS = (
    *("network.base_channels=8", "network.channel_multipliers=[1,2]", "network.blocks_per_level=1"),
    *("network.attention_resolutions=[]", "network.block=ddpm", "training.steps=4"),
    "training.batch_size=8",
)
TINY = ", ".join(f'"{word}"' for word in WORDS)


def trained(folder: Path, seed: int) -> None:
    """Train the autoencoder for a few steps."""
    code = (
        "import sys; sys.path.insert(0, '.'); import autoencoder, torch\n"
        "from safetensors.torch import save_file\n"
        "from psld.data.store import ImageStore\n"
        "images = ImageStore.open('data/mine.h5').images('train')\n"
        f"network = autoencoder.train(images, steps={3 + seed})\n"
        "save_file(network.state_dict(), 'autoencoder.safetensors')\n"
    )
    succeeded(run(folder, [shutil.which("python") or "python", "-c", code]))


@pytest.fixture
def project(tmp_path) -> Outside:
    """A project with 60 pictures, small networks, and an autoencoder of a few steps."""
    succeeded(call(tmp_path, "init", "own", "latents=true"))
    own = Outside(tmp_path / "own")
    write_files(own.folder / "pictures", PICTURES)
    grid = own.folder / "configs/grid/latents.yaml"
    text = grid.read_text().replace("training.steps=1000", TINY)
    text = text.replace("metric: fid #", "metric: fd-pixels #")
    text = text.replace("samples: 1000", "samples: 12").replace("shard_size: 250", "shard_size: 6")
    text = text.replace("budget: 40", "budget: 3").replace("em-quadratic-40", "em-quadratic-3")
    grid.write_text(text)
    said = refused(call(own.folder, "plan", "grid_name=latents"), 2, "autoencoder.safetensors")
    assert "decode.weights: autoencoder.safetensors: No such file" in said
    succeeded(call(own.folder, "prepare", "dataset=mine"))
    trained(own.folder, 0)
    return own


@pytest.mark.slow
def test_a_project_of_latents_goes_from_pictures_to_tables(project):
    folder = project.folder
    project.run("latents")
    latents = ImageStore.open(folder / "data/latents.h5")
    assert (latents.shape, latents.splits) == ((4, 8, 8), {"train": 54, "test": 6})
    shard = read_shard(folder / "samples/latents/latents-psld/em-quadratic-3/00000.safetensors")
    assert (shard.images.dtype, shard.images.shape) == (np.float32, (6, 4, 8, 8))
    mine, own = (
        load_reference(folder / f"features/{name}/fd-pixels/reference")[0]
        for name in ("mine", "latents")
    )
    for split in ("train", "test", "noise"):
        features = (getattr(each, split).values for each in (mine, own))
        torch.testing.assert_close(*features, msg="features of the pictures, not of decoded ones")
    cell = folder / "results/cells/latents/latents-psld/em-quadratic-3.json"
    result = json.loads(cell.read_text())
    assert {each["metric"]["name"] for each in result["results"]} == {"fd-pixels", "fd-values"}
    assert (folder / "results/figures/latents/samples/latents-psld.png").is_file()
    assert project.plan("latents") == {}, "everything is made"
    said = refused(call(folder, "verify", "results/certificates/latents.zip"), 3)
    assert "error: 4 intervals cannot be recomputed" in said, "only those of 768 features"
    # A new autoencoder reruns all jobs that depend on it, and no others.
    trained(folder, 1)
    again = project.plan("latents")
    assert {"prepare", "train", "sample", "evaluate", "reference"} <= again.keys()
    assert again["train"] == 2, "the models in pixels stay"
    (folder / "moved").mkdir()
    shutil.copy(folder / "autoencoder.safetensors", folder / "moved")
    before = project.plan("latents")
    project.edit("configs/dataset/latents.yaml", "weights: auto", "weights: moved/auto")
    assert project.plan("latents") == before, "the path of the weights does not count"


@pytest.mark.slow
def test_tensors_go_from_a_file_to_a_table_by_hand(project):
    folder, words = project.folder, ("network=demo", "training=demo", *WORDS)
    np.save(folder / "x.npy", 5 + np.random.default_rng(0).standard_normal((40, 7, 8, 16)))
    shape = ("dataset.channels=7", "dataset.image_size=[8,16]", "dataset.source.path=x.npy")
    named = ("dataset=tensors", "dataset.name=waves", "dataset.source.test_fraction=0.25")
    succeeded(call(folder, "prepare", *named, *shape))
    data = "data=data/waves.h5"
    succeeded(call(folder, "train", data, *words, "name=waves"))
    sampled = ("sampler=em", "sampler.steps=3", "shard_size=12", "output=samples/waves")
    files = ("npz=waves.npz", "png=waves.png")
    succeeded(call(folder, "sample", "model=by-hand/waves", *sampled, *files))
    with np.load(folder / "waves.npz") as saved:
        assert (saved["arr_0"].dtype, saved["arr_0"].shape) == (np.float32, (12, 7, 8, 16))
    succeeded(call(folder, "train_extractor", data, "metric=fd-values"))
    succeeded(call(folder, "reference", data, "metric=fd-values"))
    for images in ("samples/waves", "waves.npz"):
        given = (f"images={images}", "dataset=waves")
        said = succeeded(call(folder, "evaluate", *given, "metric=fd-values")).stdout
        assert "fd-values of 12 images: " in said
        wrong = "fid measures pictures, but dataset waves has tensors; use metric=fd-values, or set"
        refused(call(folder, "evaluate", *given, "metric=fid"), 2, wrong)
    short = ("images=2", "tolerance=0.1", "output=bits.json")
    said = succeeded(call(folder, "likelihood", "model=by-hand/waves", *short)).stdout
    assert "nats per dimension" in said
