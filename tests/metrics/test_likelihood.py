"""`psld likelihood`: shards that survive a kill, and a record with the mean and its interval."""

import math
import shutil
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from psld.config.settings import load_record
from psld.data.store import ImageStore, write_store
from psld.diffusion.likelihood import dequantize
from psld.metrics.command_settings import LikelihoodCommandSettings
from psld.metrics.likelihood import LikelihoodResult, measure_shard
from psld.training.model import load_model
from psld.utils.files import read_json
from psld.utils.randomness import Stream, stream_seed
from tests.commands import TINY, call, command, files_below, refused, started, succeeded
from tests.diffusion.sampling import gaussian

CPU = torch.device("cpu")
FAST = ("shard_size=4", "images=10", "tolerance=1e-1", "output=result.json")


def measure(folder, model, digits, *overrides: str) -> list[str]:
    """The lines that the command prints."""
    given = (*FAST, f"model={model}", f"data={digits}", *overrides)
    return succeeded(call(folder, "likelihood", *given)).stdout.splitlines()


def bits_in(folder) -> list[float]:
    return [b for path in sorted((folder / "result").iterdir()) for b in read_json(path)["bits"]]


def result_in(folder, name: str = "result") -> LikelihoodResult:
    return load_record(LikelihoodResult, folder / f"{name}.json", "not a likelihood")


@pytest.fixture(scope="module")
def measured(model, digits, tmp_path_factory):
    """A folder with a result, its three shards, and what the command printed."""
    folder = tmp_path_factory.mktemp("likelihood")
    (folder / "printed").write_text("\n".join(measure(folder, model, digits)))
    return folder


@pytest.fixture
def copy(measured, tmp_path):
    return shutil.copytree(measured, tmp_path / "copy")


def test_the_result_is_the_mean_over_images_with_its_interval(measured, model, digits):
    printed = (measured / "printed").read_text().splitlines()
    assert [line.partition(":")[0] for line in printed[:3]] == [
        "images 0 to 3",
        "images 4 to 7",
        "images 8 to 9",
    ]
    result = result_in(measured)
    bits = bits_in(measured)
    assert result.measured == len(bits) == 10
    assert result.bits_per_dimension == pytest.approx(np.mean(bits))
    low, high = stats.t.interval(0.95, 9, loc=np.mean(bits), scale=stats.sem(bits))
    assert (result.low, result.high) == pytest.approx((low, high))
    assert result.likelihood.split == "test"
    assert result.dataset_digest == ImageStore.open(digits).digest
    assert result.model.name == "psld"
    assert result.gradients == 2 * result.evaluations > 14
    assert f"wrote result.json: {result.bits_per_dimension:.4f} ± " in printed[3]


@pytest.mark.parametrize("draws", [1, 3])
def test_a_shard_holds_the_bits_of_its_images(model, digits, draws):
    """A network of Gaussian data has a density that is known, also at dequantized images."""
    loaded = load_model(model, CPU)
    data = gaussian(0.5, mean=-0.4)
    perfect = replace(loaded, network=data.network(loaded.process))
    images = ImageStore.open(digits).images("test")[5:8]
    settings = LikelihoodCommandSettings(
        model="",
        data=None,
        output="x.json",
        batch_size=2,
        device="cpu",
        split="test",
        images=None,
        probes=2,
        draws=draws,
        start_time=1e-5,
        tolerance=1e-4,
        seed=7,
        shard_size=3,
    )
    shard = measure_shard(perfect, images, settings, 5, CPU)
    random = np.random.Generator(np.random.Philox(key=stream_seed(7, Stream.LIKELIHOOD, 5))).random(
        images.shape, dtype=np.float32
    )
    x = dequantize(torch.tensor(images), torch.from_numpy(random)).numpy()
    log_p = stats.norm.logpdf(x, loc=-0.4, scale=0.5).sum(axis=(1, 2, 3))
    assert shard.bits == pytest.approx(-log_p / (64 * math.log(2)) + 7, abs=0.02)
    assert shard.gradients == 2 * shard.evaluations


def test_numbers_do_not_depend_on_the_batch_size(measured, model, digits, tmp_path):
    measure(tmp_path, model, digits, "batch_size=3")
    assert bits_in(tmp_path) == pytest.approx(bits_in(measured), rel=1e-3)


def test_only_what_is_missing_damaged_or_of_another_origin_is_measured_again(copy, model, digits):
    before, shards = bits_in(copy), copy / "result"
    assert [line.endswith("kept") for line in measure(copy, model, digits)[:3]] == [True] * 3
    _, second, third = sorted(shards.iterdir())
    whole = second.read_text()
    third.unlink()
    for damaged in (whole[:-100], whole.replace('"bits": [\n    ', '"bits": [\n    1'), "[]"):
        assert damaged != whole
        second.write_text(damaged)
        last = third.exists()
        kept = [line.endswith("kept") for line in measure(copy, model, digits)[:3]]
        assert kept == [True, False, last]
        assert bits_in(copy) == before
    more = measure(copy, model, digits, "images=12")
    assert [line.endswith("kept") for line in more[:3]] == [True, True, False]
    other = measure(copy, model, digits, "seed=1", "images=4")
    assert not any(line.endswith("kept") for line in other)


@pytest.mark.slow
def test_a_killed_measurement_loses_the_shard_in_progress_alone(model, digits, tmp_path):
    """Really killed; the same command ends with the numbers of a run without interruption."""
    given = ("shard_size=2", "images=24", "tolerance=1e-1", f"model={model}", f"data={digits}")
    shards = tmp_path / "killed"
    with started(tmp_path, command("likelihood", *given, "output=killed.json")) as process:
        while not list(shards.glob("000004-*.json")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    before = files_below(shards)
    assert 3 <= len(before) < 12, "it was killed on the way"
    assert not (tmp_path / "killed.json").exists(), "the result comes last"
    printed = succeeded(call(tmp_path, "likelihood", *given, "output=killed.json")).stdout
    whole = {name: text for name, text in before.items() if not name.endswith(".partial")}
    assert printed.count("kept") == len(whole)
    assert whole.items() <= files_below(shards).items()
    succeeded(call(tmp_path, "likelihood", *given, "output=calm.json"))
    calm, killed = (result_in(tmp_path, n) for n in ("calm", "killed"))
    assert killed.bits_per_dimension == calm.bits_per_dimension


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("start_time=1e-6", ("start_time: 1e-06 is before", "1e-05 or more")),
        ("images=2000", ("images: the test split of", "not 2000")),
        ("output=result", ("output",)),
        ("precision=bf16", ("no setting is called precision",)),
    ],
)
def test_bad_settings_are_refused(model, digits, tmp_path, given, words):
    arguments = (*FAST, f"model={model}", f"data={digits}", given)
    refused(call(tmp_path, "likelihood", *arguments), 2, *words)
    assert not list(tmp_path.iterdir())


def test_another_dataset_than_the_trainings_is_refused(model, digits, tmp_path):
    """Prepared again with another split, its test images may be those that the model has seen."""
    store = ImageStore.open(digits)
    splits, everything = {"train": 360, "test": 1437}, (store.labels("all"), store.num_classes)
    write_store(tmp_path / "again.h5", (1, 8, 8), splits, *everything, [store.images("all")])
    given = (*FAST, f"model={model}", "data=again.h5")
    refused(call(tmp_path, "likelihood", *given), 2, "again.h5: not the images of the training")


@pytest.mark.slow
def test_the_weighting_of_likelihood_gives_fewer_bits(digits, tmp_path):
    """nll against fid on the digits, the same short training otherwise, image by image."""
    bits = {}
    for weighting in ("fid", "nll"):
        folder = tmp_path / weighting
        folder.mkdir()
        training = (*TINY, "process=psld", f"data={digits}", f"training.weighting={weighting}")
        longer = ("training.steps=1500", "training.batch_size=64", "training.ema_decay=0.99")
        rate = ("training.learning_rate=2e-3", "output=model")
        succeeded(call(folder, "train", *training, *longer, *rate))
        given = ("model=model", f"data={digits}", "images=200", "tolerance=1e-3")
        succeeded(call(folder, "likelihood", *given, "output=result.json"))
        bits[weighting] = np.array(bits_in(folder))
    fewer = bits["fid"] - bits["nll"]
    assert fewer.mean() > 3 * stats.sem(fewer)
    assert bits["nll"].mean() < 8
