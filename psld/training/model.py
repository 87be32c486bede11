"""A trained model on disk: weights.safetensors (EMA) and manifest.json, and how to read it back.

The guide that guides a sampler is kept in the same way.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from psld.utils.errors import UserError
from psld.utils.files import atomic_path, read_json, sha256_of_file, write_json
from psld.networks.guide import NCSNppGuide
from psld.networks.ncsnpp import NCSNpp
from psld.diffusion.instances import from_settings
from psld.diffusion.process import LinearProcess
from psld.utils.provenance import provenance
from psld.config.settings import parse
from psld.training.settings import GuideModelSettings, ModelSettings, TrainedSettings

Kind = Literal["model", "guide"]

MANIFEST_KEYS = {"kind", "name", "settings", "dataset_digest", "step", "weights_sha256"}
"""What sampling and evaluation read of a manifest."""


def build_process(settings: TrainedSettings) -> LinearProcess:
    return from_settings(settings.process)


def build_network(settings: ModelSettings, process: LinearProcess) -> NCSNpp:
    """The ε-network: k·C channels in, one C for each predicted block out."""
    channels = settings.dataset.channels
    return NCSNpp(
        settings.network,
        image_size=settings.dataset.image_size,
        in_channels=process.blocks * channels,
        out_channels=process.predicted_blocks * channels,
        num_classes=settings.num_classes,
    )


def build_guide(settings: GuideModelSettings, process: LinearProcess) -> NCSNppGuide:
    """The noise-conditional guide: k·C channels in, one logit for each class out."""
    return NCSNppGuide(
        settings.network,
        image_size=settings.dataset.image_size,
        in_channels=process.blocks * settings.dataset.channels,
        num_classes=settings.dataset.num_classes,
    )


@dataclass(frozen=True)
class Model:
    """What a sampler needs of a trained model."""

    settings: ModelSettings
    process: LinearProcess
    network: NCSNpp
    weights_sha256: str


@dataclass(frozen=True)
class Guide:
    """What a sampler needs of a trained noise-conditional guide."""

    settings: GuideModelSettings
    network: NCSNppGuide


def read_manifest(folder: str | Path, kind: Kind = "model") -> dict[str, Any]:
    """Read the manifest of a model, or of a guide.

    Raises UserError when it is missing, damaged or foreign.
    """
    path = Path(folder) / "manifest.json"
    manifest = read_json(path)
    whole = isinstance(manifest, dict) and manifest.keys() >= MANIFEST_KEYS
    if not whole or manifest["kind"] != kind:
        raise UserError(f"{path}: not the manifest of a {kind}; train the {kind} anew")
    return manifest


def load_model(folder: str | Path, device: torch.device) -> Model:
    """Read a model. Raises UserError when a file is missing, damaged or foreign."""
    manifest = read_manifest(folder)
    settings = parse(ModelSettings, manifest["settings"], where=f"{folder}/manifest.json")
    process = build_process(settings)
    network = build_network(settings, process)
    _load_weights(network, Path(folder), manifest)
    return Model(settings, process, network.to(device).eval(), manifest["weights_sha256"])


def load_guide(folder: str | Path, device: torch.device) -> Guide:
    """Read a guide. Raises UserError when a file is missing, damaged or foreign."""
    manifest = read_manifest(folder, "guide")
    settings = parse(GuideModelSettings, manifest["settings"], where=f"{folder}/manifest.json")
    network = build_guide(settings, build_process(settings))
    _load_weights(network, Path(folder), manifest)
    return Guide(settings, network.to(device).eval().requires_grad_(False))


def _load_weights(network: nn.Module, folder: Path, manifest: dict[str, Any]) -> None:
    path = folder / "weights.safetensors"
    if not path.exists():
        command = "psld.train" if manifest["kind"] == "model" else "psld.train_guide"
        raise UserError(f"{path}: no such file; train the {manifest['kind']} (python -m {command})")
    if sha256_of_file(path) != manifest["weights_sha256"]:
        raise UserError(f"{path}: damaged, or not the weights that {folder}/manifest.json names")
    try:
        network.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError) as error:
        raise UserError(f"{path}: does not fit the network of its manifest ({error})") from None


def save_model(folder: str | Path, network: nn.Module, manifest: dict[str, Any]) -> None:
    """Write the weights and then, last, the manifest with their digest and the provenance."""
    folder = Path(folder)
    with atomic_path(folder / "weights.safetensors") as partial:
        state = {name: value.contiguous().cpu() for name, value in network.state_dict().items()}
        partial.write_bytes(save(state))
    manifest = {
        "kind": "classifier" if isinstance(network, NCSNppGuide) else "model",
        **manifest,
        "weights_sha256": sha256_of_file(folder / "weights.safetensors"),
        **provenance(),
    }
    write_json(folder / "manifest.json", manifest)
