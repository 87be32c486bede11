"""Import a checkpoint of the official code (mandt-lab/PSLD): a model as if it were trained here.

    psld import_checkpoint FILE model=paper/cifar10-cld
    psld import_checkpoint FILE dataset=cifar10 process=cld network=cifar10-ablation

Nothing in the file but tensors and plain containers is read, and every parameter of the network
must be there with its shape, and no other.
"""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from psld.commands.entry import CONFIGS, entry_point
from psld.data.store import ImageStore
from psld.utils.errors import UserError
from psld.utils.files import sha256_of_file
from psld.grid.loading import expand_model
from psld.training.model import build_network, build_process, save_model
from psld.networks.official import LISTED, from_official
from psld.networks.official_checkpoint import OfficialCheckpoint, read_checkpoint
from psld.training.settings import RunSettings, TrainSettings


class ImportSettings(RunSettings):
    """What both imports have: every setting of a training, and the file."""

    checkpoint: str
    """The file, as PyTorch Lightning wrote it."""


class ImportCheckpointSettings(TrainSettings, ImportSettings):
    """Settings of `psld import_checkpoint`."""

    weights: Literal["ema", "online"]
    """The moving average, as the paper samples, or the network as it was trained."""


def name_the_file(arguments: list[str]) -> list[str]:
    """A leading FILE becomes the override `checkpoint=FILE`.

    The official files have `=` in their names, which an override takes in quotes alone.
    """
    first = arguments[0] if arguments else ""
    if Path(first).is_file() or (first.endswith(".ckpt") and not first.startswith("checkpoint=")):
        quoted = first.replace("\\", "\\\\").replace("'", "\\'")
        arguments = [f"checkpoint='{quoted}'", *arguments[1:]]
    return arguments


@entry_point(
    "import_checkpoint",
    ImportCheckpointSettings,
    rewrite=lambda given: expand_model(name_the_file(given), CONFIGS),
)
def main(settings: ImportCheckpointSettings) -> None:
    checkpoint = read_checkpoint(settings.checkpoint)
    weights = chosen_weights(checkpoint, settings)
    network = build_network(settings, build_process(settings))
    save_imported(settings, network, weights, settings.weights, checkpoint.step)


def save_imported(
    settings: ImportSettings,
    network: nn.Module,
    weights: dict[str, Tensor],
    kind: str,
    step: int | None,
) -> None:
    """Give the network the official weights and write it as training does.

    `kind` says which of the file's weights these are.
    """
    load_weights(network, weights, settings.checkpoint)
    store = ImageStore.open_for(settings.data, settings.dataset)
    manifest = {
        "name": settings.name,
        "grid": settings.grid_name,
        "settings": settings.model().model_dump(mode="json"),
        "dataset_digest": store.digest,
        "step": step,
        "images_seen": step and step * settings.training.batch_size,
        "parameters": sum(p.numel() for p in network.parameters()),
        "seconds": None,
        "device": None,
        "ranks": None,
        "run": None,
        "imported": {
            "file": Path(settings.checkpoint).name,
            "sha256": sha256_of_file(settings.checkpoint),
            "weights": kind,
        },
    }
    save_model(settings.output, network, manifest)
    print(f"wrote {settings.output}: {kind} weights, step {step}")


def chosen_weights(
    checkpoint: OfficialCheckpoint, settings: ImportCheckpointSettings
) -> dict[str, Tensor]:
    """Raises UserError where a moving average is asked for and there is none."""
    if settings.weights == "online":
        return checkpoint.online
    if checkpoint.ema is None:
        raise UserError(f"{settings.checkpoint}: holds no moving average; use weights=online")
    return checkpoint.ema


def load_weights(network: nn.Module, weights: dict[str, Tensor], path: str) -> None:
    """Give the network the official weights.

    Raises UserError that lists what is missing, unexpected, of the wrong shape, or not finite.
    """
    broken = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise UserError(f"{path}: NaN or infinity in {', '.join(broken[:LISTED])}")
    try:
        network.load_state_dict(from_official(weights, network))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


if __name__ == "__main__":
    main()
