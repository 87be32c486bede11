"""Published networks: torch-fidelity's distances, gray images, and weights read without code."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch_fidelity
from torch.nn import functional

from psld.config.settings import parse
from psld.evaluation.folders import extractor_for
from psld.metrics import published
from psld.metrics.blocks import assign_blocks
from psld.metrics.distances import frechet_distance, inception_score
from psld.metrics.extraction import FeatureExtractor, batches_of, gather, load_extractor
from psld.metrics.published import (
    positions,
    vision_transformer,
)
from psld.metrics.settings import DINOv2Settings, InceptionSettings, MetricSettings
from psld.utils.errors import UserError
from psld.utils.files import sha256_of_file
from tests.metrics.random_networks import AsDataset, images, random_dinov2, write_random_inception


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory) -> Path:
    return write_random_inception(tmp_path_factory.mktemp("inception") / "random.pth")


def inception_of(path: Path | None) -> FeatureExtractor:
    return load_extractor(InceptionSettings(weights=path and str(path)))


@pytest.fixture(scope="module")
def inception(inception_weights) -> FeatureExtractor:
    return inception_of(inception_weights)


@pytest.fixture
def dinov2(tmp_path, monkeypatch) -> FeatureExtractor:
    """A network with 48 features and 2 layers, in place of the published network with 384 features
    and 12 layers."""
    monkeypatch.setitem(published.DINOV2_SIZES, "small", ("dinov2_vits14", 48, 2, 3))
    torch.save(random_dinov2(48, 2), tmp_path / "dinov2.pth")
    return load_extractor(DINOv2Settings(size="small", weights=str(tmp_path / "dinov2.pth")))


def torch_fidelitys(samples: np.ndarray, reference: np.ndarray, **options: object) -> dict:
    return torch_fidelity.calculate_metrics(
        input1=AsDataset(samples),
        input2=AsDataset(reference),
        fid=True,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
        **options,
    )


# -- networks -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_inception_metrics_of_shards_agree_with_torch_fidelity(inception, inception_weights):
    samples, reference = images(20, 256, seed=1), images(12, 160, seed=2)
    options = {"isc": True, "isc_splits": 2, "samples_shuffle": True, "batch_size": 8}
    theirs = torch_fidelitys(
        samples, reference, feature_extractor_weights_path=inception_weights, **options
    )
    shards = [
        gather(inception, batches_of(shard, 8), "shard", len(shard))
        for shard in (samples[:7], samples[7:])
    ]
    total = shards[1].total + shards[0].total
    ours = gather(inception, batches_of(reference, 12), "reference", len(reference)).total
    expected = theirs["frechet_inception_distance"]
    assert frechet_distance(total, ours) == pytest.approx(expected, rel=1e-5)
    logits = torch.cat([shard.logits for shard in shards])
    score = inception_score(logits, 2, assign_blocks(len(logits), 4))
    assert score.value - 1 == pytest.approx(theirs["inception_score_mean"] - 1, rel=1e-4)


def test_the_dinov2_distance_agrees_with_torch_fidelity(dinov2, monkeypatch):
    """torch-fidelity loads the network with torch.hub, which this test replaces by our network."""
    hub = SimpleNamespace(load=lambda *_: dinov2.network.network)
    monkeypatch.setattr("torch_fidelity.feature_extractor_dinov2.torch.hub", hub)
    samples, reference = images(3, 256, seed=1), images(2, 160, seed=2)
    theirs = torch_fidelitys(samples, reference, feature_extractor="dinov2-vit-s-14")
    a, b = (gather(dinov2, batches_of(x, 6), "x", len(x)).total for x in (samples, reference))
    expected = theirs["frechet_inception_distance"]
    assert expected > 1
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)


def test_dinov2_is_a_vision_transformer_with_a_factor_behind_each_layer():
    """The layers are written out as in the paper."""
    weights, norm = random_dinov2(24, 2), functional.layer_norm
    network = vision_transformer(weights, 24, 2, 3).eval()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))

    def parameters(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    patches = functional.conv2d(images, *parameters("patch_embed.proj"), stride=14).flatten(2).mT
    x = torch.cat([weights["cls_token"].expand(2, -1, -1), patches], dim=1)
    x = x + positions(weights["pos_embed"])
    for block in ("blocks.0.", "blocks.1."):
        y = norm(x, (24,), *parameters(f"{block}norm1"), 1e-6)
        y = functional.linear(y, *parameters(f"{block}attn.qkv"))
        q, k, v = y.unflatten(2, (3, 3, 8)).permute(2, 0, 3, 1, 4)  # 3 heads of 8
        attention = (q @ k.mT / 8**0.5).softmax(dim=-1) @ v
        y = functional.linear(
            attention.transpose(1, 2).flatten(2), *parameters(f"{block}attn.proj")
        )
        x = x + weights[f"{block}ls1.gamma"] * y
        y = norm(x, (24,), *parameters(f"{block}norm2"), 1e-6)
        y = functional.gelu(functional.linear(y, *parameters(f"{block}mlp.fc1")))
        x = x + weights[f"{block}ls2.gamma"] * functional.linear(y, *parameters(f"{block}mlp.fc2"))
    expected = norm(x, (24,), *parameters("norm"), 1e-6)[:, 0]
    with torch.no_grad():
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4)


def test_position_embeddings_are_interpolated_to_the_image_size():
    """A linear function stays linear: patch i of 16 is at the point (i + ½) 37 / 16.1 − ½ of the 37
    points."""
    ramp = torch.arange(37.0)[:, None].expand(37, 37)
    trained = torch.stack([ramp, ramp.T], dim=2).flatten(0, 1)
    placed = positions(torch.cat([torch.ones(1, 2), trained])[None])[0]
    assert placed[0].tolist() == [1, 1], "the class token's is kept"
    down, right = placed[1:].unflatten(0, (16, 16)).unbind(2)
    expected = (torch.arange(16) + 0.5) * 37 / 16.1 - 0.5
    torch.testing.assert_close(down[:, 3], expected, rtol=0, atol=0.1)
    torch.testing.assert_close(down, down[:, :1].expand(16, 16))
    torch.testing.assert_close(down, right.T)


def test_pixels_are_features_and_large_images_are_averaged():
    metric = {"name": "fd-pixels", "extractor": {"kind": "pixels"}}
    extractor = extractor_for(parse(MetricSettings, metric, "metric"), None, "any dataset")
    small = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    for pixels in (small, small[:, :1, :8, :8]):
        features, logits = extractor(pixels)
        assert logits is None
        torch.testing.assert_close(features, pixels.flatten(1) / 255)
    large = small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(extractor(large)[0], small.flatten(1) / 255)


@pytest.mark.parametrize("name", ["inception", "dinov2"])
def test_gray_images_are_repeated_and_other_tensors_refused(name, request):
    extractor = request.getfixturevalue(name)
    gray = torch.from_numpy(images(1, 256, seed=1)[:, :1])
    features, logits = extractor(gray)
    torch.testing.assert_close(features, extractor(gray.repeat(1, 3, 1, 1))[0])
    assert (logits is None) == (name == "dinov2")
    for wrong in (torch.zeros(1, 3, 8, 8), torch.zeros(1, 2, 8, 8, dtype=torch.uint8)):
        with pytest.raises(UserError, match="accepts uint8 images"):
            extractor(wrong)


# -- weights --------------------------------------------------------------------------------------


class Touch:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


class Small(torch.nn.Linear):
    """A network with 20 weights in place of Inception, whose file has 90 MB."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__(4, 4)
        self.load_state_dict(state)


@pytest.fixture
def weights(tmp_path, monkeypatch) -> Path:
    """The file with the weights of a small network."""
    monkeypatch.setattr(published, "Inception", Small)
    torch.save(torch.nn.Linear(4, 4).state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_the_error_for_bad_weights_says_what_to_download(weights, tmp_path):
    (tmp_path / "cut.pth").write_bytes(weights.read_bytes()[:1000])
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "foreign.pth")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    torch.save({"fc.bias": Touch(tmp_path / "executed")}, tmp_path / "evil.pth")
    os.mkfifo(tmp_path / "pipe.pth")
    for name in ("missing", "cut", "foreign", "list", "evil", "pipe"):
        path = tmp_path / f"{name}.pth"
        with pytest.raises(UserError, match=r"download .*inception-.*-6726825d\.pth") as caught:
            inception_of(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists(), "nothing in the weights is executed"
    with pytest.raises(UserError, match=r"download .*https://.*dinov2_vitl14_pretrain\.pth"):
        load_extractor(DINOv2Settings(weights=str(tmp_path / "missing.pth")))


def test_without_network_the_error_says_which_file_goes_where(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(published, "DINOV2_URL", "http://127.0.0.1:9/{0}_pretrain.pth")
    with pytest.raises(UserError, match="URLError") as caught:
        load_extractor(DINOv2Settings())
    place = tmp_path / "hub" / "checkpoints" / "dinov2_vitl14_pretrain.pth"
    assert str(place) in str(caught.value)
    assert "use the metric fd-pixels" in str(caught.value)


def test_a_download_is_verified_and_cached(weights, monkeypatch, tmp_path):
    """The digest of the weights does not depend on their order in the file."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    state = torch.load(weights, weights_only=True)
    torch.save(dict(reversed(state.items())), tmp_path / "reversed.pth")
    name = f"weights-{sha256_of_file(tmp_path / 'reversed.pth')[:8]}.pth"
    (tmp_path / "reversed.pth").rename(tmp_path / name)
    monkeypatch.setattr(published, "URL_INCEPTION_V3", (tmp_path / name).as_uri())
    assert inception_of(None).digest == inception_of(weights).digest
    assert (tmp_path / "home" / "hub" / "checkpoints" / name).is_file()
    wrong = weights.rename(tmp_path / "weights-00000000.pth").as_uri()
    monkeypatch.setattr(published, "URL_INCEPTION_V3", wrong)
    with pytest.raises(UserError, match="invalid hash value"):
        inception_of(None)
