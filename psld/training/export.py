"""Write the weights of a model with their manifest."""

from pathlib import Path
from typing import Any, cast

from torch import nn

from psld.config.settings import write_record
from psld.data.store import ImageStore
from psld.data.units import BYTES
from psld.models.manifest import MANIFEST, WEIGHTS, kind_of
from psld.training.settings import RunSettings
from psld.utils.device import provenance
from psld.utils.tensors import save_tensors


def write_model(
    folder: str | Path,
    settings: RunSettings,
    network: nn.Module,
    store: ImageStore | None,
    step: int | None,
    **more: Any,
) -> None:
    """Write the weights, and then the manifest, which records all inputs of the training.

    Args:
        store: the prepared dataset; None for an external model whose dataset is not prepared.
        step: the number of training steps; None if unknown.
        more: additional fields of the manifest.
    """
    origin = settings.origin(store and store.digest)
    if imported := more.get("imported"):
        origin = imported.model_dump(exclude={"file"})
    path = Path(folder) / WEIGHTS
    manifest = kind_of(settings)(
        name=settings.name,
        grid=settings.grid_name,
        settings=cast(Any, settings.model()),
        dataset_digest=store and store.digest,
        class_names=store.class_names if store else (),
        units=store.units if store else BYTES,
        step=step,
        images_seen=step and step * settings.training.batch_size,
        parameters=sum(p.numel() for p in network.parameters()),
        deviation=getattr(network, "data_deviation", 1.0),
        weights_sha256=save_tensors(path, "weights", network.state_dict(), origin),
        **more,
        **provenance(),
    )
    write_record(Path(folder) / MANIFEST, manifest)
