"""`psld likelihood`: the bits of images, and a record with their mean and its interval."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from psld.config.settings import load_record
from psld.data.store import ImageStore, write_store
from psld.diffusion.likelihood import bits_per_dimension, dequantize
from psld.evaluation import likelihood
from psld.evaluation.likelihood import LikelihoodResult, measure_part
from psld.evaluation.settings import LikelihoodCommandSettings
from psld.sampling.model import LoadedModel, load_model
from psld.utils.randomness import Stream, stream_seed
from tests.commands import TINY, call, refused, succeeded
from tests.diffusion.sampling import gaussian

CPU = torch.device("cpu")
FAST = ("images=3", "tolerance=0.5", "start_time=0.3", "output=result.json")
DEFAULTS = {
    "model": "",
    "data": None,
    "output": "x.json",
    "batch_size": 250,
    "device": "cpu",
    "split": "test",
    "images": None,
    "probes": 2,
    "draws": 1,
    "start_time": 0.3,
    "tolerance": 0.5,
    "seed": 0,
}


def bits_of(model: LoadedModel, images: np.ndarray, first: int, **given: object) -> np.ndarray:
    """Return the bits per dimension of some images, beginning with image `first`."""
    settings = LikelihoodCommandSettings(**(DEFAULTS | given))
    part = measure_part(model, np.array(images), settings, first, CPU)
    return bits_per_dimension(part.log_likelihood, images[0].size).numpy()


def drawn(digits: Path, count: int) -> np.ndarray:
    """Return the images that a measurement draws."""
    images = ImageStore.open(digits).images("test")
    return images[np.random.default_rng(0).permutation(len(images))[:count]]


@pytest.fixture(scope="module")
def threes(digits) -> np.ndarray:
    return drawn(digits, 3)


def test_the_result_is_the_mean_over_images_with_its_interval(
    model, digits, threes, tmp_path, monkeypatch
):
    monkeypatch.setattr(likelihood, "TOGETHER", 2)
    finished = call(tmp_path, "likelihood", *FAST, f"model={model}", f"data={digits}")
    printed = succeeded(finished).stdout.splitlines()
    places = ["images 0 to 1", "images 2 to 2"]
    assert [line.partition(":")[0] for line in printed[:2]] == places
    result = load_record(LikelihoodResult, tmp_path / "result.json", "not a likelihood")
    loaded = load_model(model, CPU)
    bits = np.concatenate([bits_of(loaded, threes[i : i + 2], i) for i in (0, 2)])
    assert result.measured == len(bits) == 3
    assert result.bits_per_dimension == pytest.approx(np.mean(bits))
    low, high = stats.t.interval(0.95, 2, loc=np.mean(bits), scale=stats.sem(bits))
    assert (result.low, result.high) == pytest.approx((low, high))
    assert result.likelihood.split == "test"
    assert result.dataset_digest == ImageStore.open(digits).digest
    assert result.model.name == "psld"
    assert result.gradients == 2 * result.evaluations > 14
    spent = [int(re.search(r"(\d+) evaluations", line)[1]) for line in printed[:2]]
    assert result.evaluations == pytest.approx((2 * spent[0] + spent[1]) / 3)
    assert f"wrote result.json: at most {result.bits_per_dimension:.4f} ± " in printed[2]


@pytest.fixture
def perfect(model) -> LoadedModel:
    """A network for Gaussian data, whose density is known, also for dequantized images."""
    loaded = load_model(model, CPU)
    return replace(loaded, network=gaussian(0.5, mean=-0.4).network(loaded.process))


def test_images_have_the_bits_of_their_density(perfect, digits):
    images = ImageStore.open(digits).images("test")[5:8]
    given = {"batch_size": 2, "tolerance": 1e-4, "seed": 7, "start_time": 1e-5}
    bits = bits_of(perfect, images, 5, **given)
    random = np.random.Generator(np.random.Philox(key=stream_seed(7, Stream.LIKELIHOOD, 5))).random(
        images.shape, dtype=np.float32
    )
    x = dequantize(torch.tensor(images), torch.from_numpy(random)).numpy()
    log_p = stats.norm.logpdf(x, loc=-0.4, scale=0.5).sum(axis=(1, 2, 3))
    assert bits == pytest.approx(-log_p / (64 * math.log(2)) + 7, abs=0.02)


def test_numbers_do_not_depend_on_the_batch_size(perfect, threes):
    bits = bits_of(perfect, threes, 0)
    assert bits_of(perfect, threes, 0, batch_size=2) == pytest.approx(bits, 1e-3)
    for changes in ({"first": 3}, {"seed": 1}):
        others = bits_of(perfect, threes, **({"first": 0} | changes))
        assert (abs(others - bits) > 1e-4).all(), "each place and seed has its noise"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("start_time=1e-6", ("start_time: 1e-06 is below", "1e-05 or more")),
        ("images=2000", ("images: the test split of", "2000 are needed")),
        ("precision=bf16", ("unknown key precision",)),
        ("tolerance=1e-300", ("tolerance: Input should be greater than",)),
    ],
)
def test_bad_settings_are_refused(model, digits, tmp_path, given, words):
    arguments = (*FAST, f"model={model}", f"data={digits}", given)
    refused(call(tmp_path, "likelihood", *arguments), 2, *words)
    assert not list(tmp_path.iterdir())


def test_another_dataset_than_the_trainings_is_refused(model, digits, tmp_path):
    """After a new preparation with another split, the model may have seen the test images in
    training."""
    store = ImageStore.open(digits)
    splits, everything = {"train": 360, "test": 1437}, (store.labels("all"), store.num_classes)
    write_store(tmp_path / "again.h5", (1, 8, 8), splits, *everything, [store.images("all")])
    given = (*FAST, f"model={model}", "data=again.h5")
    refused(
        call(tmp_path, "likelihood", *given),
        2,
        "again.h5: the images or the split differ from the training",
    )


@pytest.mark.slow
def test_the_weighting_of_likelihood_gives_fewer_bits(digits, tmp_path):
    """The objectives nll and fid on the digits, with equal short trainings, compared image by
    image."""
    images, bits = drawn(digits, 40), {}
    for weighting in ("fid", "nll"):
        training = (*TINY, "process=psld", f"data={digits}", f"training.weighting={weighting}")
        longer = ("training.steps=200", "training.batch_size=64", "training.ema_decay=0.98")
        rate = ("training.learning_rate=3e-3", f"output={weighting}")
        succeeded(call(tmp_path, "train", *training, *longer, *rate))
        trained = load_model(tmp_path / weighting, CPU)
        bits[weighting] = bits_of(trained, images, 0, tolerance=1e-2, start_time=1e-5)
    fewer = bits["fid"] - bits["nll"]
    assert fewer.mean() > 3 * stats.sem(fewer)
    assert bits["nll"].mean() < 9
