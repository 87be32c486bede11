"""A trained model on disk: weights.safetensors (EMA) and manifest.json, and how to read it back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from psld.errors import UserError
from psld.files import atomic_path, read_json, sha256_of_file, write_json
from psld.networks.ncsnpp import NCSNpp
from psld.processes.instances import from_settings
from psld.processes.linear import LinearProcess
from psld.provenance import provenance
from psld.settings import parse
from psld.training.settings import ModelSettings

MANIFEST_KEYS = {"name", "settings", "dataset_digest", "step", "weights_sha256"}
"""What sampling and evaluation read of a manifest."""


def build_process(settings: ModelSettings) -> LinearProcess:
    return from_settings(settings.process)


def build_network(settings: ModelSettings, process: LinearProcess) -> NCSNpp:
    """The ε-network: k·C channels in, one C for each predicted block out."""
    channels = settings.dataset.channels
    return NCSNpp(
        settings.network,
        image_size=settings.dataset.image_size,
        in_channels=process.blocks * channels,
        out_channels=process.predicted_blocks * channels,
    )


@dataclass(frozen=True)
class Model:
    """What a sampler needs of a trained model."""

    settings: ModelSettings
    process: LinearProcess
    network: NCSNpp
    weights_sha256: str


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read a model's manifest. Raises UserError when it is missing, damaged or foreign."""
    path = Path(folder) / "manifest.json"
    manifest = read_json(path)
    if not isinstance(manifest, dict) or not manifest.keys() >= MANIFEST_KEYS:
        raise UserError(f"{path}: not the manifest of a model; train the model anew")
    return manifest


def load_model(folder: str | Path, device: torch.device) -> Model:
    """Read a model. Raises UserError when a file is missing, damaged or foreign."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    weights = folder / "weights.safetensors"
    settings = parse(ModelSettings, manifest["settings"], where=str(folder / "manifest.json"))
    if not weights.exists():
        raise UserError(f"{weights}: no such file; train the model (python -m psld.train)")
    if sha256_of_file(weights) != manifest["weights_sha256"]:
        raise UserError(f"{weights}: damaged, or not the weights that {folder}/manifest.json names")
    process = build_process(settings)
    network = build_network(settings, process)
    try:
        network.load_state_dict(load_file(weights))
    except (RuntimeError, SafetensorError) as error:
        raise UserError(f"{weights}: does not fit the network of its manifest ({error})") from None
    return Model(settings, process, network.to(device).eval(), manifest["weights_sha256"])


def save_model(folder: str | Path, network: nn.Module, manifest: dict[str, Any]) -> None:
    """Write the weights and then, last, the manifest with their digest and the provenance."""
    folder = Path(folder)
    with atomic_path(folder / "weights.safetensors") as partial:
        state = {name: value.contiguous().cpu() for name, value in network.state_dict().items()}
        partial.write_bytes(save(state))
    manifest = {
        **manifest,
        "weights_sha256": sha256_of_file(folder / "weights.safetensors"),
        **provenance(),
    }
    write_json(folder / "manifest.json", manifest)
