"""Models of tensors: the inputs of the network, and the units of samples, inpainting and
likelihoods."""

import json
import math

import numpy as np
import pytest
import torch

import psld
from psld.data.store import ImageStore
from psld.evaluation.likelihood import per_dimension
from psld.models.settings import Start
from psld.models.start import measure_start
from tests.commands import TINY, call, succeeded

WAVES = np.random.default_rng(1).standard_normal((80, 2, 8, 16))
MEAN, STD = np.array([3.0, -200.0]), np.array([0.5, 40.0])


@pytest.fixture(scope="module")
def folder(once):
    """A folder with the same tensors in two units, and a model of each with the same seed."""

    def fill(place):
        scaled = WAVES * STD[:, None, None] + MEAN[:, None, None]
        for name, values in (("plain", WAVES), ("scaled", scaled)):
            np.save(place / f"{name}.npy", values)
            shape = ("dataset.channels=2", "dataset.image_size=[8,16]")
            source = f"dataset.source.path={name}.npy"
            succeeded(
                call(place, "prepare", "dataset=tensors", f"dataset.name={name}", *shape, source)
            )
            words = (*TINY, "training.steps=30", f"data=data/{name}.h5", f"name={name}")
            succeeded(call(place, "train", *words))

    return once("tensors", fill)


@pytest.fixture
def models(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return tuple(psld.load(f"models/by-hand/{name}", device="cpu") for name in ("plain", "scaled"))


def scaled(values: torch.Tensor) -> torch.Tensor:
    return values * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]


def test_units_of_the_data_change_only_the_units_of_samples(models):
    plain, other = (model.sample(5, sampler="em", steps=4, progress=False) for model in models)
    assert plain.dtype == torch.float32
    assert plain.shape == (5, 2, 8, 16)
    torch.testing.assert_close(other.double(), scaled(plain.double()), rtol=2e-3, atol=0.1)
    raw = models[1].sample(5, sampler="em", steps=4, progress=False, raw=True)
    torch.testing.assert_close(models[1].units.stored(raw), other)


def test_the_initial_distribution_is_fitted_to_standardized_values(models, folder):
    store = ImageStore.open(folder / "data/scaled.h5")
    given = store.images("train"), torch.device("cpu"), Start()
    start = measure_start(*given, units=store.units)
    assert start.data.means.abs().max() < 1
    seen = store.units.seen(torch.from_numpy(np.array(store.images("train"))))
    torch.testing.assert_close(start.data.means[0], seen.mean(0).flatten(), rtol=0, atol=1e-4)
    drawn = models[1].sample(40, sampler="few", steps=0, progress=False)
    assert abs(drawn[:, 1].mean() + 200) < 20


def test_known_values_and_encoded_tensors_are_in_the_units_of_the_data(models, folder):
    images = torch.from_numpy(np.array(ImageStore.open(folder / "data/scaled.h5").images("train")))
    known, mask = images[:3], torch.zeros(3, 1, 8, 16)
    mask[..., :8] = 1
    filled = models[1].sample(
        3, sampler="multistep", steps=4, inpainting=(known, mask), progress=False
    )
    torch.testing.assert_close(filled[..., :8], known[..., :8], rtol=1e-3, atol=0.05)
    z = models[1].noised(known, 1e-3)
    torch.testing.assert_close(z[:, :2], models[1].units.seen(known), rtol=0, atol=0.5)


def test_the_likelihood_is_a_density_in_the_units_of_the_data(models, folder, monkeypatch):
    found = []
    for name in ("plain", "scaled"):
        words = (f"model=by-hand/{name}", "images=4", "tolerance=1e-3", "draws=1", "split=train")
        succeeded(call(folder, "likelihood", *words, f"output={name}.json", "probes=2"))
        found.append(json.loads((folder / f"{name}.json").read_text()))
    assert found[0]["bits_per_dimension"] is None
    plain, other = (each["nats_per_dimension"] for each in found)
    assert other - plain == pytest.approx(np.log(STD).mean(), abs=0.02)


def test_nats_of_a_normal_distribution_are_its_entropy(folder):
    """−log p per dimension, averaged over x ~ N(m, s²), is ½ ln(2πe s²)."""
    store = ImageStore.open(folder / "data/scaled.h5")
    x = store.units.seen(torch.from_numpy(np.array(store.images("train")))).double()
    log_normal = (-0.5 * (x.square() + math.log(2 * math.pi))).flatten(1).sum(1)
    expected = 0.5 * np.log(2 * np.pi * np.e * np.square(store.units.std)).mean()
    assert per_dimension(log_normal, store).mean().item() == pytest.approx(expected, rel=1e-6)
