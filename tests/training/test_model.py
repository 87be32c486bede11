"""Load models and guides from their folders, and build networks from settings."""

import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from psld.data.units import BYTES
from psld.diffusion.denoiser import SeesImages
from psld.models import previews
from psld.models.build import build, build_process, facts_of, forward_flops, seconds_per_image
from psld.models.manifest import FILES, ModelManifest, make_way, read_manifest
from psld.models.settings import ModelSettings
from psld.networks.forward import Denoiser
from psld.sampling.model import load_model
from psld.utils.errors import UserError
from psld.utils.tensors import save_tensors
from tests.commands import files_below
from tests.diffusion.processes import normal
from tests.results import sealed
from tests.training.test_guide import guide_settings

CPU = torch.device("cpu")
CLD = {"kind": "psld", "gamma": 0.0}


def settings(**training) -> ModelSettings:
    dataset = {"name": "x", "channels": 3, "image_size": 8, "num_classes": 4, "flip": False}
    network = {"base_channels": 8, "channel_multipliers": [1, 2], "blocks_per_level": 1}
    return ModelSettings(
        dataset=dataset | {"filter": None, "source": {"kind": "digits"}},
        process=CLD,
        network=network | {"init_scale": 1.0},
        training={"steps": 1, "batch_size": 1} | training,
    )


@pytest.fixture
def copied(model, tmp_path) -> Path:
    """A copy of the model, which a test may damage."""
    return shutil.copytree(model, tmp_path / "model")


def test_a_loaded_model_is_ready_and_frozen(model):
    loaded = load_model(model, CPU)
    stored = load_file(model / "weights.safetensors")
    for name, value in loaded.network.state_dict().items():
        assert torch.equal(value, stored[name]), name
    assert not loaded.network.training
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())
    manifest = read_manifest(model, ModelManifest)
    assert loaded.weights_sha256 == manifest.weights_sha256
    assert loaded.class_names == manifest.class_names == tuple("0123456789")
    identity = manifest.identity()
    for name in ("name", "weights_sha256", "dataset_digest", "step", "imported"):
        assert identity[name] == getattr(manifest, name)
    assert identity["settings"] == manifest.settings.identity()


def test_the_predicted_noise_equals_a_call_of_the_network(model):
    loaded, z, t = load_model(model, CPU), normal(2, 2, 8, 8).float(), torch.tensor([0.2, 0.9])
    assert torch.equal(loaded.eps()(z, t), loaded.network(z, t))
    assert torch.equal(loaded.eps(lambda z, t: -z)(z, t), -z)


def change_manifest(folder: Path, **changes) -> None:
    content = json.loads((folder / "manifest.json").read_text()) | changes
    (folder / "manifest.json").write_text(sealed(content))


def test_weights_of_other_settings_or_another_network_are_refused(copied, vp_sde_model):
    whole = (copied / "weights.safetensors").read_bytes()
    shutil.copy(vp_sde_model / "weights.safetensors", copied)
    with pytest.raises(UserError, match=r"differs from the recorded weights file"):
        load_model(copied, CPU)
    (copied / "weights.safetensors").write_bytes(whole)
    tensors = load_file(copied / "weights.safetensors")
    changed = read_manifest(copied, ModelManifest).settings.model_dump(mode="json")
    changed["training"]["seed"] = 7
    change_manifest(copied, settings=changed)
    with pytest.raises(UserError, match="its settings differ from those in the manifest"):
        load_model(copied, CPU)
    tensors.popitem()
    sha256 = save_tensors(copied / "weights.safetensors", "weights", tensors, {})
    change_manifest(copied, weights_sha256=sha256)
    with pytest.raises(UserError, match="does not fit the network of its manifest"):
        load_model(copied, CPU)


@pytest.mark.parametrize("imported", [False, True])
def test_an_import_replaces_other_weights_only_on_request(copied, imported):
    """Weights from the same checkpoint stay, so they are not imported twice."""
    own = {"file": "a.ckpt", "sha256": "a" * 64, "weights": "ema"}
    change_manifest(copied, imported=own if imported else None)
    before = files_below(copied)
    if imported:
        make_way(copied, "a" * 64, replace=True)
    source = "the checkpoint a.ckpt" if imported else "a training here"
    with pytest.raises(
        UserError, match=f"has weights from {source}; set replace=true to replace them"
    ):
        make_way(copied, "b" * 64, replace=False)
    assert files_below(copied) == before
    make_way(copied, "b" * 64, replace=True)
    assert not {*FILES} & {path.name for path in copied.iterdir()}
    make_way(copied, "b" * 64, replace=False)


@pytest.mark.parametrize(
    ("training", "inputs", "outputs"),
    [({}, 6, 3), ({"objective": "denoiser", "noise_law": {"low": 0.01, "high": 50}}, 3, 3)],
)
def test_a_network_of_states_and_one_of_images(training, inputs, outputs):
    """A network of CLD maps position and momentum to the momentum noise; a denoiser maps images to
    images."""
    own = settings(**training, label_dropout=0.1)
    process = build_process(own)
    network = build(own, process, deviation=0.3)
    x, label = torch.randn(2, inputs, 8, 8), torch.tensor([0, 4])
    assert network(x, torch.tensor([0.5, 0.9]), label).shape == (2, outputs, 8, 8)
    assert (process.predicted_blocks == 2) is bool(training), "a denoiser knows the whole ε"
    if training:
        assert isinstance(network, Denoiser)
        assert (network.sigma_min, network.sigma_max) == (0.01, 50)
        assert float(network.deviation) == pytest.approx(0.3)
    z = torch.randn(2, 6, 8, 8)
    eps = own.training.objective.eps(network, process)(z, torch.tensor([0.5, 0.9]))
    assert eps.shape == (2, 3 * process.predicted_blocks, 8, 8)
    with pytest.raises(UserError, match="the network has no classes"):
        build(settings(**training), process)(x, torch.ones(2), label)


def test_the_noise_of_previews_depends_only_on_the_seed(tmp_path, monkeypatch):
    few = previews.SAMPLER.model_copy(update={"steps": 2})
    monkeypatch.setattr(previews, "SAMPLER", few)
    own = settings(objective="denoiser")
    process = build_process(own)
    torch.manual_seed(0)
    network = build(own, process).eval()

    def preview(name: str, seed: int) -> bytes:
        training = own.training.model_copy(update={"seed": seed})
        facts = facts_of(own.model_copy(update={"training": training}), process)
        picture = tmp_path / f"{name}.png"
        own.training.objective.preview(
            facts, network, SimpleNamespace(units=BYTES, path=tmp_path), picture
        )
        with Image.open(picture) as image:
            assert image.size == (8 * 68 + 4, 8 * 68 + 4), "8 samples in a row"
            return image.tobytes()

    assert preview("first", 0) == preview("again", 0) != preview("other", 1)


def test_guides_of_states_and_of_images_give_logits_of_states():
    z, t = torch.randn(3, 2, 8, 8), torch.tensor([0.1, 0.5, 0.9])
    for training in ({}, {"objective": "denoiser"}):
        own = guide_settings(CLD, **training)
        process = build_process(own)
        guide = build(own, process)
        logits = own.training.objective.logits(guide, process)
        assert logits(z, t).shape == (3, 2)
        assert isinstance(logits, SeesImages) is bool(training)


def test_flops_of_a_convolution():
    """A multiply-add counts as two FLOPs."""

    class Network(nn.Module):
        in_shape = (2, 4, 4)

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 5, 3, padding=1)

        def forward(self, x, t):
            return self.conv(x)

    assert forward_flops(Network()) == 2 * (2 * 9) * 5 * 16


def test_the_time_per_image_divides_by_the_measured_images(monkeypatch):
    monkeypatch.setattr("psld.models.build.MOST_TIMED", 16)
    clock = itertools.count(step=0.1)  # any number of images takes 0.1 seconds
    monkeypatch.setattr("psld.models.build.time.process_time", lambda: next(clock))
    assert seconds_per_image(settings()) == pytest.approx(0.1 / 16)
