"""A trained model or guide: its network, and the weights of that network on disk."""

from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import nn

from psld.diffusion.process import LinearProcess
from psld.networks.ncsnpp import NCSNpp, NCSNppGuide
from psld.training.manifest import GuideManifest, ModelManifest, read_manifest
from psld.training.settings import GuideModelSettings, ModelSettings
from psld.utils.device import device_of
from psld.utils.errors import UserError
from psld.utils.tensors import read_tensors, save_tensors

WEIGHTS = "weights.safetensors"


def build_network(settings: ModelSettings, process: LinearProcess) -> NCSNpp:
    """The ε-network: k·C channels in, C channels per predicted block out."""
    channels = settings.dataset.channels
    return NCSNpp(
        settings.network,
        image_size=settings.dataset.image_size,
        in_channels=process.blocks * channels,
        out_channels=process.predicted_blocks * channels,
        num_classes=settings.num_classes,
    )


def build_guide(settings: GuideModelSettings, process: LinearProcess) -> NCSNppGuide:
    """The noise-conditional guide: k·C channels in, one logit per class out."""
    return NCSNppGuide(
        settings.network,
        image_size=settings.dataset.image_size,
        in_channels=process.blocks * settings.dataset.channels,
        num_classes=settings.dataset.num_classes,
    )


@dataclass(frozen=True)
class Model:
    """A trained model, ready to sample."""

    settings: ModelSettings
    process: LinearProcess
    network: nn.Module
    """ε(z, t), or ε(z, t, label)."""
    weights_sha256: str


@dataclass(frozen=True)
class Guide:
    """A trained guide, ready to steer a sampler."""

    settings: GuideModelSettings
    network: NCSNppGuide
    weights_sha256: str


def load_model(folder: str | Path, device: torch.device) -> Model:
    """Read a model. Raises UserError if a file is missing, damaged or foreign.

    Its parameters are frozen; `network.requires_grad_(True)` trains it on.
    """
    manifest = read_manifest(folder, ModelManifest)
    process = manifest.settings.process.build()
    network = build_network(manifest.settings, process).to(device)
    _load_weights(network, Path(folder), manifest)
    return Model(manifest.settings, process, network, manifest.weights_sha256)


def load_guide(folder: str | Path, device: torch.device) -> Guide:
    """Read a guide. Raises UserError if a file is missing, damaged or foreign."""
    manifest = read_manifest(folder, GuideManifest)
    network = build_guide(manifest.settings, manifest.settings.process.build()).to(device)
    _load_weights(network, Path(folder), manifest)
    return Guide(manifest.settings, network, manifest.weights_sha256)


@torch.no_grad()
def forward_flops(network: nn.Module) -> int:
    """Return the FLOPs of one image through a network; a multiply-add counts as two."""
    from torch.utils.flop_counter import FlopCounterMode  # imports triton

    device = device_of(network)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *network.in_shape, device=device), torch.ones(1, device=device))
    return counter.get_total_flops()


def _load_weights(
    network: nn.Module, folder: Path, manifest: ModelManifest | GuideManifest
) -> None:
    """Load weights into a network that will not be trained."""
    command = "psld train" if manifest.kind == "model" else "psld train_guide"
    path, remedy = folder / WEIGHTS, f"train the {manifest.kind} ({command}), or import it"
    weights = read_tensors(path, "weights", remedy, manifest.weights_sha256).tensors()
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        start = shorten(str(error), 200, placeholder=" …")  # it lists every name
        raise UserError(f"{path}: does not fit the network of its manifest ({start})") from None
    network.eval().requires_grad_(False)


def save_weights(folder: str | Path, network: nn.Module, origin: dict[str, Any]) -> str:
    """Write weights.safetensors with all that decided the weights, and return its digest."""
    return save_tensors(Path(folder) / WEIGHTS, "weights", network.state_dict(), origin)
