"""DINOv2: torch-fidelity's distance, PyTorch's transformer, and safe reading of weights."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch_fidelity
from torch import nn

from psld.metrics import published
from psld.metrics.distances import frechet_distance
from psld.metrics.extractor import batches_of, gather
from psld.metrics.published import DINOv2Extractor, VisionTransformer
from psld.metrics.settings import DINOv2Settings
from psld.utils.errors import UserError
from tests.metrics.images import AsDataset, images


def randomized(network: nn.Module) -> nn.Module:
    random = torch.Generator().manual_seed(0)
    for name, value in network.named_parameters():
        scale = 1 / math.sqrt(value[0].numel()) if value.ndim > 1 else 0.5
        value.data = scale * torch.randn(value.shape, generator=random)
        if name.endswith(("gamma", "norm.weight", "norm1.weight", "norm2.weight")):
            value.data += 1
    return network


def settings(path: object) -> DINOv2Settings:
    return DINOv2Settings(kind="dinov2", size="small", weights=str(path))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("dinov2") / "dinov2_vits14_pretrain.pth"
    torch.save(randomized(VisionTransformer(384, 12, 6)).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def extractor(weights) -> DINOv2Extractor:
    return DINOv2Extractor(settings(weights))


def test_the_distance_is_torch_fidelitys(extractor, monkeypatch):
    """torch-fidelity asks torch.hub for the network, which here hands it ours."""
    hub = SimpleNamespace(load=lambda *_: extractor._network)
    monkeypatch.setattr("torch_fidelity.feature_extractor_dinov2.torch.hub", hub)
    samples, reference = images(6, 256, seed=1), images(5, 160, seed=2)
    theirs = torch_fidelity.calculate_metrics(
        input1=AsDataset(samples),
        input2=AsDataset(reference),
        fid=True,
        feature_extractor="dinov2-vit-s-14",
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    a, b = (gather(extractor, batches_of(x, 6), "x", len(x)).total for x in (samples, reference))
    expected = theirs["frechet_inception_distance"]
    assert expected > 1
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)


def test_the_network_is_a_transformer_as_pytorch_has_it():
    """PyTorch's encoder has no factors γ; they are moved into the layers before them."""
    network = randomized(VisionTransformer(24, 2, 3)).eval()
    theirs = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(
            24, 3, 96, 0.0, nn.functional.gelu, 1e-6, batch_first=True, norm_first=True
        ),
        num_layers=2,
        norm=network.norm,
        enable_nested_tensor=False,
    ).eval()
    for mine, layer in zip(network.blocks, theirs.layers, strict=True):
        layer.norm1, layer.norm2, layer.linear1 = mine.norm1, mine.norm2, mine.mlp.fc1
        layer.self_attn.in_proj_weight = mine.attn.qkv.weight
        layer.self_attn.in_proj_bias = mine.attn.qkv.bias
        for target, source, factor in (
            (layer.self_attn.out_proj, mine.attn.proj, mine.ls1.gamma),
            (layer.linear2, mine.mlp.fc2, mine.ls2.gamma),
        ):
            target.weight.data = factor[:, None] * source.weight
            target.bias.data = factor * source.bias
    x = torch.randn(2, 3, 518, 518, generator=torch.Generator().manual_seed(1))
    patches = network.patch_embed.proj(x).flatten(2).mT
    token = network.cls_token.expand(2, -1, -1)
    tokens = torch.cat([token, patches], dim=1) + network.pos_embed
    with torch.no_grad():
        torch.testing.assert_close(network(x), theirs(tokens)[:, 0], rtol=1e-4, atol=1e-4)


def test_positions_follow_the_size_of_the_image():
    """A ramp stays one: patch i of 16 looks at the point (i + ½) 37 / 16.1 − ½ of the 37."""
    network = VisionTransformer(2, 0, 1)
    ramp = torch.arange(37.0)[:, None].expand(37, 37)
    network.pos_embed.data[0, 1:] = torch.stack([ramp, ramp.T], dim=2).flatten(0, 1)
    down, right = network._positions(16, 16).unflatten(1, (16, 16))[0].unbind(2)
    expected = (torch.arange(16) + 0.5) * 37 / 16.1 - 0.5
    torch.testing.assert_close(down[:, 3], expected, rtol=0, atol=0.1)
    torch.testing.assert_close(down, down[:, :1].expand(16, 16))
    torch.testing.assert_close(down, right.T)


def test_grey_images_are_repeated(extractor):
    grey = torch.from_numpy(images(1, 256, seed=1)[:, :1])
    torch.testing.assert_close(extractor(grey)[0], extractor(grey.repeat(1, 3, 1, 1))[0])
    assert extractor(grey)[1] is None
    with pytest.raises(UserError, match="DINOv2 takes uint8 images"):
        extractor(torch.zeros(1, 3, 8, 8))


def test_missing_and_foreign_weights_say_what_to_get(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "foreign.pth")
    for name in ("missing.pth", "foreign.pth"):
        with pytest.raises(UserError, match=r"get https://.*dinov2_vits14_pretrain\.pth") as caught:
            DINOv2Extractor(settings(tmp_path / name))
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_without_network_the_error_says_which_file_goes_where(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(published, "URL", "http://127.0.0.1:9/{0}_pretrain.pth")
    with pytest.raises(UserError, match="URLError") as caught:
        DINOv2Extractor(DINOv2Settings(kind="dinov2"))
    place = tmp_path / "hub" / "checkpoints" / "dinov2_vitl14_pretrain.pth"
    assert str(place) in str(caught.value)
