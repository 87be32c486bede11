"""The records of a grid: everything that its jobs need, resolved once. Imports no torch.

A record has two parts: what decides the result, which has a digest, and how the job runs (paths,
device, batch size). The rules pass the digest, so changing the first part reruns the job, and
changing the second part reruns nothing. A job looks its record up and has its settings.
"""

from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

from psld.config.settings import Settings
from psld.data.settings import PrepareSettings
from psld.diffusion.samplers import SamplerSettings
from psld.diffusion.settings import ProcessSettings
from psld.grid import paths
from psld.metrics.settings import FeatureFolders, ReferenceSettings, TrainExtractorSettings
from psld.sampling.settings import SamplingRun
from psld.training.manifest import (
    GuideManifest,
    ModelManifest,
    TrainedManifest,
    read_manifest,
)
from psld.training.settings import TrainGuideSettings, TrainSettings
from psld.utils.errors import UserError
from psld.utils.files import digest_of, retried_in_slurm


class Job(NamedTuple):
    """The settings of one job, the digest of what decides its result, and the networks it uses."""

    settings: Settings
    digest: str
    networks: "tuple[_Trained, ...]" = ()

    def check(self) -> None:
        """Check that the networks that are there are those of the records.

        Raises UserError, too, if a manifest is missing or damaged.
        """
        for each in self.networks:
            each.check()


class Dataset(Settings):
    """A dataset of a grid."""

    settings: PrepareSettings

    @property
    def job(self) -> Job:
        return Job(self.settings, digest_of(self.settings.dataset.preparation()))


class _Trained(Settings):
    """A network of a grid: trained, or imported from an official checkpoint."""

    kind: ClassVar[type[TrainedManifest]]
    settings: TrainSettings | TrainGuideSettings
    checkpoint: str | None = None
    of: str | None = None
    """The grid that trains it, if it is another one."""
    weights: str | None = None
    """The denoiser whose training it shares; its own settings have another process."""

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
        """The name of its dataset."""
        return self.settings.dataset.name

    @property
    def dataset_digest(self) -> str:
        """The path of that dataset's digest."""
        return paths.digest(self.settings.data)

    @cached_property
    def digest(self) -> str:
        return digest_of(self.settings.model().identity())

    @property
    def is_trained_elsewhere(self) -> bool:
        return bool(self.of or self.weights)

    @property
    def job(self) -> Job:
        return Job(self.settings, self.digest)

    def read_manifest(self) -> TrainedManifest:
        """Read the manifest in its folder. Raises UserError if it is missing or damaged."""
        return read_manifest(self.folder, self.kind)

    @retried_in_slurm
    def check(self) -> None:
        """Check that what is in its folder has its settings and its dataset, at any step.

        Of an imported network, the dataset may not be known. Raises UserError.
        """
        found, data = self.read_manifest(), Path(self.dataset_digest)
        images = data.read_text("utf-8", "replace").strip() if data.exists() else None
        stated, mine = found.settings.identity(), self.settings.model().identity()
        wrong = [key for key in mine | stated if mine.get(key) != stated.get(key)]
        if None not in (images, found.dataset_digest) and images != found.dataset_digest:
            wrong.append(f"images ({data})")
        if wrong:
            raise UserError(
                f"{self.manifest}: of another network, by its {', '.join(wrong)}; put the grid's "
                f"own there, or delete {self.folder} to have it made again"
            )


class Model(_Trained):
    """A model of a grid."""

    kind = ModelManifest
    settings: TrainSettings

    @property
    def sampled_as(self) -> ProcessSettings | None:
        """The process that a denoiser is sampled as; None for a network of one process."""
        return self.settings.process if self.settings.serves_every_process else None


class Guide(_Trained):
    """A noise-conditional guide of a grid."""

    kind = GuideManifest
    settings: TrainGuideSettings


class Sampler(Settings):
    """A sampler of a grid with its budget."""

    family: str
    budget: str
    settings: SamplerSettings
    run: SamplingRun
    guide: str | None
    """Name of its guide in the grid."""

    @property
    def guidance(self) -> str:
        return self.settings.guidance.kind


class Features(Settings):
    """The features in which the samples of a dataset are compared with its images."""

    reference: ReferenceSettings
    extractor: TrainExtractorSettings | None
    """The training of the extractor; None for a published one."""

    @property
    def manifest(self) -> str:
        return f"{self.reference.output}/manifest.json"

    @property
    def folders(self) -> FeatureFolders:
        extractor = self.extractor and self.extractor.output
        return FeatureFolders(reference=self.reference.output, extractor=extractor)

    @property
    def extractor_manifests(self) -> list[str]:
        """The manifest of a trained extractor, if it is one."""
        return [f"{self.extractor.output}/manifest.json"] if self.extractor else []

    @property
    def reference_job(self) -> Job:
        metric = self.reference.metric
        decides = [metric.extractor.identity(), metric.truncated_reference]
        return Job(self.reference, digest_of(decides))

    @property
    def extractor_job(self) -> Job:
        """The training of the extractor. Raises UserError for a published one."""
        if self.extractor is None:
            name = self.reference.metric.features
            raise UserError(f"features={name}: the extractor is published, so it is not trained")
        return Job(self.extractor, digest_of(self.reference.metric.extractor.identity()))
