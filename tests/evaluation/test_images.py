"""`psld evaluate images=…` and `psld.evaluate`: metrics of external images."""

import io
import re
import shutil
import zipfile
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch

import psld
from psld.data.store import ImageStore
from psld.data.units import truncated
from psld.evaluation.evaluation import load_kept
from psld.evaluation.folders import load_reference
from psld.evaluation.results import CellResults
from psld.metrics.blocks import assign_blocks
from psld.metrics.distances import frechet_distance, frechet_estimate
from psld.metrics.extraction import gather
from psld.metrics.features import BlockMoments, FeatureStatistics
from psld.sampling.shards import Shard, ShardOrigin, shard_path
from psld.utils.errors import UserError
from tests.commands import call, refused, succeeded
from tests.data.formats import encode, random_images, write_files
from tests.metrics.random_networks import write_random_inception
from tests.training.small import prepared

FD = ("metric=fd-classifier", "dataset=digits")


@pytest.fixture(scope="module")
def folder(digits, features, tmp_path_factory) -> Path:
    """A project with the digits, their features, and 300 noisy digits in external formats."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "data").mkdir()
    shutil.copy(digits, folder / "data")
    shutil.copytree(features, folder / "features/digits/fd-classifier")
    random = np.random.default_rng(0)
    real = ImageStore.open(digits).images("test")[:300]
    noise = random.integers(0, 256, real.shape, dtype=np.uint8)
    images = np.where(random.random(real.shape) < 0.2, noise, real)
    np.savez(folder / "noisy.npz", arr_0=images.transpose(0, 2, 3, 1), arr_1=np.zeros(300))
    psld.save_images(images, folder / "pictures")
    with zipfile.ZipFile(folder / "packed.zip", "w") as archive:
        for file in sorted((folder / "pictures").iterdir()):
            archive.write(file, f"inside/{file.name}")
    return folder


def evaluate(folder: Path, images: str, *words: str):
    return call(folder, "evaluate", f"images={images}", *words)


def test_every_form_of_the_images_gives_the_value_of_their_features(folder):
    results = []
    shutil.copy(folder / "noisy.npz", folder / "a (1).npz")
    for images in ("pictures", "packed.zip", "'a (1).npz'"):
        succeeded(evaluate(folder, images, *FD, "output=result.json"))
        [result] = CellResults.read(folder / "result.json").results
        assert (result.images, result.model, result.samples) == (images.strip("'"), None, 300)
        results.append(result)
    values = load_kept(folder / "result.safetensors", result.kept_sha256).samples
    reference, _ = load_reference(folder / "features/digits/fd-classifier/reference")
    kept = values["fd-classifier", 300].values
    expected = frechet_estimate(BlockMoments(assign_blocks(300)).add(kept), reference.train.total)
    for result in results:
        assert result.estimate == expected
        assert result.images_sha256 == results[0].images_sha256
        assert result.record == results[0].record
        assert 0 < result.floor < result.value < result.noise


def test_shards_give_the_value_of_their_first_images(folder):
    """This also holds if the last shard is truncated. Each source takes longer than the source
    before it."""
    images, size = np.load(folder / "noisy.npz")["arr_0"].transpose(0, 3, 1, 2), 90
    for index, first in enumerate(range(0, 300, size)):
        origin = ShardOrigin(weights_sha256="w", sampler_digest="s", seed=0, index=index, size=size)
        shard = Shard(images[first : first + size], origin, 20 + index, 1.5, "CPU")
        shard.save(shard_path(folder / "cell", index))
    succeeded(evaluate(folder, "cell", *FD, "samples=239", "output=shards.json"))
    [result] = CellResults.read(folder / "shards.json").results
    with chdir(folder):
        others = psld.evaluate(psld.load_images("noisy.npz")[:239], "digits", "fd-classifier")
    assert result.value == pytest.approx(others.value, rel=1e-6)
    assert result.nfe == pytest.approx(np.mean([20 + i // size for i in range(239)]))
    assert result.sampling_seconds == 1.5 * -(-239 // size)
    assert (result.reference_samples, result.floor_samples) == (1437, 360)
    assert result.extractor_test_accuracy > 0.5
    assert result.metric["extractor"]["steps"] == 20, "as it was trained"
    assert result.versions["torch"] == torch.__version__


def test_the_command_prints_value_interval_and_extrapolation(folder):
    said = succeeded(evaluate(folder, "noisy.npz", *FD, "samples=200")).stdout.splitlines()
    with chdir(folder):
        images = psld.load_images("noisy.npz")[:200]
        result = psld.evaluate(images, "digits", "fd-classifier")
    limit, half = result.extrapolated, result.interval.half_width
    both = np.hypot(half, result.reference_estimate.interval.half_width)
    assert 0.01 < half < 0.1, "so three decimals are printed"
    assert said == [
        f"fd-classifier of 200 images: {result.value:.3f} ± {half:.3f}",
        f"  for infinitely many images: {limit.value:.3f} ± {limit.half_width:.3f}",
        f"  including the uncertainty of the reference: {result.value:.3f} ± {both:.3f}",
    ]
    few = succeeded(evaluate(folder, "noisy.npz", *FD, "samples=49")).stdout
    assert "the interval is unreliable for so few images: intervals were validated for 50 or" in few


def test_several_metrics_share_one_pass_and_one_file(folder):
    names = "fd-classifier,kd-classifier,precision-classifier,recall-classifier"
    words = (f"metric=[{names}]", "dataset=digits", "output=several.json")
    assert "kd-classifier of 300 images" in succeeded(evaluate(folder, "noisy.npz", *words)).stdout
    results = CellResults.read(folder / "several.json").results
    assert [result.metric["name"] for result in results] == names.split(",")
    for result in results:  # exchanging the sets changes only KID, which draws other subsets
        close = 0.1 if result.metric["name"] == "kd-classifier" else 1e-6
        assert result.reference_estimate.value == pytest.approx(result.value, rel=close)
        assert result.reference_estimate.samples == 1437
    assert results[0].extrapolated
    assert results[1].extrapolated is None


def test_external_images_and_statistics_can_be_references(folder):
    with chdir(folder):
        extractor = psld.load_extractor("features/digits/fd-classifier")
        real = psld.load_images("digits")
        moments = gather(extractor, [real], "real", len(real)).total
        np.savez("statistics.npz", mu=moments.mean, sigma=moments.covariance)
        options = {"metric": "fd-classifier", "extractor": "features/digits/fd-classifier"}
        dataset, images, statistics = (
            psld.evaluate("noisy.npz", reference, **options)
            for reference in ("digits", real, "statistics.npz")
        )
    assert images.value == pytest.approx(dataset.value, rel=1e-6)
    assert statistics.estimate.without_block == pytest.approx(dataset.estimate.without_block, 1e-6)
    assert (statistics.reference_samples, statistics.reference_estimate) == (None, None)
    assert images.reference_estimate.interval.half_width > 0
    assert len({each.record for each in (dataset, images, statistics)}) == 3
    words = ("reference=statistics.npz", "extractor=features/digits/fd-classifier")
    said = succeeded(evaluate(folder, "noisy.npz", "metric=fd-classifier", *words)).stdout
    assert (
        "including the uncertainty of the reference: unknown from mean and covariance alone" in said
    )
    finished = evaluate(folder, "noisy.npz", "metric=kd-classifier", *words)
    refused(finished, 2, "statistics (mu, sigma), which suffice for Fréchet distances")


class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, images):
        return images.flatten(1) * self.scale


def test_an_extractor_may_be_an_object(folder):
    with chdir(folder):
        loaded = psld.load_extractor("features/digits/fd-classifier")
        by_folder = psld.evaluate("noisy.npz", "digits", "fd-classifier")
        by_object = psld.evaluate("noisy.npz", "digits", "fd-classifier", extractor=loaded)
        for key in ("value", "interval", "extrapolated", "reference_estimate", "noise"):
            assert getattr(by_object, key) == getattr(by_folder, key), key

        def rows(images):
            return images.float().mean(dim=(1, 3)) / 255

        result = psld.evaluate("noisy.npz", "digits", "fid", extractor=rows)
        noisy, real = map(psld.load_images, ("noisy.npz", "digits"))
        pair = rows(noisy), rows(real)
        expected = frechet_distance(*map(FeatureStatistics.of, pair))
        assert result.value == pytest.approx(expected, rel=1e-4)
        cut = psld.evaluate("noisy.npz", "digits", "fid-train", extractor=rows)
        expected = frechet_distance(*map(FeatureStatistics.of, (pair[0], rows(truncated(real)))))
        assert cut.value == pytest.approx(expected, rel=1e-4)
        assert cut.value != pytest.approx(result.value, rel=1e-2)
        assert result.metric["name"] == "fd-given"
        assert 0 < result.interval.half_width < result.value
        module = Scaled().eval()
        assert psld.evaluate("noisy.npz", "digits", "recall-classifier", extractor=module).value > 0
        assert module.scale.requires_grad, "the caller's module is not frozen"
        with pytest.raises(UserError, match=r"in training mode, .* call its eval\(\) first"):
            psld.evaluate("noisy.npz", "digits", extractor=Scaled().train())
        with pytest.raises(UserError, match=r"needs extractor\.kind inception"):
            psld.evaluate("noisy.npz", "digits", "inception-score", extractor=rows)


def test_copies_do_not_narrow_the_interval(folder):
    images = np.load(folder / "noisy.npz")["arr_0"][:40]
    np.savez(folder / "few.npz", arr_0=images)
    np.savez(folder / "copies.npz", arr_0=np.tile(images, (10, 1, 1, 1)))
    metric, extractor = "fd-classifier", "features/digits/fd-classifier"
    with chdir(folder):
        few, copies = (psld.evaluate(f"{n}.npz", "digits", metric) for n in ("few", "copies"))
        back = [
            psld.evaluate("noisy.npz", f"{n}.npz", metric, extractor=extractor).reference_estimate
            for n in ("few", "copies")
        ]
    assert copies.extrapolated is None
    assert copies.interval.half_width == pytest.approx(few.interval.half_width, rel=0.05)
    assert back[1].interval.half_width == pytest.approx(back[0].interval.half_width, rel=0.05)
    said = succeeded(evaluate(folder, "copies.npz", *FD)).stdout
    assert "fd-classifier of 400 images (40 distinct): " in said
    assert "at least 128 distinct images (4 for each of 32 features)" in said


def test_the_reference_itself_is_not_extrapolated(folder):
    with chdir(folder):
        result = psld.evaluate("digits", "digits", "fd-classifier")
    assert result.value == pytest.approx(0, abs=1e-6)
    assert result.extrapolated is None


@pytest.mark.slow
def test_load_extractor_finds_inception_by_name(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    write_random_inception(tmp_path / "checkpoints/weights-inception-2015-12-05-6726825d.pth")
    images = psld.load_images(folder / "pictures")
    features, logits = psld.load_extractor("inception")(images[:2])
    assert (features.shape, logits.shape) == ((2, 2048), (2, 1008))
    result = psld.evaluate(images[:12], images[12:20], "fid", device="cpu")
    assert result.metric["name"] == "fid"
    assert result.value > 0


def test_pictures_of_several_sizes_are_measured_as_they_are_prepared(tmp_path):
    for folder, first in (("a", 0), ("b", 9)):
        shapes = [(20, 31, 3), (40, 24, 3), (17, 17)] * 3
        pictures = (encode(random_images(*s, seed=first + i)) for i, s in enumerate(shapes))
        write_files(tmp_path / folder, {f"{i}.png": each for i, each in enumerate(pictures)})
        words = (f"dataset.name={folder}", f"dataset.source.root={folder}", "dataset.image_size=8")
        succeeded(call(tmp_path, "prepare", "dataset=folder", *words))
    words = ("evaluate", "images=a", "reference=b", "metric=fd-pixels")
    said = refused(
        call(tmp_path, *words), 2, "a: 0.png is 31×20 pixels (width×height), 1.png is 24×40"
    )
    assert "image_size=N crops pictures to their central squares and resizes them" in said
    said = succeeded(call(tmp_path, *words, "image_size=8")).stdout
    prepared = ("evaluate", "images=data/a.h5", "reference=data/b.h5", "metric=fd-pixels")
    assert said == succeeded(call(tmp_path, *prepared)).stdout
    with chdir(tmp_path):
        assert torch.equal(psld.load_images("a", image_size=8), psld.load_images("data/a.h5"))
        result = psld.evaluate("a", "b", "fd-pixels", image_size=8)
    assert f"{result.value:.2f}" in said


# --- bad input ----------------------------------------------------------------------------------


def too_large(path: Path) -> None:
    """Write an .npz of 244 bytes whose header states 10¹⁸ bytes."""
    header = io.BytesIO()
    form = {"descr": "|u1", "fortran_order": False, "shape": (10**12, 1000, 1000, 1)}
    np.lib.format.write_array_header_1_0(header, form)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", header.getvalue())


def different(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape)).astype(np.uint8).reshape(shape)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((1, 8, 8, 1), np.uint8), "x.npz: 1 images; at least 3"),
        (different(4, 9, 8, 1), "the images are 1×9×8…1×8×8"),
        (np.zeros((4, 8, 8, 1), int), "arr_0: int64 of 4×8×8×1; uint8 N×H"),
        (np.zeros((4, 8, 8, 1)), "x.npz: float64, but data/digits.h5 has uint8"),
        (np.zeros((9, 8, 8, 1), np.uint8), "x.npz: 1 distinct images; at least 3"),
    ],
)
def test_bad_images_are_refused(folder, images, said):
    """tests/data/test_images.py tests other files that are no images."""
    np.savez(folder / "x.npz", arr_0=images)
    refused(evaluate(folder, "x.npz", *FD), 2, *said.split("…"))


def test_a_file_with_a_size_beyond_the_memory_is_refused(folder):
    too_large(folder / "large.npz")
    refused(evaluate(folder, "large.npz", *FD), 1, "large.npz: ", "Unable to allocate")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("dataset=digits reference=noisy.npz", "give either dataset=NAME or reference=PATH"),
        ("dataset=digits samples=301", "noisy.npz: 300 images; at least 301 images are needed"),
        ("dataset=mnist", "dataset=mnist: no data/mnist.h5; run psld prepare"),
        ("reference=noisy.npz", "needs the folder of a trained extractor"),
        ("dataset=digits metric=memorization-pixels output=m.json", "run psld reference dataset="),
    ],
)
def test_bad_settings_are_refused(folder, words, said):
    given = ("metric=fd-classifier", *words.split())
    refused(evaluate(folder, "noisy.npz", *given), 2, said)
    assert not [*folder.glob("m.*")]


def test_kept_features_of_other_images_than_the_dataset_s_are_refused(folder, tmp_path):
    shutil.copytree(folder / "features", tmp_path / "features")
    prepared(tmp_path, "digits", random_images(40, 1, 8, 8), [20, 20])
    said = "reference: made from other images than data/digits.h5; run psld reference again"
    refused(evaluate(tmp_path, f"{folder}/noisy.npz", *FD), 2, said)


def test_bad_statistics_are_refused(folder):
    options = {"metric": "fd-classifier", "extractor": folder / "features/digits/fd-classifier"}
    mean, one = np.zeros(3), np.eye(3)
    for mu, sigma, said in (
        (mean, np.zeros((3, 2)), "mu is float64 of 3 and sigma"),
        (np.zeros(0), np.zeros((0, 0)), "of 0×0; float32 or"),
        (np.full(3, np.nan), one, "must be finite"),
        (mean, 1e300 * one, "must be finite and in the range of float32"),
        (np.zeros(3, int), one, "mu is int64 of 3 and sigma"),
        (mean, np.tri(3), "sigma is not symmetric"),
        (mean, np.diag([1, 1, -1.0]), "sigma has the eigenvalue -1,"),
        (mean, one, "of 32 and of 3 features cannot be compared"),
    ):
        np.savez(folder / "wrong.npz", mu=mu, sigma=sigma)
        with pytest.raises(UserError, match=re.escape(said)):
            psld.evaluate(folder / "noisy.npz", folder / "wrong.npz", **options)
    same = torch.ones(9, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(UserError, match="reference: 1 distinct images; at least 3 are needed"):
        psld.evaluate(folder / "noisy.npz", same, **options)
    with pytest.raises(UserError, match="images: has floats, but fd-classifier measures pictures"):
        psld.evaluate(torch.zeros(4, 1, 8, 8), folder / "wrong.npz", **options)


def test_shards_of_two_cells_are_not_mixed(tmp_path):
    for index, seed in enumerate((0, 1)):
        of = {"weights_sha256": "w", "sampler_digest": "s", "seed": seed, "index": index, "size": 4}
        shard = Shard(np.zeros((4, 1, 8, 8), np.uint8), ShardOrigin(**of), 20, 1.5, "CPU")
        shard.save(shard_path(tmp_path, index))
    with pytest.raises(
        UserError, match=r"00001\.safetensors: sampled with a different seed than .*00000"
    ):
        psld.load_images(tmp_path)
