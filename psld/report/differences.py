"""The comparisons of a certificate: with what is computed again, a grid, references, itself."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from torch import Tensor

from psld.grid.cells import Grid
from psld.grid.rows import entries_in
from psld.metrics.measure import Reference
from psld.metrics.reference_folder import ReferenceManifest
from psld.sampling.settings import sampler_content

ROUNDING = 1e-6
"""The largest relative difference of a recomputed number: other machines round differently."""

FEATURE_ROUNDING = 1e-4
"""The largest distance of two references, relative to the spread of their features. Other batch
sizes and threads make 4e-7, bfloat16 makes 7e-3 (docs/notes/intervals.md)."""

UNCOMPARED = {"title", "question", "gallery", "figures", "batch_size", "shards_per_job"}
UNCOMPARED |= {"caption", "footnotes"}
"""Keys of a grid, and of its tables, that decide no number."""

RESOLVED = {"defaults", "metric", "samples", "models", "guides", "samplers", "tables"}
RESOLVED |= {"cell", "rows", "columns"}
"""Those that are compared by what they resolve to."""

LoadedReference = tuple[Reference, ReferenceManifest]


def differences(right: Any, stated: Any, key: str = "", word: str = "recomputed") -> Iterator[str]:
    """Yield where two contents differ by more than rounding: `KEY is X, recomputed Y`."""
    if isinstance(right, list) and isinstance(stated, list) and len(right) == len(stated):
        right, stated = dict(enumerate(right)), dict(enumerate(stated))
    if isinstance(right, dict) and isinstance(stated, dict):
        for name in {**right, **stated}:
            where = f"{key}.{name}".removeprefix(".")
            yield from differences(right.get(name), stated.get(name), where, word)
        return
    try:
        holds = math.isclose(float(right), float(stated), rel_tol=ROUNDING, abs_tol=1e-9)
    except (TypeError, ValueError):
        holds = right == stated
    if not holds:
        yield f"{key} is {_text(stated)}, {word} {_text(right)}"


def _text(value: Any) -> str:
    whole = {type(None): "absent", dict: "present"}.get(type(value)) or str(value)
    return " ".join(whole.split())[:60]


def parts_of(grid: Grid) -> dict[str, Any]:
    """Return everything that decides a grid's numbers and verdicts, by the names of its parts."""
    file = grid.file
    parts = {"grid": file.model_dump(mode="json", exclude=UNCOMPARED | RESOLVED)}
    for kind, records in (("models", grid.models), ("guides", grid.guides)):
        for name, record in records.items():
            process = record.settings.process.model_dump(mode="json")
            identity = record.settings.model().identity()
            checkpoint = record.checkpoint and PurePath(record.checkpoint).name
            parts[f"{kind}.{name}"] = identity | {"process": process, "checkpoint": checkpoint}
    for name, sampler in grid.samplers.items():
        parts[f"samplers.{name}"] = sampler_content(sampler.settings) | {"guide": sampler.guide}
    for name, metric in grid.metrics.items():
        parts[f"metrics.{name}"] = metric.identity()
    for name, dataset in grid.datasets.items():
        parts[f"datasets.{name}"] = dataset.settings.dataset.preparation()
    for name, table in file.tables.items():
        parts[f"tables.{name}"] = table.model_dump(mode="json", exclude=UNCOMPARED | RESOLVED)
        for entry in entries_in(grid, name):
            key = f"tables.{name}: {entry.label}"
            while key in parts:  # rows may have equal labels
                key += " (again)"
            row = entry.row.model_dump(include={"source", "literature"})
            parts[key] = {"paper": entry.paper, **entry.shown.model_dump(), **row}
    return parts


def reference_differences(
    yours: LoadedReference, features: Reference | None, manifest: ReferenceManifest
) -> Iterator[str]:
    """Yield where a certificate's reference differs from the reader's by more than rounding."""
    facts = {"dataset_digest", "images", "extractor_digest", "extractor_test_accuracy"}
    pair = (each.model_dump(include=facts) for each in (yours[1], manifest))
    found = list(differences(*pair, word="in yours"))
    yield from found
    if features is None or found:  # Features of another network cannot be compared.
        return
    right, stated = (_arrays(each) for each in (yours[0], features))
    for name in {**right, **stated}:
        distance = relative_distance(right.get(name), stated.get(name))
        if not distance <= FEATURE_ROUNDING:  # NaN differs, too
            limit = f"{FEATURE_ROUNDING:.0e} is allowed"
            yield f"{name}: the distance from yours is {distance:.1e} of the spread, {limit}"


def _arrays(reference: Reference) -> dict[str, Tensor]:
    parts = {part: features for part, features in reference._asdict().items() if features}
    return {f"{part}.{name}": x for part in parts for name, x in parts[part].tensors().items()}


def relative_distance(yours: Tensor | None, stated: Tensor | None) -> float:
    """Return ‖yours − stated‖ / ‖yours − mean‖ of features, n×d; infinity for other shapes."""
    if yours is None or stated is None or yours.shape != stated.shape:
        return math.inf
    yours, stated = yours.double(), stated.double()
    spread = (yours - yours.mean(dim=0)).norm().clamp(min=1e-30)
    return ((yours - stated).norm() / spread).item()


def rows_of(features: Tensor) -> list[int]:
    """Return a hash of the features of each image, n×d."""
    return [hash(row.tobytes()) for row in features.contiguous().numpy()]


def equal_features(rows: Mapping[str, list[int]]) -> Iterator[str]:
    """Yield which sets of images, with these `rows_of`, share features exactly or repeat theirs."""
    owners: dict[int, str] = {}
    for name, hashes in rows.items():
        different = set(hashes)
        if len(different) < len(hashes):
            yield f"{name}: {len(hashes) - len(different)} of {len(hashes)} repeat another"
        shared = Counter(owners[row] for row in hashes if row in owners)
        for other, count in shared.items():
            yield f"{name}: {count} of {len(hashes)} are exactly those of {other}"
        owners |= dict.fromkeys(different - owners.keys(), name)
