"""The records of a grid: the resolved settings of its jobs (docs/architecture.md).

The digest of a record covers the settings that determine the result. Settings that affect only how
the job runs, such as paths, device and batch size, are not part of the digest.
"""

from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, Generic, NamedTuple, Self

from psld.config.reads import Read
from psld.config.settings import S, Settings, groups_of
from psld.data.settings import PrepareSettings
from psld.diffusion.samplers import SamplerSettings
from psld.evaluation.settings import (
    FeatureFolders,
    ReferenceSettings,
    TrainExtractorSettings,
    decoder_for,
)
from psld.grid.members import Origin
from psld.models.manifest import TrainedManifest, imported_file, kind_of, read_manifest
from psld.models.settings import StartSettings
from psld.sampling.settings import SamplingRun
from psld.training.init import changed_sources, sources_exist
from psld.training.settings import TrainGuideSettings, TrainSettings
from psld.utils.errors import UserError
from psld.utils.files import digest_of


class Job(NamedTuple, Generic[S]):
    """A job: its settings, the digest of all inputs that determine its result, and the records of
    the networks and initial distributions that it uses."""

    settings: S
    digest: str
    uses: "tuple[TrainedRecord | StartRecord, ...]" = ()

    def check(self) -> None:
        """Raise UserError if a file that the job uses does not match its record."""
        for each in self.uses:
            each.check()


def dataset_digest(data: str) -> str:
    return str(PurePath(data).with_suffix(".digest"))


class DatasetRecord(Settings):
    settings: PrepareSettings

    @property
    def job(self) -> Job:
        return Job(self.settings, digest_of(self.settings.dataset.preparation()))

    @property
    def reads(self) -> list[str]:
        """The digest of the prepared dataset whose pictures become tensors, if any."""
        encoded = self.settings.dataset.source.encoded
        return [dataset_digest(f"data/{encoded}.h5")] if encoded else []


class TrainedRecord(Origin):
    """A network of a grid: trained, or imported from an official checkpoint."""

    settings: TrainSettings | TrainGuideSettings
    trained_with: str | None = None
    """For a model with `average_of`, the manifest of the model whose training computes this
    average."""

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def folder(self) -> str:
        return self.settings.output

    @property
    def manifest(self) -> str:
        return f"{self.folder}/manifest.json"

    @property
    def dataset(self) -> str:
        return self.settings.dataset.name

    @property
    def dataset_digest(self) -> str:
        return dataset_digest(self.settings.data)

    @cached_property
    def digest(self) -> str:
        return digest_of(self.settings.model().identity())

    @property
    def job(self) -> Job:
        return Job(self.settings, self.digest)

    @property
    def reads(self) -> list[str]:
        """The outputs of other jobs that the training reads, besides the dataset."""
        files = [file for each in groups_of(Read, self.settings) for file in each.files]
        return files + ([self.trained_with] if self.trained_with else [])

    def with_imported(self) -> Self:
        """Return the record with `checkpoint` set if the weights were imported by hand.

        No job trains such weights, and certificates state their checkpoint.
        """
        return self.model_copy(update={"checkpoint": self.checkpoint or imported_file(self.folder)})

    def read_manifest(self) -> TrainedManifest:
        """Read the manifest of the network. Raises UserError if it is missing or damaged."""
        return read_manifest(self.folder, kind_of(self.settings))

    def check(self) -> None:
        """Raise UserError if the network on disk does not match the record.

        The settings, the training images and the inputs of the training are compared. The images
        are not compared if they are unknown, as for some imported networks.
        """
        found, data = self.read_manifest(), Path(self.dataset_digest)
        images = data.read_text("utf-8", "replace").strip() if data.exists() else None
        stated, asked = found.settings.identity(), self.settings.model().identity()
        wrong = [key for key in asked | stated if asked.get(key) != stated.get(key)]
        if None not in (images, found.dataset_digest) and images != found.dataset_digest:
            wrong.append(f"images ({data})")
        if not found.imported and sources_exist(mine := self.settings.model()):
            changed = changed_sources(mine, found.settings)
            wrong += [f"source ({name} has changed)" for name in changed]
        if wrong:
            raise UserError(
                f"{self.manifest}: does not match the grid in its {', '.join(wrong)}; put the "
                f"grid's network there, or delete {self.folder} to recompute it"
            )


class ModelRecord(TrainedRecord):
    settings: TrainSettings


class GuideRecord(TrainedRecord):
    """A noise-conditional classifier that steers samplers."""

    settings: TrainGuideSettings


class SamplerRecord(Settings):
    family: str
    budget: str
    settings: SamplerSettings
    run: SamplingRun
    guide: str | None


class StartRecord(Settings):
    """A fitted initial distribution (`start`). Models with the same dataset and the same setting of
    `flip` share one initial distribution."""

    settings: StartSettings

    @property
    def file(self) -> str:
        return self.settings.path

    @property
    def job(self) -> Job:
        dataset, how = self.settings.dataset, self.settings.model_dump(include={"start", "classes"})
        return Job(self.settings, digest_of([dataset.preparation(), dataset.flip, how]))

    def check(self) -> None:
        """Raise UserError if the file on disk was fitted with different settings."""
        from psld.utils.tensors import load_tensors  # Deferred: not needed by Snakemake.

        if Path(self.file).exists():
            made = load_tensors(self.file, "start", "fit it again (psld start)").origin
            if made.get("settings") != self.settings.start.model_dump(mode="json"):
                raise UserError(
                    f"{self.file}: fitted with settings that differ from configs/start.yaml; "
                    "delete the file to recompute it"
                )


class FeaturesRecord(Settings):
    """The features that are used to compare samples with the images of a dataset."""

    reference: ReferenceSettings
    extractor: TrainExtractorSettings | None
    """The training of the extractor; None for a published extractor."""

    @property
    def manifest(self) -> str:
        return f"{self.reference.output}/manifest.json"

    @property
    def folders(self) -> FeatureFolders:
        extractor = self.extractor and self.extractor.output
        return FeatureFolders(reference=self.reference.output, extractor=extractor)

    @property
    def extractor_manifests(self) -> list[str]:
        """A list with the manifest of a trained extractor; empty for a published extractor."""
        return [f"{self.extractor.output}/manifest.json"] if self.extractor else []

    @property
    def reference_job(self) -> Job:
        metric, decode = self.reference.metric, self._decode
        content = [metric.extractor.identity(), metric.truncated_reference, *decode]
        return Job(self.reference, digest_of(content))

    @property
    def _decode(self) -> list[Any]:
        """The identity of the decoder whose pictures the extractor sees, if any."""
        decode = decoder_for(self.reference.dataset, self.reference.metric)
        return [decode.identity()] if decode else []

    @property
    def extractor_job(self) -> Job:
        """The job that trains the extractor. Raises UserError for a published extractor."""
        if self.extractor is None:
            name = self.reference.metric.features
            raise UserError(f"features={name}: the extractor is published, so it is not trained")
        decides = self.reference.metric.extractor.identity()
        return Job(self.extractor, digest_of([decides, *self._decode] if self._decode else decides))
