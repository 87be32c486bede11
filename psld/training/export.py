"""Write the weights of a training, with all that decided them."""

from pathlib import Path
from typing import Any, cast

from torch import nn

from psld.config.settings import write_record
from psld.data.store import ImageStore
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
    """Write weights, with all that decided them, and last their manifest, which has `more`.

    The dataset of a model that was not trained here may not be prepared: then `store` is None.
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
        step=step,
        images_seen=step and step * settings.training.batch_size,
        parameters=sum(p.numel() for p in network.parameters()),
        deviation=getattr(network, "data_deviation", 1.0),
        weights_sha256=save_tensors(path, "weights", network.state_dict(), origin),
        **more,
        **provenance(),
    )
    write_record(Path(folder) / MANIFEST, manifest)
