"""Import a checkpoint of the official code (mandt-lab/PSLD) as a model or guide.

    psld import FILE model=paper/cifar10-cld
    psld import FILE dataset=cifar10 process=cld network=cifar10-ablation
    psld import FILE guide=paper/cifar10-psld-0.01
    psld import FILE kind=guide dataset=cifar10 network=guide-cifar10 training=guide-cifar10

Only tensors and plain containers are read from the file. Its parameters must be those of the
network, with the same shapes and no others. The dataset need not be prepared.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from psld.commands.entry import FromRecord, entry_point
from psld.data.store import ImageStore
from psld.diffusion.process import LinearProcess
from psld.grid import jobs
from psld.networks.official import LISTED, from_official, read_checkpoint
from psld.training.manifest import GuideManifest, Imported, ModelManifest, write_manifest
from psld.training.model import build_guide, build_network, save_weights
from psld.training.settings import (
    TRAINING_RUN,
    RunSettings,
    TrainGuideSettings,
    TrainSettings,
)
from psld.utils.errors import UserError
from psld.utils.provenance import provenance


class ImportSettings(RunSettings):
    """Settings of both kinds of import: every setting of a training, and the file."""

    checkpoint: str
    """Path of the file that PyTorch Lightning wrote."""


class ImportModelSettings(TrainSettings, ImportSettings):
    kind: Literal["model"] = "model"
    weights: Literal["ema", "online"] = "ema"
    """The moving average, used in the paper's samples, or the network as trained."""


class ImportGuideSettings(TrainGuideSettings, ImportSettings):
    kind: Literal["guide"] = "guide"


RUN = TRAINING_RUN | {"checkpoint", "weights", "kind"}


@entry_point(
    "import",
    ImportModelSettings,
    records={"model": FromRecord(jobs.train, RUN)},
    bare="checkpoint",
)
def import_model(settings: ImportModelSettings) -> None:
    import_weights(settings, build_network, ModelManifest, settings.weights)


@entry_point(
    "import_guide",
    ImportGuideSettings,
    records={"guide": FromRecord(jobs.train_guide, RUN)},
    bare="checkpoint",
)
def import_guide(settings: ImportGuideSettings) -> None:
    # The official code keeps no moving average of a guide.
    import_weights(settings, build_guide, GuideManifest, "online")


def main() -> None:
    """Import a guide if the command line has `guide=` or `kind=guide`, else a model."""
    guide = any(word == "kind=guide" or word.startswith("guide=") for word in sys.argv[1:])
    (import_guide if guide else import_model)()


def import_weights(
    settings: ImportSettings,
    build: Callable[[Any, LinearProcess], nn.Module],
    kind: type[ModelManifest | GuideManifest],
    chosen: Literal["ema", "online"],
) -> None:
    """Load the chosen weights of the file into the network and write it as training does.

    Raises UserError, with a list, if any are missing, unexpected, of the wrong shape or not finite.
    """
    path = settings.checkpoint
    checkpoint = read_checkpoint(path)
    weights = checkpoint.ema if chosen == "ema" else checkpoint.online
    if weights is None:
        raise UserError(f"{path}: holds no moving average; use weights=online")
    broken = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise UserError(f"{path}: NaN or infinity in {', '.join(broken[:LISTED])}")
    network = build(settings, settings.process.build())
    try:
        network.load_state_dict(from_official(weights, network))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    digest, step = None, checkpoint.step
    if Path(settings.data).exists():
        digest = ImageStore.open_for(settings.data, settings.dataset).digest
    imported = Imported(file=Path(path).name, sha256=checkpoint.sha256, weights=chosen)
    manifest = kind(
        name=settings.name,
        grid=settings.grid_name,
        settings=settings.model(),
        dataset_digest=digest,
        step=step,
        images_seen=step and step * settings.training.batch_size,
        parameters=sum(p.numel() for p in network.parameters()),
        seconds=None,
        device=None,
        ranks=None,
        run=None,
        imported=imported,
        weights_sha256=save_weights(
            settings.output, network, imported.model_dump(exclude={"file"})
        ),
        **provenance(),
    )
    write_manifest(settings.output, manifest)
    print(f"wrote {settings.output}: {chosen} weights, step {step}")
