"""Trainings on the command line that start from the weights of a model."""

import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import psld.training.loop as loop
from psld.data.store import ImageStore, write_store
from psld.models.manifest import read_manifest
from psld.training.init import read_source
from psld.utils.errors import RunError
from tests.commands import TINY, call, files_below, refused, succeeded

STEPS = ("training.steps=2", "training.checkpoint_every=1")
SLOW = "training.learning_rate=1e-9"


def train(folder: Path, digits: Path, *words: str):
    return call(folder, "train", *TINY, *STEPS, f"data={digits}", *words)


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / f"models/by-hand/{name}/weights.safetensors")


@pytest.fixture(scope="module")
def made(digits, tmp_path_factory) -> Path:
    """A folder with two models: by-hand/base, for one process, and by-hand/denoiser.

    Their seed differs from the seed of the tests, because a few training steps hardly change the
    initial weights.
    """
    folder = tmp_path_factory.mktemp("sources")
    for words in (("name=base",), ("name=denoiser", "training.objective=denoiser")):
        succeeded(train(folder, digits, "training.seed=3", *words))
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "copy")


def test_the_network_and_the_average_start_from_the_weights_of_the_source(folder, digits):
    """If the decay is near one, the average stays at the initial weights. The path of the source
    does not matter, but a model is trained again if its source was trained again."""
    slow = ("training.ema_decay=0.999999", "name=tuned")
    succeeded(train(folder, digits, *slow, "init.model=by-hand/base"))
    base, tuned = weights(folder, "base"), weights(folder, "tuned")
    for name in base:
        torch.testing.assert_close(tuned[name], base[name], rtol=0, atol=1e-4)
    manifest = read_manifest(folder / "models/by-hand/tuned")
    source = read_manifest(folder / "models/by-hand/base")
    assert manifest.init == {"model": "by-hand/base", "weights_sha256": source.weights_sha256}
    shutil.copytree(folder / "models/by-hand/base", folder / "elsewhere")
    again = succeeded(train(folder, digits, *slow, "init.model=elsewhere")).stdout
    assert "training" not in again.partition(";")[0]
    assert len(list(folder.glob("runs/tuned-*"))) == 1
    succeeded(train(folder, digits, "name=base", "training.seed=1"))
    said = succeeded(train(folder, digits, *slow, "init.model=by-hand/base")).stdout
    assert "replaces the weights" in said
    other, source = (read_manifest(folder / f"models/by-hand/{each}") for each in ("tuned", "base"))
    assert other.weights_sha256 != manifest.weights_sha256
    assert other.init["weights_sha256"] == source.weights_sha256


def test_a_training_with_a_source_resumes_bit_exactly(folder, digits, monkeypatch):
    """The weights of the source may be gone, because only the first run reads them."""
    words = ("init.model=by-hand/base", "name=tuned")
    succeeded(train(folder, digits, *words))
    whole = weights(folder, "tuned")
    shutil.rmtree(folder / "models/by-hand/tuned")
    for run in folder.glob("runs/tuned-*"):
        shutil.rmtree(run)
    optimize, steps = loop.optimize, iter(range(2))

    def stop_at_two(*given):
        if next(steps) == 1:
            raise RunError("stopped")
        return optimize(*given)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimize", stop_at_two)
        refused(train(folder, digits, *words), 1, "stopped")
    (folder / "models/by-hand/base/weights.safetensors").unlink()
    finished = succeeded(train(folder, digits, *words))
    assert "resuming from step 1" in finished.stdout
    assert "starting from" not in finished.stdout
    resumed = weights(folder, "tuned")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_fitting_weights_are_loaded_and_the_others_are_named(folder, digits):
    words = ("init.model=by-hand/base", "name=other", "process=vp-sde", SLOW)
    line = refused(train(folder, digits, *words), 2, "init.model=by-hand/base: stem.weight: (8, 2,")
    assert "(8, 1, 3, 3) here; init.take=fitting loads the weights that fit" in line
    assert not (folder / "models/by-hand/other").exists()
    said = succeeded(train(folder, digits, *words, "init.take=fitting")).stdout.splitlines()[0]
    assert said.startswith("starting from by-hand/base; process.")
    assert "; process.kind was psld, is vp-sde; " in said
    assert "; not loaded, or new: stem.weight, " in said
    left = said.partition("new: ")[2].split(", ")
    base, other = weights(folder, "base"), weights(folder, "other")
    for name in base.keys() - {*left}:
        torch.testing.assert_close(other[name], base[name], rtol=0, atol=1e-6)
    assert all(base[name].shape != other[name].shape for name in left)


def test_a_denoiser_keeps_the_deviation_of_its_own_images(folder, digits):
    store = ImageStore.open(digits)
    images, labels = store.images("all") // 4, store.labels("all")
    data = folder / "dark.h5"
    digest = write_store(data, store.shape, store.splits, labels, store.num_classes, [images])
    data.with_suffix(".digest").write_text(f"{digest}\n")
    shutil.copy(digits.with_suffix(".json"), data.with_suffix(".json"))
    words = ("name=dark", "training.objective=denoiser", "init.model=by-hand/denoiser")
    succeeded(train(folder, data, *words, SLOW))
    source, dark = weights(folder, "denoiser"), weights(folder, "dark")
    assert float(dark.pop("deviation")) < 0.5 * float(source.pop("deviation"))
    for name in source:
        torch.testing.assert_close(dark[name], source[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["init.model=by-hand/bas"], "by-hand/bas: no such model (is models/by-hand/base meant?)"),
        (["init.model=by-hand/base", "training.objective=denoiser"], "objective is epsilon, not d"),
        (["init.model=by-hand/base", "training.label_dropout=0.1"], "of classes is 0, not 10"),
        (["init.model=by-hand/base", "network.base_channels=16"], "(8,) there, (16,) here; init.t"),
        (["init.model=by-hand/base", "name=base"], "would replace it; give another output"),
        (["init.take=fitting"], "init.model is missing"),
        (["init.model="], "train: init.model: the name of a model is needed, not ''"),
        (["init.model=hf://me/digits@main"], "name the commit: hf://me/digits@COMMIT"),
    ],
)
def test_bad_sources_are_refused_in_one_line(folder, digits, words, said):
    before = files_below(folder)
    refused(train(folder, digits, "name=tuned", *words), 2, said)
    assert files_below(folder) == before


def test_a_job_waits_for_the_folder_of_its_source(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    base = folder / "models/by-hand/base"
    later = base.rename(folder / "later")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(time, "sleep", lambda _: later.exists() and later.rename(base))
    assert read_source("by-hand/base")[0] == Path("models/by-hand/base")
    assert "by-hand/base: no such model" in capsys.readouterr().out


def test_damaged_weights_are_refused(folder, digits):
    """Undamaged weights of another training under the same manifest are refused, too."""
    file = folder / "models/by-hand/base/weights.safetensors"
    shutil.copy(folder / "models/by-hand/denoiser/weights.safetensors", file)
    refused(
        train(folder, digits, "init.model=by-hand/base"),
        2,
        "differs from the recorded",
    )
