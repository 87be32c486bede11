"""Inception: the sharded FID of torch-fidelity, and weights read without unpickling code."""

from pathlib import Path

import pytest
import torch
import torch_fidelity

from psld.metrics import published
from psld.metrics.distances import frechet_distance, inception_score
from psld.metrics.extractor import batches_of, gather
from psld.metrics.published import InceptionExtractor
from psld.utils.errors import UserError
from psld.utils.files import sha256_of_file
from tests.metrics.images import AsDataset, images
from tests.metrics.random_inception import write_random_inception


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_random_inception(tmp_path_factory.mktemp("inception") / "random.pth")


@pytest.fixture(scope="module")
def extractor(weights) -> InceptionExtractor:
    return InceptionExtractor(weights)


@pytest.mark.slow
def test_metrics_of_shards_are_torch_fidelitys(extractor, weights):
    samples, reference = images(20, 256, seed=1), images(12, 160, seed=2)
    theirs = torch_fidelity.calculate_metrics(
        input1=AsDataset(samples),
        input2=AsDataset(reference),
        fid=True,
        isc=True,
        isc_splits=2,
        samples_shuffle=True,
        cuda=False,
        batch_size=8,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
        feature_extractor_weights_path=weights,
    )
    shards = [
        gather(extractor, batches_of(shard, 8), "shard", len(shard))
        for shard in (samples[:7], samples[7:])
    ]
    total = shards[1].total + shards[0].total
    ours = gather(extractor, batches_of(reference, 12), "reference", len(reference)).total
    expected = theirs["frechet_inception_distance"]
    assert frechet_distance(total, ours) == pytest.approx(expected, rel=1e-5)
    score = inception_score(torch.cat([shard.logits for shard in shards]), splits=2, blocks=4)
    assert score.value - 1 == pytest.approx(theirs["inception_score_mean"] - 1, rel=1e-4)


def test_grey_images_are_repeated(extractor):
    grey = torch.from_numpy(images(2, 256, seed=1)[:, :1])
    torch.testing.assert_close(extractor(grey), extractor(grey.repeat(1, 3, 1, 1)))


def test_other_images_are_user_errors(extractor):
    for wrong in (torch.zeros(1, 3, 8, 8), torch.zeros(1, 2, 8, 8, dtype=torch.uint8)):
        with pytest.raises(UserError, match="uint8 images"):
            extractor(wrong)


def test_digest_names_the_weights(extractor, weights, tmp_path):
    state = torch.load(weights, weights_only=True)
    torch.save(dict(reversed(state.items())), tmp_path / "same.pth")
    state["fc.bias"] = state["fc.bias"] + 1e-6
    torch.save(state, tmp_path / "other.pth")
    assert InceptionExtractor(tmp_path / "same.pth").digest == extractor.digest
    assert InceptionExtractor(tmp_path / "other.pth").digest != extractor.digest


def test_missing_damaged_and_foreign_weights_say_what_to_get(weights, tmp_path):
    (tmp_path / "cut.pth").write_bytes(weights.read_bytes()[:1000])
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "foreign.pth")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    for name in ("missing.pth", "cut.pth", "foreign.pth", "list.pth"):
        with pytest.raises(
            UserError, match=r"weights-inception-2015-12-05-6726825d\.pth"
        ) as caught:
            InceptionExtractor(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_nothing_in_the_weights_is_executed(tmp_path):
    torch.save({"fc.bias": Touch(tmp_path / "executed")}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="UnpicklingError"):
        InceptionExtractor(tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()


def test_without_network_the_error_says_which_file_goes_where(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = "http://127.0.0.1:9/weights-inception-2015-12-05-6726825d.pth"
    monkeypatch.setattr(published, "URL_INCEPTION_V3", url)
    with pytest.raises(UserError, match="URLError") as caught:
        InceptionExtractor(None)
    place = tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    assert str(place) in str(caught.value)
    assert "or anywhere and set weights to its path" in str(caught.value)


def test_a_download_is_checked_and_kept(extractor, weights, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    name = f"weights-{sha256_of_file(weights)[:8]}.pth"
    (tmp_path / name).hardlink_to(weights)
    monkeypatch.setattr(published, "URL_INCEPTION_V3", (tmp_path / name).as_uri())
    assert InceptionExtractor(None).digest == extractor.digest
    assert (tmp_path / "home" / "hub" / "checkpoints" / name).is_file()
    (tmp_path / "weights-00000000.pth").hardlink_to(weights)
    wrong = (tmp_path / "weights-00000000.pth").as_uri()
    monkeypatch.setattr(published, "URL_INCEPTION_V3", wrong)
    with pytest.raises(UserError, match="invalid hash value"):
        InceptionExtractor(None)
