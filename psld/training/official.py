"""The import of checkpoints of the official code as models and guides."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from psld.data.store import ImageStore
from psld.diffusion.process import LinearProcess
from psld.networks.official import LISTED, from_official, read_checkpoint
from psld.training.manifest import (
    GuideManifest,
    Imported,
    ModelManifest,
    make_way,
    write_manifest,
)
from psld.training.model import build_guide, build_network, build_process, save_weights
from psld.training.settings import ImportGuideSettings, ImportModelSettings
from psld.training.start import denoiser_of_states, save_start
from psld.utils.device import use_device
from psld.utils.errors import UserError
from psld.utils.provenance import provenance


def import_model(settings: ImportModelSettings) -> None:
    """Write a model with the weights of a checkpoint, as training does.

    Raises UserError, with a list, if any are missing, unexpected, of the wrong shape or not finite.
    """
    _import(settings, build_network, ModelManifest, settings.weights)


def import_guide(settings: ImportGuideSettings) -> None:
    """Write a guide with the weights of a checkpoint, as `import_model` does."""
    # The official code keeps no moving average of a guide.
    _import(settings, build_guide, GuideManifest, "online")


def _import(
    settings: ImportModelSettings | ImportGuideSettings,
    build: Callable[[Any, LinearProcess], nn.Module],
    kind: type[ModelManifest | GuideManifest],
    chosen: Literal["ema", "online"],
) -> None:
    path = settings.checkpoint
    checkpoint = read_checkpoint(path)
    weights = checkpoint.ema if chosen == "ema" else checkpoint.online
    if weights is None:
        raise UserError(f"{path}: holds no moving average; use weights=online")
    broken = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise UserError(f"{path}: NaN or infinity in {', '.join(broken[:LISTED])}")
    process = build_process(settings)
    network = build(settings, process)
    store = None
    if Path(settings.data).exists():
        store = ImageStore.open_for(settings.data, settings.dataset)
    try:
        network.load_state_dict(from_official(weights, network))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    make_way(settings.output, checkpoint.sha256, settings.replace)
    step = checkpoint.step
    imported = Imported(file=Path(path).name, sha256=checkpoint.sha256, weights=chosen)
    source = imported.model_dump(exclude={"file"})
    weights_sha256 = save_weights(settings.output, network, source)
    if store and kind is ModelManifest:
        device = use_device(settings.device)
        denoise = denoiser_of_states(process, network.to(device).eval())
        print("measuring where samplers can start", flush=True)
        save_start(Path(settings.output), store, denoise, weights_sha256, device)
    manifest = kind(
        name=settings.name,
        grid=settings.grid_name,
        settings=settings.model(),
        dataset_digest=store and store.digest,
        step=step,
        images_seen=step and step * settings.training.batch_size,
        parameters=sum(p.numel() for p in network.parameters()),
        seconds=None,
        device=None,
        ranks=None,
        run=None,
        imported=imported,
        weights_sha256=weights_sha256,
        **provenance(),
    )
    write_manifest(settings.output, manifest)
    print(f"wrote {settings.output}: {chosen} weights, step {step}")
