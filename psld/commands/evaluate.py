"""Evaluate a cell: the distance of its first `samples` images from the reference.

    psld evaluate model=models/demo/cld sampler=em sampler.steps=50 \\
        shards=samples/demo/cld/em-uniform-50 samples=1000 metric=fd-classifier \\
        reference=features/digits/fd-classifier/reference extractor=features/digits/fd-classifier \\
        output=result.json
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from psld.commands.entry import entry_point
from psld.utils.device import choose_device
from psld.utils.errors import UserError
from psld.utils.files import write_json
from psld.metrics.extractor_training import accuracy
from psld.metrics.extractor import Extractor, batches_of, statistics_of
from psld.metrics.extractor_folder import load_extractor
from psld.metrics.feature_classifier import ClassifierExtractor
from psld.metrics.frechet import frechet_distance
from psld.metrics.reference_folder import ReferenceManifest, load_reference
from psld.metrics.settings import MetricSettings
from psld.training.model import read_manifest
from psld.utils.provenance import provenance
from psld.sampling.origin import origin_of
from psld.sampling.settings import CellSettings
from psld.sampling.shards import Shard, read_shards
from psld.config.settings import parse
from psld.training.settings import GuideModelSettings, ModelSettings


class EvaluateSettings(CellSettings):
    """Settings of `psld evaluate`."""

    shards: str
    """Folder of the cell's shards."""
    samples: int = Field(ge=2)
    """How many images count: the first ones of the cell."""
    metric: MetricSettings
    reference: Path
    """Folder that psld.reference made."""
    extractor: Path | None
    """Folder that psld.train_extractor made; null for Inception."""
    output: str
    """The result, JSON."""


@entry_point("evaluate", EvaluateSettings)
def main(settings: EvaluateSettings) -> None:
    model = trained("model", settings.model)
    guide = settings.guide and trained("guide", settings.guide)
    statistics, reference = load_reference(settings.reference)
    extractor = load_extractor(
        settings.metric,
        settings.extractor,
        reference.dataset_digest,
        choose_device(settings.device),
    )
    check_reference(settings, reference, extractor, model)
    origin = origin_of(settings, 0)
    seen: list[Shard] = []
    recognised: list[float] = []

    def batches() -> Iterator[Tensor]:
        for shard in read_shards(settings.shards, settings.samples, origin, settings.model):
            yield from batches_of(shard.images, settings.metric.batch_size)
            if shard.labels is not None and isinstance(extractor, ClassifierExtractor):
                recognised.append(images_recognised(shard, extractor, settings.metric.batch_size))
            seen.append(shard.first(0))

    samples = statistics_of(extractor, batches(), settings.metric.name, settings.samples)
    value = frechet_distance(samples, statistics)
    class_accuracy = sum(recognised) / settings.samples if recognised else None
    write_json(
        settings.output,
        {
            "metric": settings.metric.model_dump(mode="json", exclude_none=True),
            "value": value,
            "class_accuracy": class_accuracy,
            "samples": settings.samples,
            "nfe": sum(shard.nfe for shard in seen) / len(seen),
            "sampling_seconds": round(sum(shard.seconds for shard in seen), 3),
            "sampling_device": ", ".join(sorted({shard.device for shard in seen})),
            "floor": reference.floor,
            "noise": reference.noise,
            "extractor_test_accuracy": reference.extractor_test_accuracy,
            "reference_samples": reference.samples,
            "model": model,
            "guide": guide,
            "sampler": settings.sampler.model_dump(mode="json", exclude_none=True),
            "seed": settings.seed,
            **provenance(),
        },
    )
    print(f"{settings.metric.name} of {settings.samples} images: {value:.4g}")


def trained(kind: Literal["model", "guide"], folder: str) -> dict[str, Any]:
    """What a result tells of the model, or of the guide, that it comes from."""
    manifest = read_manifest(folder, kind)
    schema = {"model": ModelSettings, "guide": GuideModelSettings}[kind]
    settings = parse(schema, manifest["settings"], where=f"{folder}/manifest.json")
    kept = {key: manifest[key] for key in ("name", "weights_sha256", "dataset_digest", "step")}
    return {**kept, "settings": settings.identity()}


def images_recognised(shard: Shard, extractor: ClassifierExtractor, batch_size: int) -> float:
    """How many images of a shard the metric's classifier gives the class they were guided to."""
    return accuracy(extractor, shard.images, shard.labels, batch_size) * len(shard.images)


def check_reference(
    settings: EvaluateSettings,
    reference: ReferenceManifest,
    extractor: Extractor,
    model: dict[str, Any],
) -> None:
    """UserError when the reference is of another metric, extractor or dataset."""
    if reference.metric != settings.metric or reference.extractor_digest != extractor.digest:
        raise UserError(
            f"{settings.reference}: made with another metric or extractor than "
            f"{settings.metric.name} has now; run psld.reference anew"
        )
    if reference.dataset_digest != model["dataset_digest"]:
        raise UserError(
            f"{settings.reference}: of dataset {reference.dataset} with digest "
            f"{reference.dataset_digest[:12]}, but {settings.model} was trained on "
            f"{model['dataset_digest'][:12]}"
        )


if __name__ == "__main__":
    main()
