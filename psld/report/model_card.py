"""The model card of a model: its manifest and its results, as the README.md of a repository."""

from collections.abc import Iterator
from pathlib import Path

import yaml

from psld.grid import paths
from psld.metrics.results import CellResults
from psld.report.formats import markdown
from psld.report.table import TableText
from psld.training.manifest import ModelManifest


def model_card(manifest: ModelManifest, repository: str, license: str) -> str:
    """Return the card, in Markdown with the Hub's header.

    It has the results of the working directory that were measured with exactly these weights.
    """
    header = {"license": license, "library_name": "psld", "tags": ["diffusion", "psld"]}
    header["pipeline_tag"] = "unconditional-image-generation"
    facts = [[key, value] for key, value in _facts(manifest) if value]
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n# {manifest.name}",
        "A diffusion model of images, for a reference implementation of Phase Space Langevin "
        "Diffusion (K. Pandey and S. Mandt, ICCV 2023).",
        markdown(TableText("Model", ["", ""], [*facts, ["license of the weights", license]], 2)),
        # The package is on no index, and its name there may be somebody else's one day.
        f"### How to load\n\n```python\nimport psld  # in its checkout: pip install '.[hub]'\n\n"
        f'model = psld.load("hf://{repository}")\nimages = model.sample(16, seed=0)\n```',
        f"This loads the newest commit. `hf://{repository}@COMMIT`, with the hash of a commit, "
        "always loads the same weights. Digests are checked when a file is read.",
        _distances(manifest.weights_sha256),
        "### Settings that decide the weights\n\n```yaml\n"
        f"{yaml.safe_dump(manifest.settings.identity(), sort_keys=False)}```\n",
    ]
    return "\n\n".join(parts)


def _facts(manifest: ModelManifest) -> Iterator[tuple[str, str | None]]:
    settings, data, imported = manifest.settings, manifest.settings.dataset, manifest.imported
    training = [
        manifest.step is not None and f"{manifest.step:,} steps",
        manifest.images_seen is not None and f"{manifest.images_seen:,} images",
        manifest.seconds is not None and f"{manifest.seconds / 3600:.3g} h",
        manifest.device and f"{manifest.ranks} × {manifest.device}",
    ]
    shape = f"{data.channels}×{data.image_size}×{data.image_size}"
    yield "dataset", f"{data.name}: {shape}, {data.num_classes} classes"
    yield "digest of the dataset", manifest.dataset_digest
    yield "process", "every one" if settings.serves_every_process else settings.process.kind
    condition = "class-conditional" if settings.num_classes else "unconditional"
    yield "network", f"{manifest.parameters:,} parameters, {condition}"
    yield "training", ", ".join(filter(None, training))
    source = imported and f"{imported.file} ({imported.weights}), SHA-256 {imported.sha256}"
    yield "imported from a checkpoint of the official code", source
    yield "SHA-256 of the weights", manifest.weights_sha256
    yield "software", ", ".join(f"{k} {v}" for k, v in manifest.versions.items() if v)


def _distances(weights_sha256: str) -> str:
    """Return a table of the results that were measured with these weights, and no guide's."""
    lines = []
    for path in sorted(Path().glob(paths.cell_result("*", "*/*"))):
        if weights_sha256 not in path.read_text():  # Reading all results of the paper takes long.
            continue
        cell = "/".join(path.with_suffix("").parts[-3:])
        for r in CellResults.read(path).results:
            if r.model.weights_sha256 == weights_sha256 and r.guide is None:
                interval = "{1:.4g} to {2:.4g}".format(*r.estimate.interval)
                cost = [f"{r.samples:,}", f"{r.nfe:g}"]
                lines.append([cell, r.metric["name"], *cost, f"{r.value:.4g}", interval])
    columns = ["cell", "metric", "images", "evaluations per image", "value", "95 % interval"]
    covers = "The interval covers other samples of the same weights; not training again."
    text = TableText("Distances", columns, lines, notes=[covers])
    return markdown(text).strip() if lines else "No distances were measured."
