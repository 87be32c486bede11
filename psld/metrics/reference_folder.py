"""A metric's reference on disk: `statistics.safetensors` and, written last, `manifest.json`."""

from pathlib import Path

from pydantic import Field

from psld.config.settings import Settings, parse
from psld.metrics.settings import MetricSettings
from psld.metrics.statistics import FeatureStatistics
from psld.utils.errors import UserError
from psld.utils.files import read_json, sha256_of_file, write_json

STATISTICS = "statistics.safetensors"
MANIFEST = "manifest.json"


class ReferenceManifest(Settings):
    """What the reference statistics are of, and the scale of the metric."""

    metric: MetricSettings
    """The metric, reference split included."""
    dataset: str
    """Name of the dataset."""
    dataset_digest: str
    """Digest of the dataset's pixels and labels."""
    samples: int
    """Images in the reference."""
    statistics_sha256: str
    """Of `statistics.safetensors`."""
    extractor_digest: str
    """Architecture and weights of the extractor."""
    extractor_test_accuracy: float | None
    """Of a classifier; null for Inception and without a test split."""
    floor: float | None = Field(ge=0)
    """Distance between the training and the test split; null where there is no test split."""
    noise: float = Field(ge=0)
    """Distance of standard normal noise, quantised as samples are, from the reference."""
    device: str
    """What it was computed on."""
    versions: dict[str, str]
    """Of the software."""
    git_revision: str | None
    """Of the code; null outside a checkout."""


def save_statistics(folder: str | Path, statistics: FeatureStatistics) -> str:
    """Write the statistics and return the SHA-256 of the file."""
    path = Path(folder) / STATISTICS
    statistics.save(path)
    return sha256_of_file(path)


def save_reference_manifest(folder: str | Path, manifest: ReferenceManifest) -> None:
    """Write the manifest: after this the folder is complete."""
    write_json(Path(folder) / MANIFEST, manifest.model_dump(mode="json"))


def load_reference(folder: str | Path) -> tuple[FeatureStatistics, ReferenceManifest]:
    """Read a reference. Raises UserError when a file is missing, damaged or foreign."""
    folder = Path(folder)
    content = read_json(folder / MANIFEST)
    if not isinstance(content, dict):
        raise UserError(f"{folder / MANIFEST}: not the manifest of a reference; make it anew")
    manifest = parse(ReferenceManifest, content, where=str(folder / MANIFEST))
    statistics = FeatureStatistics.load(folder / STATISTICS)
    if sha256_of_file(folder / STATISTICS) != manifest.statistics_sha256:
        raise UserError(
            f"{folder / STATISTICS}: not the file that its manifest names; make the reference anew"
        )
    return statistics, manifest
