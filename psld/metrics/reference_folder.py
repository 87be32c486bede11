"""A metric's reference on disk: statistics, features if needed, and (written last) the manifest."""

from pathlib import Path
from typing import Any

from psld.config.settings import Settings, parse
from psld.metrics.features import Features
from psld.metrics.measure import Reference
from psld.metrics.settings import MetricSettings
from psld.metrics.statistics import FeatureStatistics
from psld.utils.errors import UserError
from psld.utils.files import read_json, sha256_of_file, write_json

STATISTICS = "statistics.safetensors"
FEATURES = "features.safetensors"
TEST_FEATURES = "test_features.safetensors"
MANIFEST = "manifest.json"


class ReferenceManifest(Settings):
    """The record of a reference: its metric and data, and the scale of the metric."""

    metric: MetricSettings
    """The metric, including the reference split."""
    dataset: str
    """Name of the dataset."""
    dataset_digest: str
    """Digest of the dataset's pixels and labels."""
    samples: int
    """Images in the reference."""
    statistics_sha256: str
    """SHA-256 of `statistics.safetensors`."""
    features_sha256: str | None = None
    """SHA-256 of `features.safetensors`; null if no metric needs more than statistics."""
    test_features_sha256: str | None = None
    """SHA-256 of `test_features.safetensors`, needed for memorization; else null."""
    extractor_digest: str
    """Digest of the extractor's architecture and weights."""
    extractor_test_accuracy: float | None
    """A classifier's test accuracy; null for other extractors and without a test split."""
    floor: float | None
    """The metric of the test split; null without one. Samples can hardly be better."""
    noise: float
    """The metric of standard normal noise, quantized as samples are."""
    device: str
    """The device of the computation."""
    versions: dict[str, str | None]
    """Versions of the software."""
    precision: dict[str, Any]
    """Flags of torch that change how floats are rounded."""
    git_revision: str | None
    """Revision of the code; null outside a checkout."""


def save_statistics(folder: str | Path, statistics: FeatureStatistics) -> str:
    """Write the statistics and return the SHA-256 of the file."""
    path = Path(folder) / STATISTICS
    statistics.save(path)
    return sha256_of_file(path)


def save_reference_manifest(folder: str | Path, manifest: ReferenceManifest) -> None:
    """Write the manifest, which completes the folder."""
    write_json(Path(folder) / MANIFEST, manifest.model_dump(mode="json"))


def load_reference(folder: str | Path) -> tuple[FeatureStatistics, ReferenceManifest]:
    """Read a reference. Raises UserError if a file is missing, damaged or foreign."""
    folder = Path(folder)
    content = read_json(folder / MANIFEST)
    if not isinstance(content, dict):
        raise UserError(f"{folder / MANIFEST}: not the manifest of a reference; make it again")
    manifest = parse(ReferenceManifest, content, where=str(folder / MANIFEST))
    statistics = FeatureStatistics.load(folder / STATISTICS)
    if sha256_of_file(folder / STATISTICS) != manifest.statistics_sha256:
        raise UserError(
            f"{folder / STATISTICS}: not the file that its manifest names; make the reference again"
        )
    return statistics, manifest


def load_reference_features(folder: str | Path, manifest: ReferenceManifest) -> Reference:
    """Read a reference with its features, if any, for any measure.

    Raises UserError if a file is missing, damaged or not the one in the manifest.
    """
    folder = Path(folder)
    digests = {FEATURES: manifest.features_sha256, TEST_FEATURES: manifest.test_features_sha256}
    features, test = (
        None if digest is None else Features.load(folder / name, digest)
        for name, digest in digests.items()
    )
    return Reference(load_reference(folder)[0], features, test)
